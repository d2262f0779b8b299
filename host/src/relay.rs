//! What leaves a host beside the dispatch of a task: messages that a dead host left behind, and dead letters that are
//! redriven or dropped.
//!
//! Any host does it for all of the fleet; the records see to it that two do not do the same at once.

mod dead_letters;

pub use dead_letters::DeadLetterOffice;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Broker, Connectivity, outgoing};
use crate::records::{Outbox, Outgoing};

/// How often messages that were left behind are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages that are sent at a time.
const SENDING_MAX: usize = 64;

/// Sends what the outbox keeps, and forgets what was sent.
#[derive(Clone)]
pub struct Relay {
    broker: Arc<dyn Broker>,
    outbox: Arc<dyn Outbox>,
}

impl Relay {
    /// A relay between these.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, outbox: Arc<dyn Outbox>) -> Self {
        Self { broker, outbox }
    }

    /// Sends what others left behind until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // As long as there are more, without a pause. What is taken while nothing can be sent would be nobody's for a
            // while after the broker's return.
            while *self.broker.connectivity().borrow() == Connectivity::Up {
                match self.outbox.unsent().await {
                    Ok(unsent) if unsent.is_empty() => break,
                    Ok(unsent) => {
                        tracing::info!(messages = unsent.len(), "sending messages that were left behind");
                        if self.send(unsent).await > 0 {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the outbox cannot be read");
                        break;
                    }
                }
            }
        }
    }

    /// Sends messages. Answers how many could not be sent; they stay, and are tried again later.
    pub async fn send(&self, messages: Vec<Outgoing>) -> usize {
        let sending = futures::stream::iter(messages).map(|message| self.send_one(message));
        let unsent = sending.buffer_unordered(SENDING_MAX).filter(|is_sent| std::future::ready(!is_sent)).count();
        unsent.await
    }

    async fn send_one(&self, message: Outgoing) -> bool {
        let (route, decoded) = match outgoing::decode(&message.payload) {
            Ok(decoded) => decoded,
            Err(error) => {
                // Another version's, most likely a newer one's, whose hosts will send it.
                tracing::warn!(error = &error as &dyn std::error::Error, "leaving a message to another host");
                return false;
            }
        };
        match self.broker.publish(route.clone(), decoded).await {
            Ok(()) => {
                self.outbox.sent(vec![message.id]);
                true
            }
            Err(error) => {
                tracing::warn!(?route, error = &error as &dyn std::error::Error, "a message could not be sent yet");
                false
            }
        }
    }
}
