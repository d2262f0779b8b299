//! What is known about each task: the answer to `GET /v1/tasks/{id}` on any host of the fleet.
//!
//! A record is *not* what keeps a task alive, the broker's message is. Records are written in batches by one writer, so
//! that a task pays no database round trip of its own: `running` is written only for tasks that run long enough for
//! anybody to see it, and a terminal record is durable before the call that wrote it returns.
//!
//! A terminal record is also the task's *inbox row*: it is written in one commit with everything that leaves the task (its
//! follow-ups, its dead letter), and with the task's own SQL effects where it had any, so that a task ends once, whatever
//! is delivered twice or dies in between. [`Inbox::ended`] tells a host that a task needs not be run again.
//!
//! Rules that both implementations keep (`records::conformance` holds them to it):
//! - a terminal record never goes back to another status, except by a redrive, which raises its generation;
//! - of several ends the first is kept, with what leaves with it, and the others leave nothing;
//! - a late `queued` or `running` never overwrites a later status;
//! - what the runs of a task said is kept for as long as its record is shown, of the last [`RUNS_KEPT_MAX`] of them;
//! - a record is kept for the inbox's retention, 7 days by default after the task's end, and shown for 24 hours of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::task::{AgentName, Failure, Output, TaskId, UnixMs, Usage};

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod dead_letters;
mod follow;
mod log;
mod memory;
mod order;
mod port;
mod postgres;
mod search;

pub use dead_letters::{DeadLetter, DeadLetterCursor, DeadLetterFilter, Taken, outgoing_id};
pub use log::{RUNS_KEPT_MAX, TaskLog};
pub use memory::{MemoryLimits, MemoryRecords};
pub use port::{DeadLetterList, Inbox, Outbox, Records, TaskRecords};
pub use postgres::{EndTask, PostgresRecords, PostgresSettings};
pub use search::{TaskCursor, TaskFilter, TaskPage};

/// How long records are shown after their task's end, unless configured: 24 hours (contract, section 4).
pub const RETENTION_DEFAULT: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

/// How long a task that has ended is remembered, so that it is not run again: 7 days (contract, section 4).
pub const INBOX_RETENTION_DEFAULT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3_600);

/// How long a record whose task has not ended is kept after its last change: a day past the longest delay of a task,
/// which is 30 days. By then its message is long gone.
pub const UNFINISHED_RETENTION: std::time::Duration = std::time::Duration::from_secs(31 * 24 * 3_600);

/// How long a message waits for the host that wrote it to send it, before any host may: a confirm takes milliseconds.
pub const UNSENT_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a host that took an unsent message has to send it, before another one gets it.
pub const UNSENT_CLAIM: std::time::Duration = std::time::Duration::from_secs(30);

/// Bytes of messages that a host is given at a time to send: a large one, or many small ones. A thirtieth of the host's
/// default memory budget, since a message is there twice while it is sent.
pub const UNSENT_BYTES_MAX: usize = 16 << 20;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Taken by the broker, not yet by a host.
    Queued,
    /// A host is running it.
    Running,
    /// It failed and waits for its next attempt.
    Retrying,
    /// It ended well.
    Succeeded,
    /// It ended as a dead letter.
    Failed,
    /// Someone cancelled it.
    Cancelled,
}

impl Status {
    /// Whether the task has ended.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Retrying => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// How far a running task says it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// From 0 to 1.
    pub fraction: f32,
    /// A line for people.
    pub note: String,
}

/// What is known about one task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRecord {
    /// The task.
    pub id: TaskId,
    /// Its agent.
    pub agent: AgentName,
    /// The revision that ran it last.
    pub revision: Option<u64>,
    /// Where it stands.
    pub status: Status,
    /// The attempt that it is at, from 1.
    pub attempt: u32,
    /// How often it was redriven.
    pub generation: u32,
    /// What the agent answered.
    pub output: Option<Output>,
    /// Why the last attempt failed.
    pub failure: Option<Failure>,
    /// How far it said it was.
    pub progress: Option<Progress>,
    /// What the last attempt used.
    pub usage: Option<Usage>,
    /// When it was enqueued.
    pub enqueued_at_ms: UnixMs,
    /// When its last attempt began.
    pub started_at_ms: Option<UnixMs>,
    /// When it ended.
    pub finished_at_ms: Option<UnixMs>,
}

/// Whose task has an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdHolder {
    /// Its agent.
    pub agent: AgentName,
    /// When it was enqueued.
    pub enqueued_at_ms: UnixMs,
    /// Whether it has ended.
    pub has_ended: bool,
}

/// A task that is about to be published.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// The task.
    pub id: TaskId,
    /// Its agent.
    pub agent: AgentName,
    /// SHA-256 of its body, to tell a repeated submission from a different one under the same key.
    pub body_sha256: [u8; 32],
    /// When it was enqueued.
    pub enqueued_at_ms: UnixMs,
}

/// What a host found when it recorded a task as queued.
#[derive(Clone, Debug, PartialEq)]
pub enum Queued {
    /// It is new.
    New,
    /// The id is known, with the same body.
    Known(Status),
    /// The id is known, with another body.
    Conflict,
}

/// A change of a task's record by the host that runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The task.
    pub id: TaskId,
    /// Its agent.
    pub agent: AgentName,
    /// The revision that runs it.
    pub revision: Option<u64>,
    /// Where it stands now; `Queued` is not for updates.
    pub status: Status,
    /// The attempt.
    pub attempt: u32,
    /// How often the task was redriven before it.
    pub generation: u32,
    /// What the agent answered.
    pub output: Option<Output>,
    /// Why the attempt failed.
    pub failure: Option<Failure>,
    /// What the attempt used.
    pub usage: Option<Usage>,
    /// When the task was enqueued.
    pub enqueued_at_ms: UnixMs,
    /// When the attempt began.
    pub started_at_ms: Option<UnixMs>,
    /// When the task ended.
    pub finished_at_ms: Option<UnixMs>,
}

/// The end of a task, with everything that leaves the host because of it. All of it is kept, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The terminal change.
    pub update: Update,
    /// Messages that leave with it: follow-up tasks, or the dead letter. They are kept until they were sent.
    pub outgoing: Vec<Outgoing>,
    /// What the dead letter says, for listing it; of a failed task.
    pub dead_letter: Option<DeadLetter>,
    /// What the last run said, if it did.
    pub log: Option<TaskLog>,
}

impl From<Update> for Ending {
    fn from(update: Update) -> Self {
        Self { update, outgoing: Vec::new(), dead_letter: None, log: None }
    }
}

/// A message on its way out, in a form that only its sender reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its own id: [`Outbox::sent`] names it.
    pub id: Uuid,
    /// The message and where it goes.
    pub payload: Bytes,
}

/// What became of an [`Ending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is the task's end.
    Now,
    /// The task had ended before, in another way or the same: this end was dropped, with all that would have left with it.
    Before,
}

/// What became of a wish to cancel a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled, from now on.
    Now,
    /// It had ended before.
    Finished(Status),
    /// Nobody knows it.
    Unknown,
}

/// The records cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the task records cannot be {action}")]
pub struct RecordsError {
    /// What was tried: "read" or "written".
    pub action: &'static str,
    /// Whether it is worth another try: the database is away, and will be back.
    pub is_passing: bool,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// SHA-256 of a body.
#[must_use]
pub fn body_sha256(body: &Bytes) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(body).into()
}
