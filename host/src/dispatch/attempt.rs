//! One delivery of a task on its way through this host.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::metrics::AgentMetrics;
use super::slot::AgentSlot;
use crate::agent::{Revision, Run};
use crate::capability::tasks::ProgressSink;
use crate::delivery::Message;
use crate::records::{Ending, Inbox, Progress, Status, TaskLog, Update};
use crate::task::{Completion, Outcome, Task, UnixMs, unix_ms_now};
use crate::trace::Scope;

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
    /// Where what it does is told of.
    pub(super) scope: Scope,
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

    /// What a run said, if it did.
    pub(super) fn log(&self, completion: &Completion) -> Option<TaskLog> {
        let log = Arc::clone(completion.log.as_ref()?);
        Some(TaskLog {
            run: Uuid::now_v7(),
            task: self.task.id.clone(),
            generation: self.task.generation,
            attempt: self.task.attempt,
            revision: Some(self.revision.number),
            host: Arc::clone(&self.host),
            log,
        })
    }

    /// Notes what a run said, if it did.
    pub(super) fn note_log(&self, completion: &Completion) {
        if let Some(log) = self.log(completion) {
            self.records.note_log(log);
        }
    }

    /// Whether it came to a run. A task that kills its hosts did, before.
    pub(super) fn ran(completion: &Completion) -> bool {
        completion.is_of_a_run() || completion.outcome == Outcome::HostKiller
    }

    /// The change of its record. Nothing is said of a run that there was not.
    pub(super) fn update(&self, status: Status, completion: Option<&Completion>) -> Update {
        let ran = completion.is_none_or(Self::ran);
        let output = match completion.map(|completion| &completion.outcome) {
            Some(Outcome::Succeeded(output)) => output.clone(),
            _ => None,
        };
        Update {
            id: self.task.id.clone(),
            agent: self.task.agent.clone(),
            revision: ran.then_some(self.revision.number),
            status,
            attempt: self.task.attempt,
            generation: self.task.generation,
            output,
            failure: completion.and_then(|completion| completion.outcome.failure()),
            usage: completion.filter(|completion| completion.is_of_a_run()).map(|completion| completion.usage),
            enqueued_at_ms: self.task.enqueued_at_ms,
            started_at_ms: ran.then_some(self.started_at_ms),
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

    fn scope(&self) -> Scope {
        self.scope.clone()
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
