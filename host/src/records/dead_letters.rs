//! Dead letters as they are listed: the broker's queue holds the messages for whoever reads it, this list says which there
//! are and why, page by page, and keeps what a redrive needs.

use uuid::Uuid;

use bytes::Bytes;

use super::Outgoing;
use crate::task::{AgentName, TaskId, UnixMs};

/// A task that failed for good, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The task.
    pub id: TaskId,
    /// Its agent.
    pub agent: AgentName,
    /// How often it had been redriven.
    pub generation: u32,
    /// When it failed.
    pub failed_at_ms: UnixMs,
    /// The outcome's name.
    pub error_type: String,
    /// What went wrong.
    pub error_message: String,
    /// How many attempts it used.
    pub attempts: u32,
    /// The revision that ran it last, where one did.
    pub revision: Option<u64>,
    /// That revision's module, as `sha256:<hex>`.
    pub digest: Option<String>,
    /// The host that gave it up.
    pub host: String,
    /// The letter as it was published, in a form that only its sender reads; empty in a list.
    pub message: Bytes,
    /// The recording of the last run, where there is one; it is written with the letter, and read by itself.
    pub recording: Option<Bytes>,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only of this agent.
    pub agent: Option<AgentName>,
}

/// A place in the list: behind this letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterCursor {
    /// When the letter's task failed.
    pub failed_at_ms: UnixMs,
    /// The task.
    pub id: TaskId,
}

/// A dead letter that is taken off the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The task.
    pub id: TaskId,
    /// The generation that the letter tells of.
    pub generation: u32,
    /// The message that has the task run again; nothing where the letter is dropped.
    pub redrive: Option<Outgoing>,
}

/// A new id for a message on its way out: ordered by time, which keeps the table's index small.
#[must_use]
pub fn outgoing_id() -> Uuid {
    Uuid::now_v7()
}
