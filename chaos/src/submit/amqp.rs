//! An AMQP client that knows the exchange and the agent's name and nothing else: persistent, mandatory, confirmed.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::Mutex;

use crate::work::AGENT;

/// The exchange that tasks are published to (contract, section 3).
const EXCHANGE: &str = "agents";
/// How long a confirm, or a connection, is waited for before the client starts over.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// AMQP's number for a message that is kept on disk.
const PERSISTENT: u8 = 2;

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

    /// Publishes a task. An error means that the message may be there or not.
    pub(super) async fn publish(&self, id: &str, body: &[u8]) -> Result<Confirmed> {
        let (number, channel) = self.channel().await?;
        let result = tokio::time::timeout(ANSWER_LIMIT, publish(&channel, id, body)).await;
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

async fn publish(channel: &Channel, id: &str, body: &[u8]) -> Result<Confirmed> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(id.into())
        .with_content_type("application/json".into());
    let confirm = channel.basic_publish(EXCHANGE.into(), AGENT.into(), options, body, properties).await?;
    match confirm.await? {
        Confirmation::Ack(None) => Ok(Confirmed::Routed),
        Confirmation::Ack(Some(_)) => Ok(Confirmed::Returned),
        Confirmation::Nack(_) | Confirmation::NotRequested => bail!("the broker did not take it"),
    }
}
