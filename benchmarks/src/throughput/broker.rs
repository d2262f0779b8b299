//! The driver's side: fills queues and counts results.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use benchmarks::sender;
use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};

use super::ROUND_MAX;
use super::cpu::Spent;

/// Where results are counted.
const RESULTS_QUEUE: &str = "benchmark.results";

/// A connection of the driver.
pub(crate) struct Broker {
    connection: Connection,
    channel: Channel,
}

impl Broker {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.context("connecting")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(RESULTS_QUEUE.into(), durable, FieldTable::default()).await?;
        Ok(Self { connection, channel })
    }

    /// A quorum queue, like the agents'.
    pub(crate) async fn declare_like_an_agents(&self, queue: &str) -> Result<()> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), durable, arguments).await?;
        Ok(())
    }

    pub(crate) async fn delete(&self, queue: &str) -> Result<()> {
        for queue in [queue, RESULTS_QUEUE] {
            self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        }
        Ok(())
    }

    /// Puts messages into an empty queue and waits for every confirm.
    pub(crate) async fn fill(&self, queue: &str, messages: u32, body_bytes: usize) -> Result<()> {
        self.channel.queue_purge(RESULTS_QUEUE.into(), QueuePurgeOptions::default()).await?;
        sender::fill(&self.channel, queue, messages, body_bytes, Some(RESULTS_QUEUE)).await
    }

    /// Starts counting results.
    pub(crate) async fn results(&self, expected: u32) -> Result<Results> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(1_000, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer =
            channel.basic_consume(RESULTS_QUEUE.into(), "results".into(), options, FieldTable::default()).await?;
        Ok(Results { channel, consumer, expected })
    }
}

/// Results on their way.
pub(crate) struct Results {
    channel: Channel,
    consumer: Consumer,
    expected: u32,
}

/// What a round came to.
pub(crate) struct Round {
    /// Results per second between the first and the last.
    pub(crate) rate: f64,
    /// Processor time per message meanwhile, in microseconds: consumer, broker, database.
    pub(crate) micros_each: [f64; 3],
}

impl Results {
    /// Counts until all are there; `consumer` tells the process that makes them, once they come.
    pub(crate) async fn count(mut self, consumer: tokio::sync::watch::Receiver<u32>) -> Result<Round> {
        let mut first = None;
        for received in 0..self.expected {
            let next = tokio::time::timeout(ROUND_MAX, self.consumer.next()).await;
            let Ok(Some(_result)) = next else { bail!("only {received} of {} results came", self.expected) };
            first.get_or_insert_with(|| (Instant::now(), Spent::now(*consumer.borrow())));
        }
        let (began, before) = first.context("no messages")?;
        let (took, spent) = (began.elapsed(), Spent::now(*consumer.borrow()).since(before));
        self.channel.close(200, "done".into()).await?;
        let others = self.expected - 1;
        Ok(Round { rate: f64::from(others) / took.as_secs_f64(), micros_each: spent.micros_each(others) })
    }
}
