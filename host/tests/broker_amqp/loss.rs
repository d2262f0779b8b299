//! The broker goes away, in every way in which it can: what a host sees meanwhile, and that it goes on by itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code: a broken expectation ends the test")]

use std::collections::BTreeSet;
use std::time::Instant;

use agent_host::broker::amqp::{AmqpBroker, AmqpConfig};
use agent_host::broker::conformance::{as_sent, keyed, wait_until, within};
use agent_host::delivery::{Broker as _, Connectivity, Consumer, Delivery, PublishError, QueueDepth, Route};
use agent_host::task::AgentName;

use super::message;
use super::server::Server;

/// A host with an agent.
struct Host {
    broker: AmqpBroker,
    agent: AgentName,
    consumer: Consumer,
}

impl Host {
    async fn start(server: &Server) -> Self {
        let broker = AmqpBroker::connect(AmqpConfig::new(server.url())).await.unwrap();
        let agent = AgentName::parse(&format!("test-{}", uuid::Uuid::new_v4())).unwrap();
        let mut consumer = broker.consume(&agent, 3).await.unwrap();
        within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
        Self { broker, agent, consumer }
    }

    async fn publish(&self, id: &str) -> Result<(), PublishError> {
        self.broker.publish(Route::Agent(self.agent.clone()), message(id)).await
    }

    async fn next(&mut self) -> Delivery {
        within("a delivery", self.consumer.deliveries.recv()).await.unwrap()
    }

    async fn until_connected(&mut self) {
        let mut connectivity = self.broker.connectivity();
        within("up", connectivity.wait_for(|state| *state == Connectivity::Up)).await.unwrap();
        within("live", self.consumer.live.wait_for(|live| *live)).await.unwrap();
    }

    async fn until_empty(&self) {
        // Fails while a connection is remade.
        let look = || async { (self.broker.depth(&self.agent).await.ok()? == QueueDepth::default()).then_some(()) };
        wait_until("an empty queue", look).await;
    }

