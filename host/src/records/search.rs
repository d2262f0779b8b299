//! Tasks as a list: what somebody who does not know a task's id looks through.

use super::{Status, TaskRecord};
use crate::task::{AgentName, TaskId};

/// Which tasks are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only of this agent.
    pub agent: Option<AgentName>,
    /// Only where they stand so.
    pub status: Option<Status>,
}

/// A place in the list: behind this task. Its numbers mean something to whoever gave it out alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskCursor {
    /// When the task's record was made.
    pub at: i64,
    /// The task.
    pub id: TaskId,
}

/// Some tasks, those that were recorded last in front.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPage {
    /// Without their outputs.
    pub tasks: Vec<TaskRecord>,
    /// Where there may be more.
    pub next: Option<TaskCursor>,
}
