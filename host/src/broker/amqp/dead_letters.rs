//! Taking single messages out of a queue of dead letters.
//!
//! AMQP has no such thing, so the queue is gone through: every message is got, and none is acknowledged until all were
//! looked at. Then the unwanted ones are, and the others go back with the channel. A failure before that removes nothing.

use futures::future::try_join_all;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::{Channel, Connection};

use super::{convert, declare};
use crate::delivery::{BrokerError, Message};

/// Messages asked for at a time: a round trip each would take most of the time.
const GETS_MAX: usize = 8;
/// Bodies that may be in memory at a time, in bytes, as far as the messages before tell: an eighth of what the largest
/// messages would take [`GETS_MAX`] at a time.
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
    let mut gets: usize = 1;
    while left > 0 {
        let asked = gets.min(left);
        let got = get(channel, queue, asked).await?;
        let got_all = got.len() == asked;
        let bytes: usize = got.iter().map(|message| message.delivery.data.len()).sum();
        for BasicGetMessage { delivery, .. } in got {
            let message = convert::message(&delivery.properties, delivery.data);
            if unwanted(&message) {
                tags.push(delivery.delivery_tag);
                removed.push(Message { body: bytes::Bytes::new(), ..message });
            }
        }
        if !got_all {
            break;
        }
        left -= asked;
        gets = (BODIES_BYTES_MAX / (bytes / asked).max(1)).clamp(1, GETS_MAX);
    }
    for some in tags.chunks(ACKNOWLEDGED_TOGETHER) {
        try_join_all(some.iter().map(|tag| channel.basic_ack(*tag, BasicAckOptions::default()))).await?;
        // Answered behind the acknowledgements, by the queue itself. A letter that has just come goes back like the rest.
        get(channel, queue, 1).await?;
    }
    Ok(removed)
}

/// Acknowledgements before an answer of the queue's is waited for. RabbitMQ keeps those back of which more than 32 are on
/// their way to a quorum queue, and forgets them when the channel ends (measured with 3.10: of 25, 9 were lost).
const ACKNOWLEDGED_TOGETHER: usize = 16;

/// The next messages of a queue, fewer where it has no more.
async fn get(channel: &Channel, queue: &str, count: usize) -> lapin::Result<Vec<BasicGetMessage>> {
    let gets = (0..count).map(|_| channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }));
    Ok(declare::answered(try_join_all(gets)).await?.into_iter().flatten().collect())
}
