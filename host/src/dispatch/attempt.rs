//! One delivery of a task on its way through this host.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::metrics::AgentMetrics;
use super::slot::AgentSlot;
use crate::agent::{Revision, Run};
use crate::capability::tasks::ProgressSink;
use crate::delivery::Message;
use crate::records::{Ending, Inbox, Progress, Status, Update};
use crate::task::{Completion, Outcome, Task, UnixMs, unix_ms_now};

/// One delivery of a task, and what is to run it.
pub(super) struct Attempt {
    pub(super) message: Message,
    pub(super) redelivered: bool,
    pub(super) task: Task,
    pub(super) revision: Arc<Revision>,
    pub(super) slot: Arc<AgentSlot>,
    /// How it ends without a run, where it is pinned to a revision that cannot be had.
    pub(super) refused: Option<Outcome>,
    pub(super) started_at_ms: UnixMs,
    pub(super) host: Arc<str>,
    pub(super) records: Arc<dyn Inbox>,
    pub(super) metrics: Arc<AgentMetrics>,
    pub(super) is_noted_as_running: AtomicBool,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attempt").field(&self.task.id).finish()
    }
}

impl Attempt {
    /// How a task ends that is not worth an instance.
    pub(super) fn not_to_be_run(&self) -> Option<Outcome> {
        if self.task.is_expired(self.started_at_ms) {
            return Some(Outcome::Expired);
        }
        self.refused.clone()
    }

    /// Notes that it runs, once.
    pub(super) fn note_running(&self) {
        if !self.is_noted_as_running.swap(true, Ordering::Relaxed) {
            self.records.note(self.update(Status::Running, None));
        }
    }

    pub(super) fn update(&self, status: Status, completion: Option<&Completion>) -> Update {
        let output = match completion.map(|completion| &completion.outcome) {
            Some(Outcome::Succeeded(output)) => output.clone(),
            _ => None,
        };
        Update {
            id: self.task.id.clone(),
            agent: self.task.agent.clone(),
            revision: Some(self.revision.number),
            status,
            attempt: self.task.attempt,
            generation: self.task.generation,
            output,
            failure: completion.and_then(|completion| completion.outcome.failure()),
            usage: completion.map(|completion| completion.usage),
            enqueued_at_ms: self.task.enqueued_at_ms,
            started_at_ms: Some(self.started_at_ms),
            finished_at_ms: status.is_terminal().then(unix_ms_now),
        }
    }
}

impl Run for Attempt {
    fn task(&self) -> &Task {
        &self.task
    }

    fn revision(&self) -> &Arc<Revision> {
        &self.revision
    }

    fn ending(&self, completion: &Completion) -> Ending {
        self.ended(completion)
    }
}

impl ProgressSink for Attempt {
    fn note(&self, progress: Progress) {
        // Nothing is kept of the progress of a task that does not run yet.
        self.note_running();
        self.records.note_progress(&self.task.id, progress);
    }
}
