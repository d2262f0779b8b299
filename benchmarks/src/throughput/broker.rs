//! The driver's side: fills queues and counts results.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use benchmarks::cpu::Spent;
use benchmarks::sender;
use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};

use super::ROUND_MAX;
use super::peer::Shape;

/// Where results are counted.
const RESULTS_QUEUE: &str = "benchmark.results";
/// The task of `benchmarks/peers/celery`.
const CELERY_TASK: &str = "peer.echo";

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
    pub(crate) async fn fill(&self, queue: &str, shape: Shape, messages: u32, body_bytes: usize) -> Result<()> {
        self.channel.queue_purge(RESULTS_QUEUE.into(), QueuePurgeOptions::default()).await?;
        match shape {
            Shape::Plain => sender::fill(&self.channel, queue, messages, body_bytes, Some(RESULTS_QUEUE)).await,
            Shape::Celery => self.fill_for_celery(queue, messages, body_bytes).await,
        }
    }

    /// Calls of a task whose one argument is a string of so many bytes; see "Message Protocol" in Celery's documentation.
    async fn fill_for_celery(&self, queue: &str, messages: u32, body_bytes: usize) -> Result<()> {
        let none = serde_json::Value::Null;
        let embed = serde_json::json!({ "callbacks": none, "errbacks": none, "chain": none, "chord": none });
        let body = serde_json::to_vec(&serde_json::json!([["x".repeat(body_bytes)], {}, embed]))?;
        let run = sender::run()?;
        sender::fill_with(&self.channel, queue, messages, |number| {
            let id = format!("{run}-{number}");
            let mut headers = FieldTable::default();
            for (name, value) in [("lang", "py"), ("task", CELERY_TASK), ("id", &id), ("root_id", &id)] {
                headers.insert(name.into(), AMQPValue::LongString(value.into()));
            }
            let properties = sender::message(id.clone(), "application/json")
                .with_content_encoding("utf-8".into())
                .with_headers(headers)
                .with_reply_to(RESULTS_QUEUE.into())
                .with_correlation_id(id.into());
            (properties, body.as_slice())
        })
        .await
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Results per second between the first and the last.
    pub(crate) rate: f64,
    /// Processor time per message meanwhile, in microseconds: the worker with its processes, broker,
    /// database.
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
