//! Log: what an agent says, as records of the host's log that carry agent, revision, task id and attempt.
//!
//! A line is the guest's, so it is shown as text: control characters and characters that reorder text are escaped, so
//! that no line can look like another record. Lines and the whole of a task's log are cut at a limit. What an agent
//! prints is logged too, with `stdout` (at `info`) or `stderr` (at `warn`) for its context.
//!
//! The same lines, those of every level, are gathered to be kept with the task.

mod host;
mod stdio;

pub use stdio::Stdio;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;

use super::SessionPlan;
use super::secrets::HiddenValues;
use crate::memory::{Charge, MemoryLedger};
use crate::task::{AgentName, RunLog, Task, TaskId, UnixMs, unix_ms_now};
pub use crate::text::escaped;
use crate::trace::TraceId;
use crate::units::ByteSize;

/// Longest line, in bytes. What is longer is data, and wants another place than a log.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// Bytes that are kept of the lines of one run, as JSON: as much as `limits.log` allows unless a manifest says otherwise. A
/// thousand tasks may run at once, and what they said waits in memory for their ends.
pub const KEPT_BYTES_MAX: usize = 256 << 10;
/// What is accounted for at a time of it. The first so many bytes of a log show in what is measured of the process.
const CHARGED_BYTES: usize = 16 << 10;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// Something is off.
    Warn,
    /// Something failed.
    Error,
    /// Nothing works.
    Critical,
}

/// The log of one task. Shared: lines also come from its standard output and error, see [`Stdio`].
#[derive(Debug)]
pub struct GuestLog {
    agent: AgentName,
    revision: u64,
    task_id: TaskId,
    attempt: u32,
    trace_id: Option<TraceId>,
    bytes_max: ByteSize,
    bytes: AtomicU64,
    cut: AtomicBool,
    kept: Mutex<Kept>,
    ledger: OnceLock<MemoryLedger>,
    /// Secrets that the agent has looked at.
    hidden: HiddenValues,
}

/// The lines that are kept so far.
#[derive(Debug, Default)]
struct Kept {
    lines: String,
    is_cut: bool,
    charges: Vec<Charge>,
}

/// A line as it is kept.
#[derive(Serialize)]
struct Line<'a> {
    at: UnixMs,
    level: Level,
    context: &'a str,
    message: &'a str,
}

impl GuestLog {
    pub(super) fn new(plan: &SessionPlan, task: &Task) -> Self {
        Self {
            agent: plan.agent().clone(),
            revision: plan.revision(),
            task_id: task.id.clone(),
            attempt: task.attempt,
            trace_id: TraceId::of(task),
            bytes_max: plan.manifest().limits.log,
            bytes: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            kept: Mutex::default(),
            ledger: OnceLock::new(),
            hidden: HiddenValues::default(),
        }
    }

    /// Replaces a secret's value, from now on, in whatever the agent says for people to read.
    pub fn hide(&self, value: &str) {
        self.hidden.add(value);
    }

    /// What the agent says, as it may be shown: without its secrets, and [`escaped`].
    #[must_use]
    pub fn presentable(&self, text: &str, bytes_max: usize) -> String {
        escaped(&self.hidden.hide(text), bytes_max)
    }

    /// Logs a line, unless the task has said as much as `limits.log` allows. The first line over it is noted, the others
    /// are only counted.
    pub fn line(&self, level: Level, context: &str, message: &str) {
        let message = self.presentable(message, LINE_BYTES_MAX);
        let context = self.presentable(context, LINE_BYTES_MAX);
        let bytes = u64::try_from(message.len().saturating_add(context.len())).unwrap_or(u64::MAX);
        // An empty line takes room in the host's log all the same.
        let said = self.bytes.fetch_add(bytes.max(1), Ordering::Relaxed);
        if said.saturating_add(bytes) <= self.bytes_max.0 {
            self.record(level, &context, &message);
        } else if !self.cut.swap(true, Ordering::Relaxed) {
            let note = format!("the task's log is cut here: limits.log = {}", self.bytes_max);
            self.record(Level::Warn, "agent-host", &note);
        }
    }

    /// Whether lines were dropped.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Accounts for what is kept from now on.
    pub fn account_to(&self, ledger: &MemoryLedger) {
        // A log has one ledger: the first.
        let _ = self.ledger.set(ledger.clone());
    }

    /// What was said so far, if anything was, to be kept with the task.
    #[must_use]
    pub fn take(&self) -> Option<Arc<RunLog>> {
        let kept = std::mem::take(&mut *self.kept());
        let Kept { lines, is_cut, charges } = kept;
        (!lines.is_empty()).then(|| Arc::new(RunLog::new(lines, is_cut || self.is_cut(), charges)))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, level: Level, context: &str, message: &str) {
        let Ok(line) = serde_json::to_string(&Line { at: unix_ms_now(), level, context, message }) else { return };
        let mut kept = self.kept();
        kept.is_cut |= kept.lines.len().saturating_add(line.len()) >= KEPT_BYTES_MAX;
        // Once cut it stays so: a line that happens to fit would stand as if nothing were missing before it.
        if kept.is_cut {
            return;
        }
        kept.lines.push_str(&line);
        kept.lines.push('\n');
        let charges = kept.lines.len() / CHARGED_BYTES;
        if let Some(ledger) = self.ledger.get().filter(|_| charges > kept.charges.len()) {
            let more = charges.saturating_sub(kept.charges.len()).saturating_mul(CHARGED_BYTES);
            // One for each step that is full; a line is shorter than a step.
            kept.charges.push(ledger.charge(more as u64));
        }
    }

    /// The trace that the task belongs to.
    #[must_use]
    pub fn trace_id(&self) -> Option<TraceId> {
        self.trace_id
    }

    fn record(&self, level: Level, context: &str, message: &str) {
        self.keep(level, context, message);
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    target: "agent",
                    tracing::Level::$level,
                    agent = %self.agent,
                    revision = self.revision,
                    task_id = %self.task_id,
                    attempt = self.attempt,
                    trace_id = self.trace_id.map(tracing::field::display),
                    context,
                    "{message}"
                )
            };
        }
        match level {
            Level::Trace => event!(TRACE),
            Level::Debug => event!(DEBUG),
            Level::Info => event!(INFO),
            Level::Warn => event!(WARN),
            Level::Error | Level::Critical => event!(ERROR),
        }
    }
}
