//! Filling queues.

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel};

/// Publishes in flight while a queue is filled.
const WINDOW: usize = 500;

/// Puts messages into a queue, over a channel that confirms, and waits for every confirm. Results go to `reply_to`.
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
    // An id of its own for each, as a careful sender gives: the host looks up whether it has had it before.
    let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let mut confirms = FuturesUnordered::new();
    for number in 0..messages {
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(format!("{run}-{number}").into())
            .with_content_type("application/octet-stream".into());
        if let Some(reply_to) = reply_to {
            properties = properties.with_reply_to(reply_to.into()).with_correlation_id(number.to_string().into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        confirms.push(channel.basic_publish("".into(), queue.into(), options, &body, properties).await?);
        if confirms.len() >= WINDOW {
            confirms.next().await.context("no confirm")??;
        }
    }
    while let Some(confirm) = confirms.next().await {
        confirm?;
    }
    Ok(())
}
