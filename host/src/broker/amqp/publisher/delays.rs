//! Publishing with a delay: through a delay queue, then held by whoever receives the message for what is left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::buckets::Buckets;
use super::way::Way;
use super::{AGAIN_PAUSE, Publisher};
use crate::broker::amqp::{declare, link};
use crate::broker::topology::{self, Bucket, DELAY_REST_MAX, Declaration};
use crate::delivery::envelope::{self, headers};
use crate::delivery::{BrokerError, Connectivity, Delivery, HeaderValue, Message, PublishError, Route};
use crate::task::{AgentName, UnixMs, unix_ms_now};

/// The longest of the delay queues that a host makes when it starts: past every wait for a database or a broker, and past
/// the first retries of most agents.
const DECLARED_FIRST_MS_MAX: u64 = 10_000;

impl Publisher {
    pub(super) async fn publish_delayed(
        &self,
        agent: AgentName,
        delay: Duration,
        message: Message,
    ) -> Result<(), PublishError> {
        let rest_max = rest_max(&message);
        if delay <= rest_max {
            return self.publish_to(Way::of(Route::Agent(agent)), with_rest(message, delay)).await;
        }
        let bucket = self.buckets.for_delay(delay.saturating_sub(rest_max));
        let first = Way::through(bucket, agent.clone(), delay);
        let was_asked = Arc::clone(&first.was_asked);
        let sent = self.in_time(self.send(first, message.clone())).await;
        let late = match sent {
            Ok(sent) => {
                if sent.is_ok() {
                    self.buckets.answers(bucket);
                }
                return sent;
            }
            Err(late) => late,
        };
        // What was waited for may have been something else than this queue.
        let other = Some(Buckets::after(bucket)).filter(|_| was_asked.load(Ordering::Relaxed)).flatten();
        match (other, self.health.publishing()) {
            (Some(other), Connectivity::Up) => {
                let sent = self.publish_to(Way::through(other, agent, delay), message).await;
                // The broker as a whole is well: it is the queue.
                if sent.is_ok() {
                    self.buckets.is_silent(bucket);
                }
                sent
            }
            _ => Err(late),
        }
    }

    pub(super) async fn declare_bucket(&self, bucket: Bucket) -> Result<(), PublishError> {
        if !self.buckets.knows(bucket) {
            self.make(&bucket.name(), &topology::for_bucket(bucket)).await.map_err(PublishError::Unavailable)?;
            self.buckets.add(bucket);
        }
        self.newborn.grown_up(&bucket.name()).await;
        Ok(())
    }

    /// Makes the delay queues that nearly every fleet comes to use, so that they are old before they are needed.
    pub(in super::super) async fn declare_first_buckets(&self) -> Result<(), BrokerError> {
        let first: Vec<Bucket> =
            Bucket::all().take_while(|bucket| bucket.delay_ms() <= DECLARED_FIRST_MS_MAX).collect();
        let Some(last) = first.last().filter(|_| !self.config.predeclared) else { return Ok(()) };
        let _alone = self.making.lock().await;
        let connection = self.declaring.get().ok_or_else(link::down)?;
        // They are made in order: where the last one is, all are. Asking for each would fill the broker's log.
        let are_there = declare::exists(&connection, &last.name()).await?;
        let declarations: Vec<Declaration> = first.iter().copied().flat_map(topology::for_bucket).collect();
        if !are_there {
            first.iter().for_each(|bucket| self.newborn.add(bucket.name()));
        }
        declare::apply(&connection, &declarations, false).await?;
        first.into_iter().for_each(|bucket| self.buckets.add(bucket));
        Ok(())
    }

    /// Sends a delivery that came out of the longest delay queue round again.
    pub(in super::super) async fn delay_again(
        self: Arc<Self>,
        agent: AgentName,
        delivery: Delivery,
        not_before_ms: UnixMs,
    ) {
        let rest = Duration::from_millis(not_before_ms.saturating_sub(unix_ms_now()));
        match self.publish(Route::Delayed(agent, rest), envelope::moved(&delivery.message, unix_ms_now())).await {
            Ok(()) => delivery.receipt.acknowledge(),
            Err(error) => {
                tracing::warn!(%error, "a task with a long delay could not be sent round again; trying later");
                tokio::time::sleep(AGAIN_PAUSE).await;
                delivery.receipt.hand_back();
            }
        }
    }
}

/// The message as it goes into a delay queue: with what is left of its delay when it comes out.
pub(super) fn after(mut message: Message, bucket: Bucket, delay: Duration) -> Message {
    let rest = bucket.rest_of(delay);
    if rest > rest_max(&message) {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let not_before_ms = unix_ms_now().saturating_add(delay_ms);
        message.headers.insert(headers::NOT_BEFORE.to_owned(), HeaderValue::from(not_before_ms));
    } else if !rest.is_zero() {
        message = with_rest(message, rest);
    }
    message
}

/// How much longer a message may be delayed than its delay queue does. One with a key not at all: those that were kept might
/// change places with others of their key.
fn rest_max(message: &Message) -> Duration {
    if envelope::partition_key(message).is_some() { Duration::ZERO } else { DELAY_REST_MAX }
}

/// The message, which whoever receives it keeps for the rest of its delay.
fn with_rest(mut message: Message, rest: Duration) -> Message {
    let rest_ms = u64::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    message.headers.insert(headers::DELAY_REST.to_owned(), HeaderValue::from(rest_ms));
    message
}
