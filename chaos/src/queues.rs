//! What lies in the broker's queues, asked directly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde::Deserialize;

use crate::work::AGENT;

/// The steps of the first delay queues, and the longest that the tasks here or a host's own retries use.
const DELAY_STEP_MS: u64 = 250;
const DELAY_MAX_MS: u64 = 6_000;
/// How long the next dead letter is waited for, of those that the broker says are there.
const LETTER_LIMIT: Duration = Duration::from_secs(30);

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The label of its task; the message's id where the body names none.
    pub(crate) label: String,
}

/// A connection past the relay.
pub(crate) struct Queues {
    connection: Connection,
}

/// The agent's queue of dead letters.
fn dead() -> String {
    format!("agent.{AGENT}.dead")
}

impl Queues {
    /// Connects.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await;
        Ok(Self { connection: connection.context("the broker cannot be asked what lies in its queues")? })
    }

    /// Queues that should be empty when all is done, and are not, with what is ready in them.
    pub(crate) async fn left(&self) -> Result<BTreeMap<String, u32>> {
        let delays = (1..=DELAY_MAX_MS / DELAY_STEP_MS).map(|step| format!("agents.delay.{}ms", step * DELAY_STEP_MS));
        let mut left = BTreeMap::new();
        for queue in [format!("agent.{AGENT}"), "agents.expired".to_owned()].into_iter().chain(delays) {
            match self.ready(&queue).await? {
                Some(count) if count > 0 => left.insert(queue, count),
                _ => None,
            };
        }
        Ok(left)
    }

    /// How many messages are ready in a queue; nothing where there is no such queue.
    async fn ready(&self, queue: &str) -> Result<Option<u32>> {
        // Asking for a queue that is not there closes the channel.
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(queue) => {
                channel.close(200, "asked".into()).await?;
                Ok(Some(queue.message_count()))
            }
            Err(error) if self.connection.status().connected() => {
                drop(error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes all dead letters.
    pub(crate) async fn take_dead_letters(&self) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        let channel: Channel = self.connection.create_channel().await?;
        let count = self.ready(&dead()).await?.unwrap_or(0);
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = channel.basic_consume(dead().into(), "audit".into(), options, arguments).await?;
        for _ in 0..count {
            let delivery = tokio::time::timeout(LETTER_LIMIT, consumer.next()).await;
            let delivery = delivery.context("a dead letter does not come")?.context("dead letters end early")??;
            let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
            let label = label(&delivery.data).or(id).unwrap_or_default();
            letters.push(Letter { label });
            delivery.ack(BasicAckOptions::default()).await?;
        }
        Ok(letters)
    }
}

/// The label in a task's body.
fn label(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        label: String,
    }
    serde_json::from_slice(body).ok().map(|Body { label }| label)
}
