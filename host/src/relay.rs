//! What leaves a host beside the dispatch of a task: messages that a dead host left behind, and dead letters that are
//! redriven or dropped.
//!
//! Any host does it for all of the fleet; the records see to it that two do not do the same at once.

mod buried;
mod dead_letters;
#[cfg(test)]
mod tests;

pub use buried::buried;
pub use dead_letters::DeadLetterOffice;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Broker, Connectivity, Message, PublishError, Route, outgoing};
use crate::records::{Ended, Inbox, Outbox, Outgoing};
use crate::task::{AgentName, Outcome};

/// How often messages that were left behind are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages that are sent at a time.
const SENDING_MAX: usize = 64;
/// How often it is said that messages wait for an agent that has no queue: it may stay like that for days.
const COMPLAIN_EVERY: Duration = Duration::from_secs(600);

/// Sends what the outbox keeps, and forgets what was sent.
///
/// What the broker takes neither now nor ever becomes a dead letter of the agent that it was meant for. What it has no
/// queue for waits: the agent may be deployed again.
#[derive(Clone)]
pub struct Relay {
    host: Arc<str>,
    broker: Arc<dyn Broker>,
    outbox: Arc<dyn Outbox>,
    inbox: Arc<dyn Inbox>,
    complaints: Arc<Complaints>,
}

/// What came of messages that were to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// They have left, or have become dead letters.
    pub done: usize,
    /// Nothing takes them just now, though the broker is there.
    pub waiting: usize,
    /// The broker or the records failed: others would fare no better.
    pub failed: usize,
}

/// The same of one message.
enum Fate {
    Done,
    Waits,
    Failed,
}

impl Relay {
    /// A relay between these. `host` is this host's name, for the dead letters that it writes.
    #[must_use]
    pub fn new(host: Arc<str>, broker: Arc<dyn Broker>, outbox: Arc<dyn Outbox>, inbox: Arc<dyn Inbox>) -> Self {
        Self { host, broker, outbox, inbox, complaints: Arc::default() }
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
            while self.is_connected() {
                match self.outbox.unsent().await {
                    Ok(unsent) if unsent.is_empty() => break,
                    Ok(unsent) => {
                        let Tally { done, failed, .. } = self.send(unsent).await;
                        if done > 0 {
                            tracing::info!(messages = done, "sent messages that were left behind");
                        }
                        if failed > 0 {
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

    fn is_connected(&self) -> bool {
        *self.broker.connectivity().borrow() == Connectivity::Up
    }

    /// Sends messages. Those that could not be sent stay, and are tried again later.
    pub async fn send(&self, messages: Vec<Outgoing>) -> Tally {
        let mut sending =
            futures::stream::iter(messages).map(|message| self.send_one(message)).buffer_unordered(SENDING_MAX);
        let mut tally = Tally::default();
        while let Some(fate) = sending.next().await {
            match fate {
                Fate::Done => tally.done += 1,
                Fate::Waits => tally.waiting += 1,
                Fate::Failed => tally.failed += 1,
            }
        }
        tally
    }

    async fn send_one(&self, message: Outgoing) -> Fate {
        let (route, decoded) = match outgoing::decode(&message.payload) {
            Ok(decoded) => decoded,
            Err(error) => {
                // Another version's, most likely a newer one's, whose hosts will send it.
                if self.complaints.is_due("unreadable") {
                    tracing::warn!(error = &error as &dyn std::error::Error, "leaving messages to another host");
                }
                return Fate::Waits;
            }
        };
        let fate = match self.broker.publish(route.clone(), decoded).await {
            Ok(()) => Fate::Done,
            Err(PublishError::Unroutable { route }) => {
                if self.complaints.is_due(&route) {
                    tracing::warn!(route, "messages wait for a queue that is not there; deploying the agent makes it");
                }
                Fate::Waits
            }
            Err(error @ PublishError::Refused(_)) => self.refused(&message, &route, &error).await,
            Err(error @ PublishError::Unavailable(_)) => {
                tracing::warn!(?route, error = &error as &dyn std::error::Error, "a message could not be sent yet");
                Fate::Failed
            }
        };
        if matches!(fate, Fate::Done) {
            self.outbox.sent(vec![message.id]);
        }
        fate
    }

    /// Has a message that can never be sent end as what it can: a task as a dead letter.
    async fn refused(&self, message: &Outgoing, route: &Route, error: &PublishError) -> Fate {
        match (route, outgoing::decode(&message.payload)) {
            (Route::Agent(agent) | Route::Delayed(agent, _), Ok((_, task))) => self.bury(agent, &task, error).await,
            _ => {
                // A dead letter stays listed with all that it says; of a reply the record says the same.
                tracing::error!(?route, %error, "a message is dropped");
                Fate::Done
            }
        }
    }

    async fn bury(&self, agent: &AgentName, message: &Message, error: &PublishError) -> Fate {
        let outcome = Outcome::Rejected { message: error.to_string() };
        let ending = buried::unsent(&self.host, agent, message, &outcome);
        let task = ending.update.id.clone();
        match self.inbox.finished(&ending).await {
            // The letter is in the outbox, in the refused message's stead.
            Ok(Ended::Now) => tracing::warn!(%agent, %task, %error, "a task that cannot be sent is a dead letter"),
            Ok(Ended::Before) => tracing::warn!(%agent, %task, %error, "a task that has ended is not sent again"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%agent, %task, error, "a task that cannot be sent is no dead letter yet");
                return Fate::Failed;
            }
        }
        Fate::Done
    }
}

/// What was complained of lately.
#[derive(Debug, Default)]
struct Complaints(Mutex<HashMap<String, Instant>>);

impl Complaints {
    fn is_due(&self, of: &str) -> bool {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lately.retain(|_, at| at.elapsed() < COMPLAIN_EVERY);
        match lately.entry(of.to_owned()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Instant::now());
                true
            }
        }
    }
}
