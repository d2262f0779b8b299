//! A real broker under test, and the ways around the port that tests need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a broken expectation ends the test"
)]

use std::sync::Mutex;

use futures::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::sync::mpsc;

use super::{AmqpBroker, AmqpConfig, convert};
use crate::broker::conformance::{Fixture, wait_until};
use crate::broker::topology;
use crate::delivery::{Broker, Message};
use crate::task::AgentName;

/// A connection to a real broker, with agents of its own.
pub struct AmqpFixture {
    broker: AmqpBroker,
    connection: Connection,
    agents: Mutex<Vec<AgentName>>,
}

impl AmqpFixture {
    /// Connects to the broker at `AMQP_URL`; fails the test where there is none.
    pub async fn connect() -> Self {
        Self::with(AmqpConfig::new(Self::url())).await
    }

    /// The broker's URL.
    #[must_use]
    pub fn url() -> String {
        std::env::var("AMQP_URL").expect("these tests need RabbitMQ: run `cargo xtask test`, or set AMQP_URL")
    }

    /// Connects with a configuration of the test's own.
    pub async fn with(config: AmqpConfig) -> Self {
        let connection = Connection::connect(&config.url, ConnectionProperties::default()).await.unwrap();
        let broker = AmqpBroker::connect(config).await.unwrap();
        Self { broker, connection, agents: Mutex::default() }
    }

    /// A channel beside the broker under test, to do what no host would.
    pub async fn channel(&self) -> Channel {
        self.connection.create_channel().await.unwrap()
    }

    /// The connection beside the broker under test.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

#[async_trait::async_trait]
impl Fixture for AmqpFixture {
    fn broker(&self) -> &dyn Broker {
        &self.broker
    }

    fn agent(&self) -> AgentName {
        let agent = AgentName::parse(&format!("test-{}", uuid::Uuid::new_v4())).unwrap();
        self.agents.lock().unwrap().push(agent.clone());
        agent
    }

    async fn reply_queue(&self) -> (String, mpsc::Receiver<Message>) {
        let channel = self.channel().await;
        // Goes with the connection.
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer =
            channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default()).await.unwrap();
        let (sender, replies) = mpsc::channel(1024);
        tokio::spawn(async move {
            let _open = channel;
            while let Some(Ok(delivery)) = consumer.next().await {
                sender.send(convert::message(&delivery.properties, delivery.data)).await.ok();
            }
        });
        (queue.name().as_str().to_owned(), replies)
    }

    async fn dead_letter(&self, agent: &AgentName) -> Message {
        let channel = self.channel().await;
        let queue = topology::dead_letter_queue(agent);
        let look = || async {
            let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap()?;
            channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default()).await.unwrap();
            Some(convert::message(&got.delivery.properties, got.delivery.data))
        };
        wait_until("a dead letter", look).await
    }

    async fn clean_up(&self) {
        self.broker.close().await;
        let channel = self.channel().await;
        let agents = std::mem::take(&mut *self.agents.lock().unwrap());
        for agent in agents {
            let partitions = topology::Partition::all().map(|partition| partition.queue(&agent));
            for queue in partitions.chain([topology::task_queue(&agent), topology::dead_letter_queue(&agent)]) {
                channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
            }
        }
        self.connection.close(200, "done".into()).await.unwrap();
    }
}
