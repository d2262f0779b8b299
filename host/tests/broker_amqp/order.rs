//! Tasks with a partition key, between hosts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code: a broken expectation ends the test")]

use std::collections::BTreeMap;
use std::time::Duration;

use agent_host::broker::amqp::fixture::AmqpFixture;
use agent_host::broker::amqp::{AmqpBroker, AmqpConfig};
use agent_host::broker::conformance::{Fixture, as_sent, key, keyed, until_depth, within};
use agent_host::broker::topology::{self, Partition};
use agent_host::delivery::{Broker as _, Consumer, Delivery, PublishError, QueueDepth, Route};
use agent_host::task::AgentName;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::server::Server;
use super::{message, relay};

const KEYS: usize = 5;
const TASKS: usize = 40;

fn id(delivery: &Delivery) -> usize {
    delivery.message.message_id.as_ref().unwrap().parse().unwrap()
}

async fn next(consumer: &mut Consumer) -> Delivery {
    within("a delivery", consumer.deliveries.recv()).await.unwrap()
}

async fn publish_all(broker: &AmqpBroker, agent: &AgentName) {
    for n in 0..TASKS {
        for k in 0..KEYS {
            broker.publish(Route::Agent(agent.clone()), keyed(&k.to_string(), &n.to_string())).await.unwrap();
        }
    }
}

async fn another_host(url: String) -> AmqpBroker {
    AmqpBroker::connect(AmqpConfig::new(url)).await.unwrap()
}

async fn live(consumer: &mut Consumer) {
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
}

fn an_agent() -> AgentName {
    AgentName::parse(&format!("test-{}", uuid::Uuid::new_v4())).unwrap()
}

/// Two hosts consume an agent. One makes its partitions, the other hears of that and stands by; when the first one loses
/// its connection in the middle of the tasks, the other goes on where it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_of_a_host_that_is_gone_move_to_another() {
    const BEFORE: usize = 30;
    let (server, agent) = (Server::lend().await, an_agent());
    let relay = relay::Relay::start(&server.url()).await;
    let (one, other) = (another_host(relay.url()).await, another_host(server.url()).await);
    let mut consumer = one.consume(&agent, 10).await.unwrap();
    live(&mut consumer).await;
    one.publish(Route::Agent(agent.clone()), keyed("first", "0")).await.unwrap();
    server.until_partitions_have(&agent, 1).await;
    next(&mut consumer).await.receipt.acknowledge();
    let mut stand_in = other.consume(&agent, 10).await.unwrap();
    server.until_partitions_have(&agent, 2).await;
    publish_all(&other, &agent).await;

    let mut before: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..BEFORE {
        let delivery = next(&mut consumer).await;
        let expected = before.entry(key(&delivery)).or_default();
        assert_eq!(id(&delivery), *expected, "key {}", key(&delivery));
        *expected += 1;
        delivery.receipt.acknowledge();
    }
    relay.refuse();
    let mut after: BTreeMap<String, usize> = BTreeMap::new();
    while after.len() < KEYS || after.values().any(|next| *next < TASKS) {
        let delivery = next(&mut stand_in).await;
        let (key, n) = (key(&delivery), id(&delivery));
        match after.get(&key) {
            Some(expected) => assert_eq!(n, *expected, "key {key} goes on in order"),
            // What was acknowledged in the last moments may not have reached the broker, and comes again.
            None => assert!(n <= before.get(&key).copied().unwrap_or_default(), "key {key} skips tasks"),
        }
        after.insert(key, n + 1);
        delivery.receipt.acknowledge();
    }
    one.close().await;
    other.close().await;
}

/// Hosts that consume an agent hear of partitions that somebody else makes.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_in_when_partitions_come_to_exist() {
    let (server, agent) = (Server::lend().await, an_agent());
    let hosts = [another_host(server.url()).await, another_host(server.url()).await];
    let mut consumers = Vec::new();
    for host in &hosts {
        let mut consumer = host.consume(&agent, 10).await.unwrap();
        live(&mut consumer).await;
        consumers.push(consumer);
    }
    let publisher = another_host(server.url()).await;
    publisher.publish(Route::Agent(agent.clone()), keyed("k", "0")).await.unwrap();
    server.until_partitions_have(&agent, 2).await;
    for host in hosts.iter().chain([&publisher]) {
        host.close().await;
    }
}

