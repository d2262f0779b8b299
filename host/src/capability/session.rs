//! What one task may reach, and what it leaves behind when it ends.

mod plan;

use std::sync::{Arc, OnceLock};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

pub use self::plan::SessionPlan;
use super::cache::Cache;
use super::calls::Calls;
use super::key_value::KeyValue;
use super::log::GuestLog;
use super::recording::{Recorder, Tape, taped};
use super::secrets::SecretSource;
use super::sql::{CommitError, Committed, End, SqlSession};
use super::tasks::{Directory, FollowUps, ProgressSink};
use super::{Backends, Shared, chain};
use crate::manifest::{RecordOn, TransactionMode};
use crate::memory::{Held, Holder, NoRoom};
use crate::records::Ending;
use crate::task::{FollowUp, Task, TaskId, UnixMs, unix_ms_now};
use crate::trace::Scope;

/// Refusals and failures of one task that the host logs: enough to see what is wrong, too few to flood the log.
const TROUBLES_LOGGED_MAX: u32 = 5;

/// What one task may reach. Dropping it rolls back: nothing that it holds is used again.
pub struct Session {
    shared: Arc<Shared>,
    plan: Arc<SessionPlan>,
    /// What the run asks and is told, where that is recorded or comes from a recording.
    tape: Option<Arc<Tape>>,
    /// The backends on that tape, from the first call on.
    taped: OnceLock<Box<Backends>>,
    task_id: TaskId,
    attempt: u32,
    traceparent: Option<String>,
    calls: Calls,
    log: Arc<GuestLog>,
    pub(super) sql: SqlSession,
    pub(super) follow_ups: FollowUps,
    /// Where what the host holds for the task is accounted for.
    holder: Holder,
    /// Bytes of values that the guest has remembered for compare-and-swap.
    pub(super) remembered_bytes: usize,
    pub(super) remembered: Held,
    cancellation: Option<CancellationToken>,
    pub(super) progress: Option<Arc<dyn ProgressSink>>,
    /// What the messages take that the guest holds.
    pub(super) message_bytes: usize,
    pub(super) messages: Held,
    host_calls: u64,
    troubles: u32,
    trouble: Option<Trouble>,
}

/// What a task leaves behind.
#[derive(Debug)]
pub struct Finished {
    /// What was committed, where it was to commit; [`Committed::Effects`] after a rollback.
    pub result: Result<Committed, CommitError>,
    /// The end that was to be committed with the effects, if it was.
    pub ending: Option<Box<Ending>>,
    /// Tasks that are to be published: those of a committed session, and under `transaction = "statement"` all.
    pub follow_ups: Vec<FollowUp>,
    /// Calls that the guest made.
    pub host_calls: u64,
    /// What kept the task from its work through no fault of its own.
    pub trouble: Option<Trouble>,
}

/// What kept a task from its work through no fault of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Another transaction was in the way: at once it may do better.
    Conflict,
    /// This capability was away: later it may do better.
    Away(&'static str),
}

/// Makes a task's end of its follow-ups and the number of its host calls.
pub type MakeEnding<'a> = &'a (dyn Fn(&[FollowUp], u64) -> Ending + Send + Sync);

impl Session {
    pub(super) fn new(shared: Arc<Shared>, plan: Arc<SessionPlan>, task: &Task) -> Self {
        let log = GuestLog::new(&plan, task);
        let record = &plan.manifest.record;
        let recorded = || match record.on {
            RecordOn::Never => None,
            RecordOn::Failure => Tape::recording(record.size.as_usize()),
        };
        Self {
            tape: shared.replay.clone().or_else(recorded),
            taped: OnceLock::new(),
            shared,
            plan,
            task_id: task.id.clone(),
            attempt: task.attempt,
            traceparent: task.traceparent.clone(),
            calls: Calls::default(),
            log: Arc::new(log),
            sql: SqlSession::default(),
            follow_ups: FollowUps::default(),
            holder: Holder::default(),
            remembered_bytes: 0,
            remembered: Held::default(),
            cancellation: None,
            progress: None,
            message_bytes: 0,
            messages: Held::default(),
            host_calls: 0,
            troubles: 0,
            trouble: None,
        }
    }

