//! What lies in the broker's queues, asked directly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties};
use serde::Deserialize;

use crate::work::AGENT;

/// The steps of the first delay queues, and the longest that the tasks here or a host's own retries use.
const DELAY_STEP_MS: u64 = 250;
const DELAY_MAX_MS: u64 = 6_000;
/// How long the next message is waited for, of those that the broker says are there.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long an answer of the broker's is waited for. Asked for queues that are not there, it closes channel after channel,
/// and the driver may wait for one of them without end.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How many of them are on their way at once.
const PREFETCH: u16 = 500;

/// The queue where senders await their results.
pub(crate) const RESULTS: &str = "chaos.results";

/// A dead letter, as it lies in its queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The label of its task; the message's id where the body names none.
    pub(crate) label: String,
    /// What it says of its task: its id, why it failed, how many attempts it used, and how often it had been redriven.
    pub(crate) id: String,
    pub(crate) reason: String,
    pub(crate) attempts: i64,
    pub(crate) generation: i32,
}

/// The result of a task, as its sender gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) correlation_id: String,
    /// The outcome's name.
    pub(crate) outcome: String,
    pub(crate) body: Vec<u8>,
}

/// A connection past the relay.
pub(crate) struct Queues {
    connection: Connection,
}

/// The agent's queue of dead letters.
fn dead() -> String {
    format!("agent.{AGENT}.dead")
}

async fn answered<T>(asking: impl Future<Output = T>) -> Result<T> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, asking).await;
    answer.with_context(|| format!("the broker gave no answer within {} s", ANSWER_LIMIT.as_secs()))
}

impl Queues {
    /// Connects.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let connection = answered(Connection::connect(url, ConnectionProperties::default())).await?;
        Ok(Self { connection: connection.context("the broker cannot be asked what lies in its queues")? })
    }

    /// Queues that should be empty when all is done, and are not, with what is ready in them.
    pub(crate) async fn left(&self) -> Result<BTreeMap<String, u32>> {
        let delays = (1..=DELAY_MAX_MS / DELAY_STEP_MS).map(|step| format!("agents.delay.{}ms", step * DELAY_STEP_MS));
        let mut left = BTreeMap::new();
        for queue in [format!("agent.{AGENT}"), "agents.expired".to_owned()].into_iter().chain(delays) {
            match answered(self.ready(&queue)).await?? {
                Some(count) if count > 0 => left.insert(queue, count),
                _ => None,
            };
        }
        Ok(left)
    }

    /// How many messages are ready in a queue; nothing where there is no such queue.
    async fn ready(&self, queue: &str) -> Result<Option<u32>> {
        // Asking for a queue that is not there closes the channel.
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(queue) => {
                channel.close(200, "asked".into()).await?;
                Ok(Some(queue.message_count()))
            }
            Err(error) if self.connection.status().connected() => {
                drop(error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the queue where senders await their results.
    pub(crate) async fn make_results(&self) -> Result<()> {
        let channel = self.connection.create_channel().await?;
        let mut arguments = FieldTable::default();
        // It is to survive whatever the others survive.
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(RESULTS.into(), options, arguments).await.context("no queue for results")?;
        Ok(())
    }

    /// Takes all dead letters.
    pub(crate) async fn take_dead_letters(&self) -> Result<Vec<Letter>> {
        let letters = self.take(&dead()).await?;
        Ok(letters.iter().map(letter).collect())
    }

    /// Takes all results.
    pub(crate) async fn take_results(&self) -> Result<Vec<Answer>> {
        let results = self.take(RESULTS).await?;
        Ok(results.into_iter().map(answer).collect())
    }

    /// Takes what lies in a queue.
    async fn take(&self, queue: &str) -> Result<Vec<Delivery>> {
        let mut taken = Vec::new();
        let channel: Channel = self.connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let count = self.ready(queue).await?.unwrap_or(0);
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = channel.basic_consume(queue.into(), "audit".into(), options, arguments).await?;
        for _ in 0..count {
            let delivery = tokio::time::timeout(DELIVERY_LIMIT, consumer.next()).await;
            let delivery = delivery.with_context(|| format!("{queue}: a message does not come"))?;
            let delivery = delivery.with_context(|| format!("{queue}: it ends early"))??;
            delivery.ack(BasicAckOptions::default()).await?;
            taken.push(delivery);
        }
        Ok(taken)
    }
}

fn letter(delivery: &Delivery) -> Letter {
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    let number = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongLongInt(value)) => *value,
        Some(AMQPValue::LongInt(value)) => i64::from(*value),
        _ => 0,
    };
    let reason = match headers.inner().get("x-error-type") {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    };
    let id = delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
    Letter {
        label: label(&delivery.data).unwrap_or_else(|| id.clone()),
        id,
        reason,
        attempts: number("x-attempts"),
        generation: i32::try_from(number("x-generation")).unwrap_or(i32::MAX),
    }
}

fn answer(delivery: Delivery) -> Answer {
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string).unwrap_or_default();
    Answer {
        correlation_id: text(delivery.properties.correlation_id()),
        outcome: text(delivery.properties.kind()),
        body: delivery.data,
    }
}

/// The label in a task's body.
fn label(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        label: String,
    }
    serde_json::from_slice(body).ok().map(|Body { label }| label)
}