/// A host that drains keeps a key until its task has ended, though it takes no further ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_keeps_a_key_until_its_task_ends() {
    let (server, agent) = (Server::lend().await, an_agent());
    let (one, other) = (another_host(server.url()).await, another_host(server.url()).await);
    let mut consumer = one.consume(&agent, 10).await.unwrap();
    live(&mut consumer).await;
    for n in ["0", "1", "2"] {
        one.publish(Route::Agent(agent.clone()), keyed("k", n)).await.unwrap();
    }
    let running = next(&mut consumer).await;
    let mut stand_in = other.consume(&agent, 10).await.unwrap();
    server.until_partitions_have(&agent, 2).await;

    consumer.stop.cancel();
    assert!(within("the end of deliveries", consumer.deliveries.recv()).await.is_none());
    // Not among those that the first host holds: nothing but its being the active consumer keeps this one back.
    other.publish(Route::Agent(agent.clone()), keyed("k", "3")).await.unwrap();
    // The other host is at work meanwhile.
    for _ in 0..50 {
        other.publish(Route::Agent(agent.clone()), message("no key")).await.unwrap();
        let delivery = next(&mut stand_in).await;
        assert_eq!(as_sent(&delivery.message), message("no key"), "a task beside the one of its key that still runs");
        delivery.receipt.acknowledge();
    }
    running.receipt.acknowledge();
    for n in [1, 2, 3] {
        let delivery = next(&mut stand_in).await;
        assert_eq!((key(&delivery).as_str(), id(&delivery)), ("k", n));
        delivery.receipt.acknowledge();
    }
    one.close().await;
    other.close().await;
}

/// Somebody who knows nothing of partitions gets order all the same.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_tasks_in_the_common_queue_are_moved_in_order() {
    let fixture = AmqpFixture::connect().await;
    let (agent, channel) = (fixture.agent(), fixture.channel().await);
    let mut consumer = fixture.broker().consume(&agent, 10).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    for n in 0..TASKS {
        let mut headers = FieldTable::default();
        headers.insert("X-Partition-Key".into(), AMQPValue::LongString("k".into()));
        let properties = BasicProperties::default()
            .with_message_id(n.to_string().into())
            .with_expiration("3600000".into())
            .with_headers(headers);
        let (exchange, routing_key) = (topology::TASKS_EXCHANGE.into(), agent.as_str().into());
        channel.basic_publish(exchange, routing_key, BasicPublishOptions::default(), b"", properties).await.unwrap();
    }
    for n in 0..TASKS {
        let delivery = next(&mut consumer).await;
        assert_eq!(id(&delivery), n);
        let task = agent_host::delivery::envelope::parse(&agent, &delivery.message, 0).unwrap();
        assert_eq!(task.partition_key.as_deref(), Some("k"));
        assert!(task.deadline_ms.is_some(), "its expiration counts from when it was sent");
        delivery.receipt.acknowledge();
    }
    until_depth(fixture.broker(), &agent, QueueDepth::default()).await;
    fixture.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_no_queue_for_an_agent_that_nobody_knows() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    for route in [Route::Agent(agent.clone()), Route::Delayed(agent.clone(), Duration::from_secs(1))] {
        let refused = fixture.broker().publish(route.clone(), keyed("k", "0")).await;
        assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{route:?}: {refused:?}");
    }
    let queue = Partition::of_key("k").queue(&agent);
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = fixture.channel().await;
    assert!(channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.is_err());
    fixture.clean_up().await;
}

/// A queue of the topology that somebody deletes comes back, and the consumer with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_partition_is_made_again() {
    let fixture = AmqpFixture::connect().await;
    let (agent, channel) = (fixture.agent(), fixture.channel().await);
    let mut consumer = fixture.broker().consume(&agent, 10).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    fixture.broker().publish(Route::Agent(agent.clone()), keyed("k", "0")).await.unwrap();
    next(&mut consumer).await.receipt.acknowledge();
    let queue = Partition::of_key("k").queue(&agent);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let sent = fixture.broker().publish(Route::Agent(agent.clone()), keyed("k", "1")).await;
    assert!(sent.is_ok(), "{sent:?}");
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), 1);
    delivery.receipt.acknowledge();
    fixture.clean_up().await;
}
