//! Large bodies over a slow line: the broker's answers come behind them.

#![allow(clippy::unwrap_used, reason = "test code: a broken expectation ends the test")]

use std::collections::BTreeSet;

use agent_host::broker::amqp::{AmqpBroker, AmqpConfig};
use agent_host::broker::conformance::{keyed, within};
use agent_host::broker::topology::Partition;
use agent_host::delivery::{Broker as _, Message, Route};
use agent_host::task::AgentName;

use super::relay::Relay;
use super::server::Server;

const BODY_BYTES: usize = 1 << 20;
/// Six bodies take longer than an answer may where nothing comes.
const BYTES_PER_SECOND: u32 = 1 << 20;

/// Has bodies wait for a host at the end of a slow line; each comes to it, and comes once.
async fn come_once_each(messages: Vec<Message>) {
    let server = Server::lend().await;
    let agent = AgentName::parse(&format!("test-{}", uuid::Uuid::new_v4())).unwrap();
    let near = AmqpBroker::connect(AmqpConfig::new(server.url())).await.unwrap();
    near.declare(&agent).await.unwrap();
    let count = messages.len();
    for message in messages {
        let message = Message { body: vec![b'x'; BODY_BYTES].into(), ..message };
        near.publish(Route::Agent(agent.clone()), message).await.unwrap();
    }
    let line = Relay::with_speed(&server.url(), BYTES_PER_SECOND).await;
    let far = AmqpBroker::connect(AmqpConfig::new(line.url())).await.unwrap();
    let mut consumer = far.consume(&agent, 500).await.unwrap();
    let mut held = Vec::new();
    let mut ids = BTreeSet::new();
    for _ in 0..count {
        let delivery = within("a delivery", consumer.deliveries.recv()).await.unwrap();
        assert!(!delivery.redelivered, "it is sent a second time");
        assert!(ids.insert(delivery.message.message_id.clone()), "it came twice");
        held.push(delivery.receipt);
    }
    for receipt in held {
        receipt.acknowledge();
    }
    far.close().await;
    near.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_on_a_slow_line_come_once_each() {
    // More than a consumer begins with.
    come_once_each((0..24).map(|n| super::message(&n.to_string())).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_partitions_on_a_slow_line_come_once_each() {
    // As many as come at a time, in each of the partitions that are consumed first.
    let keys =
        |partition| (0..).map(|n: u32| n.to_string()).filter(move |key| Partition::of_key(key) == partition).take(2);
    let messages = Partition::all().take(4).flat_map(keys).map(|key| keyed(&key, &key));
    come_once_each(messages.collect()).await;
}
