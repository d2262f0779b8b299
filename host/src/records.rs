//! What is known about each task: the answer to `GET /v1/tasks/{id}` on any host of the fleet.
//!
//! A record is *not* what keeps a task alive, the broker's message is. Records are written in batches by one writer, so
//! that a task pays no database round trip of its own: `running` is written only for tasks that run long enough for
//! anybody to see it, and a terminal record is durable before the call that wrote it returns.
//!
//! Rules that both implementations keep (`records::conformance` holds them to it):
//! - a terminal record never goes back to another status, except by a redrive;
//! - a late `queued` or `running` never overwrites a later status;
//! - records are kept for the retention, 24 hours by default after the task's end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::task::{AgentName, Failure, Output, TaskId, UnixMs, Usage};

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod follow;
mod memory;
mod order;
mod postgres;

pub use memory::{MemoryLimits, MemoryRecords};
pub use postgres::{PostgresRecords, PostgresSettings};

/// How long records are kept after their task's end, unless configured: 24 hours (contract, section 4).
pub const RETENTION_DEFAULT: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

/// How long a record whose task has not ended is kept after its last change: a day past the longest delay of a task,
/// which is 30 days. By then its message is long gone.
pub const UNFINISHED_RETENTION: std::time::Duration = std::time::Duration::from_secs(31 * 24 * 3_600);

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

/// The records cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the task records cannot be {action}")]
pub struct RecordsError {
    /// What was tried: "read" or "written".
    pub action: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The records of all tasks of a fleet: in PostgreSQL, or in process where there is none.
#[async_trait::async_trait]
pub trait TaskRecords: Send + Sync + 'static {
    /// Records tasks as queued; durable when it returns. One answer per task, in order.
    async fn queued(&self, tasks: Vec<NewTask>) -> Result<Vec<Queued>, RecordsError>;

    /// Takes back `queued` records whose publication failed; anything past `Queued` stays.
    async fn withdraw(&self, ids: Vec<TaskId>) -> Result<(), RecordsError>;

    /// Notes a change that nobody has to wait for (running, retrying). Written soon, in a batch, or not at all if a later
    /// change overtakes it.
    fn note(&self, update: Update);

    /// Notes a running task's progress, likewise.
    fn note_progress(&self, id: &TaskId, progress: Progress);

    /// Records the end of a task; durable when it returns.
    async fn finished(&self, update: Update) -> Result<(), RecordsError>;

    /// Reads a record.
    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, RecordsError>;

    /// Follows a record until it is terminal: the receiver holds the newest known state (`None` while unknown), also of
    /// tasks that run on other hosts (those within half a second).
    fn follow(&self, id: &TaskId) -> watch::Receiver<Option<TaskRecord>>;

    /// Writes everything noted so far and stops the writer.
    async fn close(&self);
}

/// SHA-256 of a body.
#[must_use]
pub fn body_sha256(body: &Bytes) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(body).into()
}
