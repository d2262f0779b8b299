//! Cases about tasks with a partition key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Fixture, consume, declared, id, keyed, next, until_depth, wait_until, within};
use crate::delivery::envelope::{self, headers};
use crate::delivery::{Consumer, Delivery, HeaderValue, QueueDepth, Route};
use crate::task::unix_ms_now;

/// The partition key of a delivery.
#[must_use]
pub fn key(delivery: &Delivery) -> String {
    delivery.message.headers.get(headers::PARTITION_KEY).and_then(HeaderValue::as_text).unwrap()
}

/// What ran, for everybody who runs it.
#[derive(Default)]
pub struct Ledger {
    running: BTreeSet<String>,
    ended: BTreeMap<String, Vec<String>>,
    handed_back: BTreeSet<String>,
}

impl Ledger {
    /// The ids of a key's tasks that ended, in the order in which they did.
    #[must_use]
    pub fn ended(&self, key: &str) -> Vec<String> {
        self.ended.get(key).cloned().unwrap_or_default()
    }

    /// How many tasks ended.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ended.values().map(Vec::len).sum()
    }
}

/// Runs a consumer's deliveries side by side, as a host does, and writes down what ran; fails where two of a key run at a
/// time. Every fifth task is handed back once. Ends with the deliveries.
pub async fn run_all(mut consumer: Consumer, ledger: Arc<Mutex<Ledger>>) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Some(delivery) = consumer.deliveries.recv().await {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            let (key, id) = (key(&delivery), id(&delivery));
            assert!(ledger.lock().unwrap().running.insert(key.clone()), "two tasks of {key} at a time");
            // Room for others to come in between.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let mut ledger = ledger.lock().unwrap();
            ledger.running.remove(&key);
            let count = ledger.ended(&key).len();
            if count % 5 == 4 && ledger.handed_back.insert(format!("{key}, {id}")) {
                delivery.receipt.hand_back();
            } else {
                ledger.ended.entry(key).or_default().push(id);
                delivery.receipt.acknowledge();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

/// Two consumers, some keys, many tasks: of each key one at a time, in order, whoever runs them.
pub async fn tasks_of_a_key_run_one_at_a_time_in_order(fixture: &dyn Fixture) {
    const KEYS: usize = 5;
    const TASKS: usize = 40;
    let agent = declared(fixture).await;
    let consumers = [consume(fixture, &agent, 10).await, consume(fixture, &agent, 10).await];
    let stops: Vec<_> = consumers.iter().map(|consumer| consumer.stop.clone()).collect();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let running: Vec<_> = consumers.map(|consumer| tokio::spawn(run_all(consumer, Arc::clone(&ledger)))).into();
    for n in 0..TASKS {
        let sent = (0..KEYS).map(|k| {
            let message = keyed(&format!("key {k}"), &format!("{n}"));
            fixture.broker().publish(Route::Agent(agent.clone()), message)
        });
        within("publishing", futures::future::try_join_all(sent)).await.unwrap();
    }
    let have_ended =
        || ledger.lock().unwrap().count() >= KEYS * TASKS || running.iter().any(tokio::task::JoinHandle::is_finished);
    wait_until("all tasks", || async { have_ended().then_some(()) }).await;
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
    stops.iter().for_each(tokio_util::sync::CancellationToken::cancel);
    for task in running {
        within("the end of deliveries", task).await.unwrap();
    }
    let expected: Vec<String> = (0..TASKS).map(|n| n.to_string()).collect();
    for k in 0..KEYS {
        assert_eq!(ledger.lock().unwrap().ended(&format!("key {k}")), expected, "key {k}");
    }
}

/// Its key goes with it through the delay.
pub async fn a_keyed_task_comes_after_its_delay(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    let mut consumer = consume(fixture, &agent, 10).await;
    let (began, delay) = (Instant::now(), Duration::from_millis(300));
    let route = Route::Delayed(agent.clone(), delay);
    fixture.broker().publish(Route::Agent(agent.clone()), keyed("k", "at once")).await.unwrap();
    fixture.broker().publish(route, keyed("k", "delayed")).await.unwrap();
    for expected in ["at once", "delayed"] {
        let delivery = next(&mut consumer).await;
        assert_eq!((key(&delivery).as_str(), id(&delivery).as_str()), ("k", expected));
        delivery.receipt.acknowledge();
    }
    assert!(began.elapsed() >= delay);
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
}

/// Like one without a key.
pub async fn a_keyed_task_that_expired_arrives_with_its_deadline(fixture: &dyn Fixture) {
    let agent = declared(fixture).await;
    let mut sent = keyed("k", "late");
    sent.expiration = Some("1".to_owned());
    fixture.broker().publish(Route::Agent(agent.clone()), sent).await.unwrap();
    // Not consumed before it has expired: an expired message leaves the queue of itself only at its head.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let delivery = next(&mut consume(fixture, &agent, 1).await).await;
    let task = envelope::parse(&agent, &delivery.message, unix_ms_now()).unwrap();
    assert_eq!((task.id.as_str(), task.partition_key.as_deref()), ("late", Some("k")));
    assert!(task.is_expired(unix_ms_now()), "{task:?}");
    delivery.receipt.acknowledge();
}
