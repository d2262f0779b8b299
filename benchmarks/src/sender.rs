//! Filling queues.

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel};

/// Publishes in flight while a queue is filled.
const WINDOW: usize = 500;

/// A message as a careful sender makes it: persistent, with an id of its own, which the host looks up.
#[must_use]
pub fn message(id: String, content_type: &str) -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_message_id(id.into()).with_content_type(content_type.into())
}

/// Puts messages of so many bytes into a queue, over a channel that confirms, and waits for every confirm. Results go to
/// `reply_to`.
///
/// # Errors
/// The broker's.
pub async fn fill(
    channel: &Channel,
    queue: &str,
    messages: u32,
    body_bytes: usize,
    reply_to: Option<&str>,
) -> Result<()> {
    let body = vec![b'x'; body_bytes];
    let run = run()?;
    fill_with(channel, queue, messages, |number| {
        let mut properties = message(format!("{run}-{number}"), "application/octet-stream");
        if let Some(reply_to) = reply_to {
            properties = properties.with_reply_to(reply_to.into()).with_correlation_id(number.to_string().into());
        }
        (properties, body.as_slice())
    })
    .await
}

/// Tells the ids of this filling from those of every other.
///
/// # Errors
/// The clock is before 1970.
pub fn run() -> Result<u128> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos())
}

/// Puts the messages that are made for the numbers below `messages` into a queue, and waits for every confirm.
///
/// # Errors
/// The broker's.
pub async fn fill_with<'a>(
    channel: &Channel,
    queue: &str,
    messages: u32,
    made: impl Fn(u32) -> (BasicProperties, &'a [u8]),
) -> Result<()> {
    let mut confirms = FuturesUnordered::new();
    for number in 0..messages {
        let (properties, body) = made(number);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        confirms.push(channel.basic_publish("".into(), queue.into(), options, body, properties).await?);
        if confirms.len() >= WINDOW {
            confirms.next().await.context("no confirm")??;
        }
    }
    while let Some(confirm) = confirms.next().await {
        confirm?;
    }
    Ok(())
}
