//! Tasks in a closed loop over AMQP: so many outstanding, and a new one for each result.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};

use super::sender;

/// How long one result may take before it counts as lost.
const RESULT_MAX: Duration = Duration::from_secs(120);

/// A sender that gets results, with a queue of its own for them.
pub struct Driver {
    /// Closes with it.
    _connection: Connection,
    channel: Channel,
    replies: ShortString,
    results: Consumer,
}

/// What to send.
pub struct Load<'a> {
    /// The queues that take turns.
    pub queues: &'a [String],
    /// Tasks in all.
    pub tasks: u32,
    /// How many of them are sent and not answered at any time.
    pub outstanding: u32,
    /// Bytes of each body.
    pub body_bytes: usize,
}

impl Driver {
    /// Connects.
    ///
    /// # Errors
    /// The broker's.
    pub async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.context("connecting")?;
        let channel = connection.create_channel().await?;
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let replies = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().clone();
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let results = channel.basic_consume(replies.clone(), "".into(), options, FieldTable::default()).await?;
        Ok(Self { _connection: connection, channel, replies, results })
    }

    /// Sends the tasks and takes their results. Gives results per second while all places were taken.
    ///
    /// # Errors
    /// The broker's; a task that did not succeed; a result that does not come.
    pub async fn run(&mut self, load: &Load<'_>) -> Result<f64> {
        let (body, run) = (vec![b'x'; load.body_bytes], sender::run()?);
        ensure!(load.tasks > load.outstanding, "more tasks than {} have to be sent", load.outstanding);
        let mut queues = load.queues.iter().cycle();
        for sent in 0..load.outstanding {
            self.send(queues.next().context("no queue")?, &body, format!("{run}-{sent}")).await?;
        }
        let (mut first, mut last) = (None, Instant::now());
        for received in 0..load.tasks {
            let result = tokio::time::timeout(RESULT_MAX, self.results.next()).await;
            let result = result.with_context(|| format!("only {received} of {} results came", load.tasks))?;
            let result = result.context("no more results come")??;
            let outcome = result.properties.kind().as_ref().map(ShortString::as_str);
            ensure!(outcome == Some("succeeded"), "a task ended as {outcome:?}");
            first.get_or_insert_with(Instant::now);
            let sent = received + load.outstanding;
            if sent < load.tasks {
                last = Instant::now();
                self.send(queues.next().context("no queue")?, &body, format!("{run}-{sent}")).await?;
            }
        }
        let took = last.saturating_duration_since(first.context("no task")?);
        Ok(f64::from(load.tasks - load.outstanding - 1) / took.as_secs_f64())
    }

    async fn send(&self, queue: &str, body: &[u8], id: String) -> Result<()> {
        let properties = sender::message(id, "application/octet-stream").with_reply_to(self.replies.clone());
        let options = BasicPublishOptions::default();
        drop(self.channel.basic_publish("".into(), queue.into(), options, body, properties).await?);
        Ok(())
    }

    /// Removes an agent's queues, with what is in them.
    ///
    /// # Errors
    /// The broker's.
    pub async fn delete(&self, agent: &str) -> Result<()> {
        for queue in [format!("agent.{agent}"), format!("agent.{agent}.dead")] {
            self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        }
        Ok(())
    }
}
