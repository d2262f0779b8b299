//! Tasks with a partition key, between hosts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code: a broken expectation ends the test")]

use std::collections::BTreeMap;
use std::time::Duration;

use agent_host::broker::amqp::fixture::AmqpFixture;
use agent_host::broker::amqp::{AmqpBroker, AmqpConfig};
use agent_host::broker::conformance::{Fixture, as_sent, key, keyed, within};
use agent_host::broker::topology::{self, Partition};
use agent_host::delivery::{Broker as _, Consumer, Delivery, PublishError, QueueDepth, Route};
use agent_host::task::AgentName;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};

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

/// Waits until every partition has as many consumers.
async fn until_consumers(channel: &Channel, agent: &AgentName, count: u32) {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let reached = async {
        for partition in Partition::all() {
            let queue = partition.queue(agent);
            while channel
                .queue_declare(queue.as_str().into(), options, FieldTable::default())
                .await
                .unwrap()
                .consumer_count()
                != count
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    within(&format!("{count} consumers of every partition"), reached).await;
}

async fn another_host(url: String) -> AmqpBroker {
    AmqpBroker::connect(AmqpConfig::new(url)).await.unwrap()
}

/// One host makes the partitions, and loses its connection in the middle of the tasks: the other host, which consumed the
/// agent before it had any, has joined by then and goes on where the first one stopped.
#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_of_a_host_that_is_gone_move_to_another() {
    const BEFORE: usize = 30;
    let (relay, fixture) = (relay::Relay::start(&AmqpFixture::url()).await, AmqpFixture::connect().await);
    let (agent, channel) = (fixture.agent(), fixture.channel().await);
    let (one, other) = (another_host(relay.url()).await, another_host(AmqpFixture::url()).await);
    let mut consumer = one.consume(&agent, 10).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    one.publish(Route::Agent(agent.clone()), keyed("first", "0")).await.unwrap();
    let first = next(&mut consumer).await;
    until_consumers(&channel, &agent, 1).await;
    first.receipt.acknowledge();
    let mut stand_in = other.consume(&agent, 10).await.unwrap();
    until_consumers(&channel, &agent, 2).await;
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
    drop(consumer);
    one.close().await;
    other.close().await;
    fixture.clean_up().await;
}

/// A host that consumes an agent hears of partitions that another host makes.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_in_when_partitions_come_to_exist() {
    let fixture = AmqpFixture::connect().await;
    let (agent, channel) = (fixture.agent(), fixture.channel().await);
    let one = another_host(AmqpFixture::url()).await;
    let mut consumers = [one.consume(&agent, 10).await.unwrap(), fixture.broker().consume(&agent, 10).await.unwrap()];
    for consumer in &mut consumers {
        within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    }
    let publisher = another_host(AmqpFixture::url()).await;
    publisher.publish(Route::Agent(agent.clone()), keyed("k", "0")).await.unwrap();
    until_consumers(&channel, &agent, 2).await;
    drop(consumers);
    one.close().await;
    publisher.close().await;
    fixture.clean_up().await;
}

/// A host that drains keeps a key until its task has ended, though it takes no further ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_keeps_a_key_until_its_task_ends() {
    let fixture = AmqpFixture::connect().await;
    let (agent, channel) = (fixture.agent(), fixture.channel().await);
    let one = another_host(AmqpFixture::url()).await;
    let mut consumer = one.consume(&agent, 10).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    for n in ["0", "1", "2"] {
        one.publish(Route::Agent(agent.clone()), keyed("k", n)).await.unwrap();
    }
    let running = next(&mut consumer).await;
    until_consumers(&channel, &agent, 1).await;
    let mut other = fixture.broker().consume(&agent, 10).await.unwrap();
    until_consumers(&channel, &agent, 2).await;

    consumer.stop.cancel();
    assert!(within("the end of deliveries", consumer.deliveries.recv()).await.is_none());
    // The other host is at work meanwhile.
    for _ in 0..50 {
        fixture.broker().publish(Route::Agent(agent.clone()), message("no key")).await.unwrap();
        let delivery = next(&mut other).await;
        assert_eq!(as_sent(&delivery.message), message("no key"), "a task beside the one of its key that still runs");
        delivery.receipt.acknowledge();
    }
    running.receipt.acknowledge();
    for n in [1, 2] {
        let delivery = next(&mut other).await;
        assert_eq!((key(&delivery).as_str(), id(&delivery)), ("k", n));
        delivery.receipt.acknowledge();
    }
    one.close().await;
    fixture.clean_up().await;
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
    let empty = async {
        while fixture.broker().depth(&agent).await.unwrap() != QueueDepth::default() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("empty queues", empty).await;
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
    until_consumers(&channel, &agent, 1).await;
    let queue = Partition::of_key("k").queue(&agent);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let sent = fixture.broker().publish(Route::Agent(agent.clone()), keyed("k", "1")).await;
    assert!(sent.is_ok(), "{sent:?}");
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), 1);
    delivery.receipt.acknowledge();
    fixture.clean_up().await;
}
