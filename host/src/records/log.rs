//! What the runs of a task said.

use std::sync::Arc;

use uuid::Uuid;

use super::order;
use crate::task::{RunLog, TaskId};

/// Runs of a task of which it is kept what they said: the last ones. A task may be handed back again and again, and what a
/// run said may be 256 KiB.
pub const RUNS_KEPT_MAX: usize = 20;

/// What one run of a task said.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskLog {
    /// The run. Of two the one that ended later has the larger id.
    pub run: Uuid,
    /// The task.
    pub task: TaskId,
    /// How often the task was redriven before it.
    pub generation: u32,
    /// The attempt. Several runs may be of the same one: a task that was handed back is run again.
    pub attempt: u32,
    /// The revision that ran.
    pub revision: Option<u64>,
    /// The host.
    pub host: Arc<str>,
    /// What it said.
    pub log: Arc<RunLog>,
}

impl TaskLog {
    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        order::RECORD_BYTES + self.log.lines().len()
    }
}