    /// Answers `is-cancelled` from this token.
    #[must_use]
    pub fn with_cancellation(mut self, cancellation: CancellationToken) -> Self {
        self.cancellation = Some(cancellation);
        self
    }

    /// Sends the task's progress there.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn ProgressSink>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Tells of the task's calls in the trace of its attempt.
    #[must_use]
    pub fn with_trace(mut self, attempt: &Scope) -> Self {
        self.calls = Calls::new(attempt);
        self
    }

    /// Accounts there for what the host holds for the task.
    #[must_use]
    pub fn with_holder(mut self, holder: Holder) -> Self {
        self.remembered = holder.nothing();
        self.messages = holder.nothing();
        self.follow_ups.held = holder.nothing();
        self.sql.account_to(&holder);
        if let Some(tape) = &self.tape {
            tape.account_to(&holder);
        }
        self.holder = holder;
        self
    }

    /// Accounts for bytes that the host holds during a call, or until what this gives is dropped.
    pub(super) fn hold(&self, bytes: usize) -> Result<Held, NoRoom> {
        self.holder.hold(bytes)
    }

    /// Waits for a turn to read so many values of the largest size, and has it until what this gives is dropped.
    pub(super) fn turn_to_read(&self, values: usize) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let turns = Arc::clone(&self.shared.reads);
        // Never closed.
        async move { turns.acquire_many_owned(u32::try_from(values).unwrap_or(1)).await.ok() }
    }

    /// Where what the host holds for the task is accounted for.
    pub(super) fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The task's log, also for lines that reach the host another way (standard output and error).
    #[must_use]
    pub fn log(&self) -> &Arc<GuestLog> {
        &self.log
    }

    /// Ends the session: commits its SQL effects, together with the task's end, or rolls them back, and gives out what is
    /// left to do.
    pub async fn finish(mut self, commit: Option<MakeEnding<'_>>) -> Finished {
        let mode = self.plan.manifest.effects.transaction;
        let follow_ups = std::mem::take(&mut self.follow_ups).into_vec();
        let with_end = commit.filter(|_| mode == TransactionMode::Task && self.sql.was_used());
        let ending = with_end.map(|make| Box::new(make(&follow_ups, self.host_calls)));
        let end = if commit.is_some() { End::Commit(ending.as_deref()) } else { End::Rollback };
        let result = if self.sql.was_used() {
            let mut span = self.calls.end_of_sql(if commit.is_some() { "commit" } else { "rollback" });
            // Boxed where there is something to finish: most tasks have not used SQL.
            let result = Box::pin(self.sql.finish(end)).await;
            if result.is_err() {
                span.fail("not_committed");
            }
            result
        } else {
            Ok(Committed::Effects)
        };
        if let Err(CommitError::Refused(error)) = &result
            && error.is_conflict()
        {
            self.trouble = Some(Trouble::Conflict);
        }
        let leave = match mode {
            TransactionMode::Task => commit.is_some() && result.is_ok(),
            TransactionMode::Statement => true,
        };
        let ending = ending.filter(|_| matches!(result, Ok(Committed::WithEnd(_))));
        let follow_ups = if leave { follow_ups } else { Vec::new() };
        Finished { result, ending, follow_ups, host_calls: self.host_calls, trouble: self.trouble }
    }

    /// Calls that the guest made so far.
    #[must_use]
    pub fn host_calls(&self) -> u64 {
        self.host_calls
    }

    /// Adds calls that were counted elsewhere: outbound HTTP is answered without the session.
    pub fn add_calls(&mut self, calls: u32) {
        self.host_calls = self.host_calls.saturating_add(u64::from(calls));
    }

    pub(super) fn count_call(&mut self) {
        self.host_calls = self.host_calls.saturating_add(1);
    }

    pub(super) fn plan(&self) -> &Arc<SessionPlan> {
        &self.plan
    }

    pub(super) fn task_id(&self) -> &TaskId {
        &self.task_id
    }

    /// The trace that the task came with.
    pub(super) fn traceparent(&self) -> Option<&String> {
        self.traceparent.as_ref()
    }

    /// The spans of the task's calls.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancellation.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// The run's tape, where it has one.
    #[must_use]
    pub fn tape(&self) -> Option<&Arc<Tape>> {
        self.tape.as_ref()
    }

    /// What makes the run's recording once it has ended, where it has a tape.
    #[must_use]
    pub fn recorder(&self) -> Option<Recorder> {
        let secrets = Arc::clone(&self.shared.backends.secrets);
        self.tape.clone().map(|tape| Recorder { tape, secrets })
    }

    /// The time of day, as the agent is told it.
    #[must_use]
    pub fn unix_ms_now(&self) -> UnixMs {
        self.tape.as_ref().map_or_else(unix_ms_now, |tape| tape.unix_ms_now())
    }

    pub(super) fn key_value(&self) -> &dyn KeyValue {
        &*backends(&self.shared, self.tape.as_ref(), &self.taped).key_value
    }

    pub(super) fn cache(&self) -> &dyn Cache {
        &*backends(&self.shared, self.tape.as_ref(), &self.taped).cache
    }

    pub(super) fn secrets(&self) -> &dyn SecretSource {
        &*backends(&self.shared, self.tape.as_ref(), &self.taped).secrets
    }

    pub(super) fn directory(&self) -> &dyn Directory {
        &*backends(&self.shared, self.tape.as_ref(), &self.taped).directory
    }

    /// The SQL session with what it needs to open a connection.
    pub(super) fn sql_parts(&mut self) -> (&mut SqlSession, &dyn super::sql::Database, &SessionPlan) {
        let backends = backends(&self.shared, self.tape.as_ref(), &self.taped);
        (&mut self.sql, &*backends.database, &self.plan)
    }

    /// Logs a call without a grant.
    pub(super) fn note_denied(&mut self, capability: &'static str, what: &str, line: &str) {
        if self.may_log_trouble() {
            let what = super::log::escaped(what, super::log::LINE_BYTES_MAX);
            let line = super::log::escaped(line, super::log::LINE_BYTES_MAX);
            tracing::warn!(
                agent = %self.plan.agent,
                revision = self.plan.revision,
                task_id = %self.task_id,
                attempt = self.attempt,
                trace_id = self.log.trace_id().map(tracing::field::display),
                capability,
                what,
                "the manifest does not grant what the agent asked for: add `{line}` to agent.toml"
            );
        }
    }

    /// Remembers that another transaction was in the way.
    pub(super) fn note_conflict(&mut self) {
        self.trouble.get_or_insert(Trouble::Conflict);
    }

    /// Logs a call that failed through no fault of the agent.
    pub(super) fn note_failed(&mut self, capability: &'static str, error: &dyn std::error::Error) {
        self.trouble = Some(Trouble::Away(capability));
        if self.may_log_trouble() {
            tracing::warn!(
                agent = %self.plan.agent,
                revision = self.plan.revision,
                task_id = %self.task_id,
                attempt = self.attempt,
                trace_id = self.log.trace_id().map(tracing::field::display),
                capability,
                error = chain(error),
                "a capability failed"
            );
        }
    }

    fn may_log_trouble(&mut self) -> bool {
        self.troubles = self.troubles.saturating_add(1);
        self.troubles <= TROUBLES_LOGGED_MAX
    }
}

/// Where a session's calls end: the host's backends, on its tape where it has one.
fn backends<'a>(shared: &'a Shared, tape: Option<&Arc<Tape>>, on_tape: &'a OnceLock<Box<Backends>>) -> &'a Backends {
    match tape {
        None => &shared.backends,
        Some(tape) => on_tape.get_or_init(|| Box::new(taped(&shared.backends, tape))),
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("agent", &self.plan.agent).field("task", &self.task_id).finish_non_exhaustive()
    }
}
