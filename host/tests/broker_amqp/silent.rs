//! Queues that lost their leader and confirm nothing, as a quorum queue of RabbitMQ 3.10 does whose server was killed right
//! after it was made.

#![allow(clippy::unwrap_used, reason = "test code: a broken expectation ends the test")]

use std::time::Duration;

use agent_host::broker::amqp::{AmqpBroker, AmqpConfig};
use agent_host::broker::conformance::within;
use agent_host::broker::topology::Bucket;
use agent_host::delivery::{Broker as _, Route};
use agent_host::task::{AgentName, unix_ms_now};

use super::message;
use super::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_goes_through_a_longer_queue_where_its_own_confirms_nothing() {
    let server = Server::lend().await;
    let mut config = AmqpConfig::new(server.url());
    // Longer than a new queue is waited for.
    config.confirm_timeout = Duration::from_secs(3);
    let broker = AmqpBroker::connect(config).await.unwrap();
    let agent = AgentName::parse(&format!("test-{}", uuid::Uuid::new_v4())).unwrap();
    let mut consumer = broker.consume(&agent, 1).await.unwrap();
    let delay = Duration::from_secs(1);
    let member = format!("{{'%2F_{}', node()}}", Bucket::for_delay(delay).name());
    broker.publish(Route::Delayed(agent.clone(), delay), message("before")).await.unwrap();
    within("a delivery", consumer.deliveries.recv()).await.unwrap().receipt.acknowledge();

    server.control(&["eval", &format!("ok = ra:stop_server(quorum_queues, {member}).")]);
    let _restarts = Restart { server: &server, member };
    for id in ["first", "second"] {
        let not_before_ms = unix_ms_now() + 1_000;
        broker.publish(Route::Delayed(agent.clone(), delay), message(id)).await.unwrap();
        let delivery = within("a delivery", consumer.deliveries.recv()).await.unwrap();
        assert_eq!(delivery.message.message_id.as_deref(), Some(id));
        let came_through = format!("{:?}", delivery.message.headers.get("x-death"));
        assert!(came_through.contains("agents.delay.1250ms"), "{came_through}");
        assert!(unix_ms_now() >= not_before_ms, "never early");
        delivery.receipt.acknowledge();
    }
    broker.close().await;
}

/// Gives the queue its leader back, also where the test fails: others use the server too.
struct Restart<'a> {
    server: &'a Server,
    member: String,
}

impl Drop for Restart<'_> {
    fn drop(&mut self) {
        self.server.control(&["eval", &format!("ra:restart_server(quorum_queues, {}).", self.member)]);
    }
}
