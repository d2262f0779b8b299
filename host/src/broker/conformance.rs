//! One suite for every broker: what the port's contract promises, as test cases.
//!
//! [`broker_conformance!`](crate::broker_conformance) makes a test of each case. Cases wait for states, never for a time
//! to pass, and use agents of their own, so they can share a broker and run at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken expectation ends the test"
)]

mod delivery;
mod order;
mod publishing;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;

pub use delivery::*;
pub use order::*;
pub use publishing::*;

use crate::delivery::envelope::headers;
use crate::delivery::{Broker, Consumer, Delivery, HeaderValue, Message, QueueDepth, Route};
use crate::task::AgentName;

/// A broker under test, and the ways around the port that a test needs.
#[async_trait::async_trait]
pub trait Fixture: Send + Sync {
    /// The broker.
    fn broker(&self) -> &dyn Broker;
    /// An agent that no other test uses, not declared yet.
    fn agent(&self) -> AgentName;
    /// Opens a reply queue that no other test uses: its routing key and what arrives.
    async fn reply_queue(&self) -> (String, mpsc::Receiver<Message>);
    /// Takes the oldest dead letter of an agent, waiting for one.
    async fn dead_letter(&self, agent: &AgentName) -> Message;
    /// Removes what the test made.
    async fn clean_up(&self);
}

/// Longest wait for anything: only a broken broker comes near it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits, and fails the test where it takes forever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("still waiting after {PATIENCE:?}: {what}"))
}

/// How often [`wait_until`] looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks again and again until there is something to see; fails the test where that takes forever.
pub async fn wait_until<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    within(what, keep_looking(look)).await
}

/// The same without a limit, for who can say more than that it took forever.
pub async fn keep_looking<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> T {
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// An agent whose queues exist.
async fn declared(fixture: &dyn Fixture) -> AgentName {
    let agent = fixture.agent();
    fixture.broker().declare(&agent).await.unwrap();
    agent
}

async fn publish(fixture: &dyn Fixture, agent: &AgentName, id: &str) {
    fixture.broker().publish(Route::Agent(agent.clone()), message(id)).await.unwrap();
}

fn message(id: &str) -> Message {
    Message { message_id: Some(id.to_owned()), body: format!("body of {id}").into(), ..Message::default() }
}

/// A message whose task is to run in turn with others of its key.
#[must_use]
pub fn keyed(key: &str, id: &str) -> Message {
    let mut message = message(id);
    message.headers.insert(headers::PARTITION_KEY.to_owned(), key.into());
    message
}

/// A message that uses every property and every kind of header.
fn full_message() -> Message {
    let headers = BTreeMap::from([
        ("bool".to_owned(), HeaderValue::Bool(true)),
        ("int".to_owned(), HeaderValue::Int(-5)),
        ("float".to_owned(), HeaderValue::Float(0.5)),
        ("text".to_owned(), HeaderValue::Text("ä\nb".to_owned())),
        ("bytes".to_owned(), HeaderValue::Bytes(vec![0xff, 0].into())),
        ("time".to_owned(), HeaderValue::Timestamp(1_700_000_000_000)),
        ("list".to_owned(), HeaderValue::List(vec![HeaderValue::Int(1), HeaderValue::Void])),
        ("table".to_owned(), HeaderValue::Table(BTreeMap::from([("k".to_owned(), "v".into())]))),
    ]);
    Message {
        message_id: Some("id-1".to_owned()),
        correlation_id: Some("correlation".to_owned()),
        reply_to: Some("somewhere".to_owned()),
        content_type: Some("text/plain".to_owned()),
        kind: Some("a type".to_owned()),
        timestamp_ms: Some(1_700_000_000_000),
        expiration: None,
        headers,
        body: (0..=255).collect::<Vec<u8>>().into(),
    }
}

async fn consume(fixture: &dyn Fixture, agent: &AgentName, prefetch: u16) -> Consumer {
    let mut consumer = fixture.broker().consume(agent, prefetch).await.unwrap();
    within("the consumer to be live", consumer.live.wait_for(|live| *live)).await.unwrap();
    consumer
}

async fn next(consumer: &mut Consumer) -> Delivery {
    within("a delivery", consumer.deliveries.recv()).await.expect("a delivery, not the end")
}

/// A message without the count of earlier deliveries, which some brokers add on the way.
#[must_use]
pub fn as_sent(message: &Message) -> Message {
    let mut message = message.clone();
    message.headers.remove("x-delivery-count");
    message
}

fn id(delivery: &Delivery) -> String {
    delivery.message.message_id.clone().unwrap()
}

/// Waits until an agent's queues hold so much.
pub async fn until_depth(broker: &dyn Broker, agent: &AgentName, wanted: QueueDepth) {
    let look = || async { (broker.depth(agent).await.unwrap() == wanted).then_some(()) };
    wait_until(&format!("{wanted:?}"), look).await;
}

/// Makes a test of every case: `broker_conformance!(expression that makes a Fixture)`, which may `.await`.
#[macro_export]
macro_rules! broker_conformance {
    ($fixture:expr) => {
        $crate::broker_conformance!(@cases $fixture;
            a_message_arrives_as_it_was_sent
            a_large_body_arrives
            messages_arrive_in_order
            what_no_queue_takes_is_unroutable
            every_message_gets_its_own_verdict
            results_reach_their_reply_queue
            dead_letters_are_kept
            unwanted_dead_letters_are_removed
            a_delay_is_never_early
            an_expired_message_arrives_with_its_deadline
            prefetch_bounds_what_is_unsettled
            a_prefetch_full_arrives_whole
            a_handed_back_delivery_comes_again
            a_dropped_receipt_comes_back
            what_a_stopped_consumer_left_goes_to_another
            receipts_outlive_the_stop
            consumers_share_a_queue
            acknowledgements_in_any_order_all_count
            tasks_of_a_key_run_one_at_a_time_in_order
            a_keyed_task_comes_after_its_delay
            a_keyed_task_that_expired_arrives_with_its_deadline
            a_closed_broker_does_nothing
        );
    };
    (@cases $fixture:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                use $crate::broker::conformance::{self, Fixture as _};
                let fixture = $fixture;
                let case = std::panic::AssertUnwindSafe(conformance::$case(&fixture));
                let ended = futures::FutureExt::catch_unwind(case).await;
                fixture.clean_up().await;
                if let Err(panic) = ended {
                    std::panic::resume_unwind(panic);
                }
            }
        )*
    };
}
