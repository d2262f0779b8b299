//! The driver's side: fills queues, and sends single tasks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benchmarks::sender;
use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::ANSWER_MAX;

/// A connection of the driver.
pub(super) struct Broker {
    connection: Connection,
    channel: Channel,
}

impl Broker {
    /// Connects.
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.context("connecting")?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// Removes these queues, with what is in them.
    pub(super) async fn delete(&self, queues: &[&str]) -> Result<()> {
        for queue in queues {
            self.channel.queue_delete((*queue).into(), QueueDeleteOptions::default()).await?;
        }
        Ok(())
    }

    /// How many messages are ready in a queue.
    pub(super) async fn depth(&self, queue: &str) -> Result<u32> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        Ok(self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await?.message_count())
    }

    /// Empties a queue.
    pub(super) async fn purge(&self, queue: &str) -> Result<()> {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?;
        Ok(())
    }

    /// Sends tasks to a queue, one after the other, and measures the time from each to its result.
    pub(super) async fn round_trips(&self, queue: &str, count: u32, pause: Duration) -> Result<Vec<Duration>> {
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
            let result = tokio::time::timeout(ANSWER_MAX, results.next()).await;
            result.context("a result does not come")?.context("no more results come")??;
            took.push(begun.elapsed());
            tokio::time::sleep(pause).await;
        }
        channel.close(200, "done".into()).await?;
        Ok(took)
    }

    /// Puts messages into an empty queue and waits for every confirm.
    pub(super) async fn fill(&self, queue: &str, messages: u32, body_bytes: usize) -> Result<()> {
        sender::fill(&self.channel, queue, messages, body_bytes, None).await
    }
}
