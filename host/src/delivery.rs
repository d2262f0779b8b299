//! The port between a broker and whatever runs tasks.
//!
//! A [`Broker`] turns queue messages into [`Delivery`]s and publishes [`Message`]s. Dispatch sees only this module, so the
//! AMQP broker and the embedded one are interchangeable, and neither knows what happens to a task.
//!
//! The contract that both implementations keep (`broker::conformance` holds them to it):
//! - `publish` returns `Ok` only when the broker has taken responsibility for the message: persisted, routed to at least
//!   one queue, confirmed.
//! - A delivery stays the broker's until its [`Receipt`] is spent. A receipt that is dropped unspent, or whose host dies,
//!   comes back.
//! - A consumer survives the loss of its connection by itself; receipts from before the loss are void and spending them
//!   does nothing.
//! - Tasks of one agent whose messages carry the same `x-partition-key` are delivered one at a time, in the order of
//!   their publishing, to whichever consumer: the next one when the receipt of the one before is spent, or after that
//!   comes again, if it was handed back. Different keys run side by side, as long as
//!   the keys that share a partition have few tasks waiting (the broker hands a host eight of each partition at a time).
//!
//! What that order does not cover:
//! - A task that is published to come later (`Route::Delayed`: a delay, a retry) is in order from then on. The tasks of
//!   its key that are there already go on meanwhile.
//! - A host that loses its connection, and not its life, may still be ending a task when another host gets it again.
//! - A message that was published past the port, to an agent's common queue, is in order from when a host has moved it to
//!   where keyed tasks wait.

pub mod envelope;
mod message;
pub mod outgoing;
mod receipt;

pub use message::{HeaderValue, Message};
pub use receipt::{Receipt, Settle};

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::task::{AgentName, Task};

/// A message with the permit to settle it.
#[derive(Debug)]
pub struct Delivery {
    /// What was received, as it was.
    pub message: Message,
    /// Whether the broker says that it may have been delivered before.
    pub redelivered: bool,
    /// The permit to acknowledge it or hand it back, once.
    pub receipt: Receipt,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Route {
    /// An agent's queue: exchange `agents`, routing key the agent's name.
    Agent(AgentName),
    /// An agent's queue, after at least this delay.
    Delayed(AgentName, Duration),
    /// An agent's dead letters.
    DeadLetter(AgentName),
    /// The default exchange with this routing key: somebody's reply queue.
    Reply(String),
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound for the route; for a reply queue that is the reader's business, for an agent it is unknown.
    #[error("no queue takes messages for {route}")]
    Unroutable {
        /// The routing key.
        route: String,
    },
    /// The message cannot be carried, now or ever: too large, or a name too long for AMQP. Or its reply queue takes no more,
    /// which is the reader's business like its absence.
    #[error("the message cannot be sent: {0}")]
    Refused(String),
    /// The broker is away, blocked, refused it, or did not confirm in time. Whether it has the message is unknown.
    #[error("the broker did not confirm the message")]
    Unavailable(#[source] BrokerError),
}

impl PublishError {
    /// Its kind, for a trace.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unroutable { .. } => "unroutable",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// A failure of the broker or of the way to it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BrokerError(pub String);

/// The state of the connection to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// Never connected yet, or lost and being remade.
    Down,
    /// Connected, publishing and consuming.
    Up,
    /// Connected, but the broker holds publishers back (memory or disk alarm).
    Blocked,
}

/// Deliveries of one agent, for as long as the handle lives.
#[derive(Debug)]
pub struct Consumer {
    /// Deliveries, never more than `prefetch` unsettled; those with a partition key have a bound of the broker's own.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// Whether the broker has this consumer registered just now.
    pub live: watch::Receiver<bool>,
    /// Stops the intake: the consumer is cancelled at the broker, deliveries that nobody took go back, and
    /// `deliveries` ends. Receipts already taken stay good.
    pub stop: CancellationToken,
}

/// What waits in an agent's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Ready messages in the agent's queue, and in its partitions where this host knows of them.
    pub ready: u64,
    /// Its dead letters.
    pub dead: u64,
}

/// A message broker: real over AMQP 0-9-1, or in process.
#[async_trait::async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Makes sure that the queues of an agent exist.
    async fn declare(&self, agent: &AgentName) -> Result<(), BrokerError>;

    /// Hands a message over; see the module's contract for what `Ok` promises.
    async fn publish(&self, route: Route, message: Message) -> Result<(), PublishError>;

    /// Starts consuming an agent's queue with at most `prefetch` unsettled deliveries, and its partitions as soon as it
    /// has any.
    async fn consume(&self, agent: &AgentName, prefetch: u16) -> Result<Consumer, BrokerError>;

    /// Removes those of an agent's dead letters from its queue that are `unwanted`, and answers which they were, without
    /// their bodies. Every other one stays, if not in its place.
    ///
    /// Only one call at a time sees a letter: while another host looks at it, this one does not, and it is not in the
    /// answer. An error means that none was removed, or, where the broker was lost at the very end, that it is unknown.
    async fn remove_dead_letters(
        &self,
        agent: &AgentName,
        unwanted: &(dyn for<'m> Fn(&'m Message) -> bool + Send + Sync),
    ) -> Result<Vec<Message>, BrokerError>;

    /// What waits in an agent's queues.
    async fn depth(&self, agent: &AgentName) -> Result<QueueDepth, BrokerError>;

    /// Whether the broker can be reached, now and as it changes.
    fn connectivity(&self) -> watch::Receiver<Connectivity>;

    /// Flushes acknowledgements and confirms and closes the connections. Nothing works afterwards.
    async fn close(&self);
}

/// The way into an agent for whoever holds a [`Task`]: the same publish as any AMQP client's.
///
/// The HTTP API submits through it, so that it knows neither how a task is written as a message nor which broker takes it.
#[async_trait::async_trait]
pub trait Submitter: Send + Sync + 'static {
    /// Publishes the first attempt of a task, to be delivered after `delay` where there is one. `Ok` promises what
    /// [`Broker::publish`] promises.
    async fn submit(&self, task: Task, delay: Option<Duration>) -> Result<(), PublishError>;
}
