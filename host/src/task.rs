//! The vocabulary that every layer shares: what a task is, who runs it and how a run ended.
//!
//! Pure data. Nothing here knows a broker, an engine or a database, so every other module may import it and it imports
//! none of them. Values are checked once, when they are made: code that holds an [`AgentName`] need not check it again.

mod log;
mod names;
mod outcome;
mod recording;

pub use log::RunLog;
pub use names::{AgentName, InvalidName, TaskId};
pub use outcome::{Completion, Failure, FollowUp, Limit, Outcome, Output, Usage};
pub use recording::RunRecording;

use bytes::Bytes;

/// Milliseconds since the Unix epoch, the unit of every timestamp in a task, a message and the HTTP API.
pub type UnixMs = u64;

/// The time now, in milliseconds since the Unix epoch.
///
/// A clock before 1970 reads as 0, so that a wrong clock can never panic the host.
#[must_use]
pub fn unix_ms_now() -> UnixMs {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Uniform in 0..1, to spread out what would otherwise be tried again at the same moment.
///
/// From the low bits of a UUIDv4, which are as random as that needs.
pub(crate) fn random_fraction() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX);
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

/// One unit of work on its way to an agent: everything that its message says, with absent values filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The task's identity for its whole life, over retries, redeliveries and redrives.
    pub id: TaskId,
    /// The agent that is to run it.
    pub agent: AgentName,
    /// Which attempt this is, from 1. Only failures of the task raise it; a host's death or shutdown does not.
    pub attempt: u32,
    /// The sender's own limit on attempts; the manifest's `retry.max_attempts` holds where this is absent.
    pub attempts_max: Option<u32>,
    /// How often it was redriven. A task ends once in each generation.
    pub generation: u32,
    /// Tasks of one agent with the same key run one at a time, in order.
    pub partition_key: Option<String>,
    /// When it was enqueued: the message's timestamp, or its first delivery where it carried none.
    pub enqueued_at_ms: UnixMs,
    /// After this moment it is not worth running any more and ends as `expired`.
    pub deadline_ms: Option<UnixMs>,
    /// The revision that the sender pinned it to, if any.
    pub revision: Option<u64>,
    /// The sender's own headers, names in lower case, in name order.
    pub headers: Vec<(String, String)>,
    /// Media type of the body.
    pub content_type: String,
    /// The payload, as sent.
    pub body: Bytes,
    /// W3C trace context of the sender.
    pub traceparent: Option<String>,
    /// Where the result goes, for senders that asked for one.
    pub reply: Option<ReplyTo>,
}

/// Media type of a body whose sender named none.
pub const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// What a body most likely is, where nobody says: for the commands, which take it from people.
#[must_use]
pub fn guessed_content_type(body: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "application/json"
    } else if !body.is_empty() && std::str::from_utf8(body).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        CONTENT_TYPE_DEFAULT
    }
}

/// Where the result of a task is published: the default exchange, with this routing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The queue that the sender reads.
    pub routing_key: String,
    /// The sender's own correlation id; the task id stands in where it is absent.
    pub correlation_id: Option<String>,
}

impl Task {
    /// A first attempt of `agent` with this body and nothing else set. Fields are public: set what differs.
    #[must_use]
    pub fn new(agent: AgentName, body: impl Into<Bytes>) -> Self {
        Self {
            id: TaskId::generate(),
            agent,
            attempt: 1,
            attempts_max: None,
            generation: 0,
            partition_key: None,
            enqueued_at_ms: unix_ms_now(),
            deadline_ms: None,
            revision: None,
            headers: Vec::new(),
            content_type: CONTENT_TYPE_DEFAULT.to_owned(),
            body: body.into(),
            traceparent: None,
            reply: None,
        }
    }

    /// Whether its deadline has passed.
    #[must_use]
    pub fn is_expired(&self, now_ms: UnixMs) -> bool {
        self.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms)
    }
}
