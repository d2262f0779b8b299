//! Taking single messages out of a queue of dead letters.
//!
//! AMQP has no such thing, so the queue is gone through: every message is received, and none is acknowledged until all were
//! looked at. Then the unwanted ones are, and the others go back with the channel. A failure before that removes nothing.
//!
//! Received by one consumer after the other, each with room for so many messages as may be in memory at a time: a consumer
//! that holds its prefetch gets no more, and the next one begins where it ended. `basic.get` would do without consumers,
//! but a quorum queue writes to disk for each of them (measured: 2 to 3 ms a message).

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::try_join_all;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};

use super::convert;
use super::declare::{self, answered};
use crate::delivery::{BrokerError, Message};

/// Least messages of a consumer: as long as nothing is known of their size, and however large they are.
const MESSAGES_MIN: usize = 8;
/// Most messages of a consumer: far more would not be faster.
const MESSAGES_MAX: usize = 1000;
/// Bodies that may be in memory at a time, in bytes, as far as the messages before tell: what [`MESSAGES_MIN`] of 2 MiB
/// take.
const BODIES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Removes the unwanted messages; see [`Broker::remove_dead_letters`](crate::delivery::Broker::remove_dead_letters).
pub(super) async fn remove(
    connection: &Connection,
    queue: &str,
    unwanted: &(dyn for<'m> Fn(&'m Message) -> bool + Send + Sync),
) -> Result<Vec<Message>, BrokerError> {
    let channel = declare::open(connection).await?;
    let removed = go_through(&channel, queue, unwanted).await;
    // Answered when everything before it was done: what was acknowledged is gone by then.
    declare::close(&channel).await;
    removed.map_err(|error| BrokerError(format!("queue {queue} could not be gone through: {error}")))
}

async fn go_through(
    channel: &Channel,
    queue: &str,
    unwanted: &(dyn for<'m> Fn(&'m Message) -> bool + Send + Sync),
) -> lapin::Result<Vec<Message>> {
    // What comes later is none of this call's business, and would make it endless.
    let mut left = usize::try_from(declare::inspect(channel, queue).await?.message_count()).unwrap_or(usize::MAX);
    let (mut removed, mut tags) = (Vec::new(), Vec::new());
    // Each keeps what it was given until the end.
    let mut consumers = Vec::new();
    let mut count = MESSAGES_MIN;
    while left > 0 {
        count = count.min(left);
        let mut consumer = consume(channel, queue, count).await?;
        let mut bytes: usize = 0;
        for _ in 0..count {
            let delivery = match tokio::time::timeout(NOTHING_MORE, consumer.next()).await {
                Ok(Some(delivery)) => delivery?,
                // The queue is gone, or somebody else has the others.
                Ok(None) | Err(_) => {
                    left = count;
                    break;
                }
            };
            bytes = bytes.saturating_add(delivery.data.len());
            let message = convert::message(&delivery.properties, delivery.data);
            if unwanted(&message) {
                tags.push(delivery.delivery_tag);
                removed.push(Message { body: bytes::Bytes::new(), ..message });
            }
        }
        consumers.push(consumer);
        left -= count;
        count = (BODIES_BYTES_MAX / (bytes / count).max(1)).clamp(MESSAGES_MIN, MESSAGES_MAX);
    }
    for some in tags.chunks(ACKNOWLEDGED_TOGETHER) {
        try_join_all(some.iter().map(|tag| channel.basic_ack(*tag, BasicAckOptions::default()))).await?;
        // Answered behind the acknowledgements, by the queue itself. A letter that has just come goes back like the rest.
        answered(channel.basic_get(queue.into(), BasicGetOptions::default())).await?;
    }
    Ok(removed)
}

/// Longest wait for a message that the queue had at the start.
const NOTHING_MORE: Duration = Duration::from_secs(5);

/// Acknowledgements before an answer of the queue's is waited for. RabbitMQ keeps those back of which more than 32 are on
/// their way to a quorum queue, and forgets them when the channel ends (measured with 3.10: of 25, 9 were lost).
const ACKNOWLEDGED_TOGETHER: usize = 16;

/// A consumer of the next messages of a queue.
async fn consume(channel: &Channel, queue: &str, count: usize) -> lapin::Result<lapin::Consumer> {
    let prefetch = u16::try_from(count).unwrap_or(u16::MAX);
    answered(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
    let options = BasicConsumeOptions::default();
    answered(channel.basic_consume(queue.into(), "".into(), options, FieldTable::default())).await
}
