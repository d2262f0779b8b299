//! The driver's side: fills queues and counts results.
//!
//! Every function fails with what the broker says.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};

use crate::ROUND_MAX;

/// Where results are counted.
const RESULTS_QUEUE: &str = "benchmark.results";
/// Publishes in flight while a queue is filled.
const WINDOW: usize = 500;

/// A connection of the driver.
pub struct Broker {
    connection: Connection,
    channel: Channel,
}

impl Broker {
    /// Connects, and makes the queue of results.
    pub async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.context("connecting")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(RESULTS_QUEUE.into(), durable, FieldTable::default()).await?;
        Ok(Self { connection, channel })
    }

    /// A quorum queue, like the agents'.
    pub async fn declare_like_an_agents(&self, queue: &str) -> Result<()> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), durable, arguments).await?;
        Ok(())
    }

    /// Removes these queues and that of the results, with what is in them.
    pub async fn delete(&self, queues: &[&str]) -> Result<()> {
        for queue in queues.iter().chain(&[RESULTS_QUEUE]) {
            self.channel.queue_delete((*queue).into(), QueueDeleteOptions::default()).await?;
        }
        Ok(())
    }

    /// How many messages are ready in a queue.
    pub async fn depth(&self, queue: &str) -> Result<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        Ok(self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count())
    }

    /// Empties a queue.
    pub async fn purge(&self, queue: &str) -> Result<()> {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }

    /// Sends tasks to a queue, one after the other, and measures the time from each to its result.
    pub async fn round_trips(&self, queue: &str, count: u32, pause: Duration) -> Result<Vec<Duration>> {
        let channel = self.connection.create_channel().await?;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let replies = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().clone();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut results = channel.basic_consume(replies.clone(), "".into(), options, FieldTable::default()).await?;
        let mut took = Vec::new();
        for number in 0..count {
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_reply_to(replies.clone())
                .with_correlation_id(number.to_string().into());
            let begun = Instant::now();
            let options = BasicPublishOptions::default();
            channel.basic_publish("".into(), queue.into(), options, b"one", properties).await?.await?;
            let result = tokio::time::timeout(ROUND_MAX, results.next()).await;
            result.context("a result does not come")?.context("no more results come")??;
            took.push(begun.elapsed());
            tokio::time::sleep(pause).await;
        }
        channel.close(200, "done".into()).await?;
        Ok(took)
    }

    /// Puts messages into an empty queue and waits for every confirm.
    pub async fn fill(&self, queue: &str, messages: u32, body_bytes: usize) -> Result<()> {
        self.purge(RESULTS_QUEUE).await?;
        let body = vec![b'x'; body_bytes];
        // An id of its own for each, as a careful sender gives: the host looks up whether it has had it before.
        let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        let mut confirms = FuturesUnordered::new();
        for number in 0..messages {
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_reply_to(RESULTS_QUEUE.into())
                .with_message_id(format!("{run}-{number}").into())
                .with_correlation_id(number.to_string().into())
                .with_content_type("application/octet-stream".into());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            confirms.push(self.channel.basic_publish("".into(), queue.into(), options, &body, properties).await?);
            if confirms.len() >= WINDOW {
                confirms.next().await.context("no confirm")??;
            }
        }
        while let Some(confirm) = confirms.next().await {
            confirm?;
        }
        Ok(())
    }

    /// Starts counting results.
    pub async fn results(&self, expected: u32) -> Result<Results> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(1_000, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer =
            channel.basic_consume(RESULTS_QUEUE.into(), "results".into(), options, FieldTable::default()).await?;
        Ok(Results { channel, consumer, expected })
    }
}

/// Results on their way.
pub struct Results {
    channel: Channel,
    consumer: Consumer,
    expected: u32,
}

impl Results {
    /// Results per second between the first and the last.
    pub async fn rate(mut self) -> Result<f64> {
        let mut first = None;
        for received in 0..self.expected {
            let next = tokio::time::timeout(ROUND_MAX, self.consumer.next()).await;
            let Ok(Some(_result)) = next else { bail!("only {received} of {} results came", self.expected) };
            first.get_or_insert_with(Instant::now);
        }
        let took = first.context("no messages")?.elapsed();
        self.channel.close(200, "done".into()).await?;
        Ok(f64::from(self.expected - 1) / took.as_secs_f64())
    }
}
