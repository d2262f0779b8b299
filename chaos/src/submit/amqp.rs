//! An AMQP client that knows the exchange and the agent's name and nothing else: persistent, mandatory, confirmed.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::Mutex;

use crate::queues::RESULTS;
use crate::work::{AGENT, Deadline, Task};

/// The exchange that tasks are published to (contract, section 3).
const EXCHANGE: &str = "agents";
/// How long a confirm, or a connection, is waited for before the client starts over.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// AMQP's number for a message that is kept on disk.
const PERSISTENT: u8 = 2;
/// How far off a deadline is that is never to be met: longer than any run.
const FAR: Duration = Duration::from_secs(24 * 3_600);
/// How long a deadline has passed when the task is sent.
const PASSED: Duration = Duration::from_secs(1);

/// What the broker said of a message.
pub(super) enum Confirmed {
    /// It has it.
    Routed,
    /// No queue wanted it.
    Returned,
}

struct Link {
    /// Which of all connections it is, so that a failure ends only its own.
    number: u64,
    channel: Channel,
    _connection: Connection,
}

#[derive(Default)]
struct Links {
    current: Option<Link>,
    made: u64,
}

/// Publishes over one connection, and makes a new one when that fails.
pub(crate) struct Publisher {
    url: String,
    links: Mutex<Links>,
}

impl Publisher {
    /// Publishes to the broker at this address; connects when it is first used.
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), links: Mutex::default() }
    }

    /// Publishes a task under its label as id. An error means that the message may be there or not.
    pub(super) async fn publish(&self, label: &str, task: &Task) -> Result<Confirmed> {
        let (number, channel) = self.channel().await?;
        let result = tokio::time::timeout(ANSWER_LIMIT, publish(&channel, label, task)).await;
        let result = result.unwrap_or_else(|_| bail!("no confirm within {} s", ANSWER_LIMIT.as_secs()));
        if result.is_err() {
            let mut links = self.links.lock().await;
            if links.current.as_ref().is_some_and(|link| link.number == number) {
                links.current = None;
            }
        }
        result
    }

    async fn channel(&self) -> Result<(u64, Channel)> {
        let mut links = self.links.lock().await;
        if let Some(link) = &links.current {
            return Ok((link.number, link.channel.clone()));
        }
        let connecting = async {
            let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            anyhow::Ok((connection, channel))
        };
        let (connection, channel) = tokio::time::timeout(ANSWER_LIMIT, connecting).await.context("no connection")??;
        links.made += 1;
        let number = links.made;
        links.current = Some(Link { number, channel: channel.clone(), _connection: connection });
        Ok((number, channel))
    }
}

/// What the message says beside its body.
fn properties(label: &str, task: &Task) -> BasicProperties {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let unix_ms = |time: Duration| AMQPValue::LongLongInt(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(label.into())
        .with_content_type("application/json".into());
    let mut headers = FieldTable::default();
    match task.deadline {
        Deadline::None => {}
        Deadline::Far => {
            headers.insert("x-deadline".into(), unix_ms(now + FAR));
        }
        Deadline::Passed => {
            headers.insert("x-deadline".into(), unix_ms(now.saturating_sub(PASSED)));
        }
        Deadline::Near(ms) => properties = properties.with_expiration(ms.to_string().into()),
    }
    if let Some(attempts) = task.attempts_max() {
        headers.insert("x-max-attempts".into(), AMQPValue::LongUInt(attempts));
    }
    if task.reply {
        properties = properties.with_reply_to(RESULTS.into()).with_correlation_id(label.into());
    }
    properties.with_headers(headers)
}

async fn publish(channel: &Channel, label: &str, task: &Task) -> Result<Confirmed> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (properties, body) = (properties(label, task), task.body(label));
    let confirm = channel.basic_publish(EXCHANGE.into(), AGENT.into(), options, body.as_bytes(), properties).await?;
    match confirm.await? {
        Confirmation::Ack(None) => Ok(Confirmed::Routed),
        Confirmation::Ack(Some(_)) => Ok(Confirmed::Returned),
        Confirmation::Nack(_) | Confirmation::NotRequested => bail!("the broker did not take it"),
    }
}