    /// What was delivered when the broker was lost comes again, and settling the lost delivery settles nothing.
    async fn comes_again(&mut self, lost: Delivery) {
        lost.receipt.acknowledge();
        let again = self.next().await;
        assert!(again.redelivered);
        assert_eq!(as_sent(&again.message), as_sent(&lost.message));
        again.receipt.acknowledge();
        self.publish("afterwards").await.unwrap();
        let after = self.next().await;
        assert_eq!(after.message, message("afterwards"));
        after.receipt.acknowledge();
        self.until_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_broker_closes_are_remade() {
    let server = Server::lend().await;
    let mut host = Host::start(&server).await;
    host.publish("m").await.unwrap();
    let lost = host.next().await;
    host.consumer.live.mark_unchanged();
    let mut connectivity = host.broker.connectivity();
    connectivity.mark_unchanged();
    server.control(&["close_all_connections", "a test"]);
    // Whether or not the moment without a connection was seen: it is followed by one with a connection.
    within("a change", connectivity.changed()).await.unwrap();
    within("a change", host.consumer.live.changed()).await.unwrap();
    host.until_connected().await;
    host.comes_again(lost).await;
    host.broker.close().await;
}

/// As it happens to a task that runs for longer than the broker's `consumer_timeout`: the connection stands, and only
/// the consumer's channel is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_broker_closes_is_remade() {
    let server = Server::lend().await;
    // Read by a channel when it opens; how often it looks, whenever it has looked.
    server.control(&["eval", "application:set_env(rabbit, channel_tick_interval, 200)."]);
    server.control(&["eval", "application:set_env(rabbit, consumer_timeout, 300)."]);
    let mut host = Host::start(&server).await;
    server.control(&["eval", "application:set_env(rabbit, consumer_timeout, 1800000)."]);
    host.publish("m").await.unwrap();
    let lost = host.next().await;
    host.consumer.live.mark_unchanged();
    within("a change", host.consumer.live.changed()).await.unwrap();
    within("live", host.consumer.live.wait_for(|live| *live)).await.unwrap();
    assert_eq!(*host.broker.connectivity().borrow(), Connectivity::Up);
    host.comes_again(lost).await;
    host.broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_memory_holds_publishers_back_and_nobody_else() {
    let (short, enough) = (["set_vm_memory_high_watermark", "absolute", "1"], ["set_vm_memory_high_watermark", "0.4"]);
    holds_publishers_back_and_nobody_else(&short, &enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_disk_holds_publishers_back_and_nobody_else() {
    // A petabyte, and what the server has otherwise.
    let (short, enough) = (["set_disk_free_limit", "1000000000000000"], ["set_disk_free_limit", "50MB"]);
    holds_publishers_back_and_nobody_else(&short, &enough).await;
}

/// Raises an alarm by one command of `rabbitmqctl`, and ends it by another.
async fn holds_publishers_back_and_nobody_else(short: &[&str], enough: &[&str]) {
    let server = Server::lend().await;
    let mut host = Host::start(&server).await;
    let before: BTreeSet<String> = (0..20).map(|n| format!("m{n}")).collect();
    for id in &before {
        host.publish(id).await.unwrap();
    }
    server.control(short);
    // The broker tells a connection that it is held back when it publishes.
    let mut connectivity = host.broker.connectivity();
    let blocked = connectivity.wait_for(|state| *state == Connectivity::Blocked);
    let publishing = async {
        loop {
            // Unknown whether it comes through.
            drop(host.publish("perhaps").await);
            // Once it is held back, it is refused without a wait: this loop would never let go of its thread.
            tokio::task::yield_now().await;
        }
    };
    within("blocked", async {
        tokio::select! {
            blocked = blocked => drop(blocked.unwrap()),
            () = publishing => {}
        }
    })
    .await;
    let refused = host.publish("refused").await;
    assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
    assert!(*host.consumer.live.borrow());
    // Far more than the prefetch: acknowledgements arrive.
    let mut seen = BTreeSet::new();
    while !seen.is_superset(&before) {
        let delivery = host.next().await;
        seen.insert(delivery.message.message_id.clone().unwrap());
        delivery.receipt.acknowledge();
    }

    server.control(enough);
    within("up", connectivity.wait_for(|state| *state == Connectivity::Up)).await.unwrap();
    host.publish("afterwards").await.unwrap();
    loop {
        let delivery = host.next().await;
        let id = delivery.message.message_id.clone().unwrap();
        delivery.receipt.acknowledge();
        if id == "afterwards" {
            break;
        }
        assert_eq!(id, "perhaps");
    }
    host.until_empty().await;
    host.broker.close().await;
}

/// A broker that ends properly, and one that does not: what it confirmed is there afterwards, keyed tasks in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_broker_is_consumed_again() {
    let mut server = Server::lend().await;
    for end in [Server::terminate, Server::kill] {
        let mut host = Host::start(&server).await;
        let mut connectivity = host.broker.connectivity();
        let ids: BTreeSet<String> = (0..5).map(|n| format!("m{n}")).collect();
        for id in &ids {
            host.publish(id).await.unwrap();
        }
        let lost = [host.next().await, host.next().await];
        let keyed_ids = ["first", "second", "third"];
        for id in keyed_ids {
            host.broker.publish(Route::Agent(host.agent.clone()), keyed("k", id)).await.unwrap();
        }
        let running = loop {
            let delivery = host.next().await;
            if delivery.message == keyed("k", "first") {
                break delivery;
            }
            // Left to the broker: the loss is what hands it back.
            std::mem::forget(delivery);
        };

        end(&mut server);
        within("down", connectivity.wait_for(|state| *state == Connectivity::Down)).await.unwrap();
        within("not live", host.consumer.live.wait_for(|live| !live)).await.unwrap();
        let refused = host.publish("refused").await;
        assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{refused:?}");
        assert!(host.broker.depth(&host.agent).await.is_err());

        server.run().await;
        let returned = Instant::now();
        host.until_connected().await;
        // Told, not asserted: how long it takes is up to the machine. It should be less than 5 s.
        eprintln!("consuming again {} ms after the broker's return", returned.elapsed().as_millis());
        lost.into_iter().for_each(|delivery| delivery.receipt.acknowledge());
        let mut seen = BTreeSet::new();
        while seen != ids {
            let delivery = host.next().await;
            let id = delivery.message.message_id.clone().unwrap();
            assert!(
                ids.contains(&id) && seen.insert(id.clone()),
                "{id} while the first of its key still runs, or twice"
            );
            delivery.receipt.acknowledge();
        }
        running.receipt.acknowledge();
        for id in keyed_ids {
            let delivery = host.next().await;
            assert_eq!(as_sent(&delivery.message), keyed("k", id));
            delivery.receipt.acknowledge();
        }
        host.until_empty().await;
        host.broker.close().await;
    }
}
