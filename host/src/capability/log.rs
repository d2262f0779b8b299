//! Log: what an agent says, as records of the host's log that carry agent, revision, task id and attempt.
//!
//! A line is the guest's, so it is shown as text: control characters and characters that reorder text are escaped, so
//! that no line can look like another record. Lines and the whole of a task's log are cut at a limit. What an agent
//! prints is logged too, with `stdout` (at `info`) or `stderr` (at `warn`) for its context.

mod host;
mod stdio;

pub use stdio::Stdio;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::SessionPlan;
use super::secrets::HiddenValues;
use crate::task::{AgentName, Task, TaskId};
pub use crate::text::escaped;
use crate::units::ByteSize;

/// Longest line, in bytes. What is longer is data, and wants another place than a log.
pub const LINE_BYTES_MAX: usize = 8 << 10;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    bytes_max: ByteSize,
    bytes: AtomicU64,
    cut: AtomicBool,
    /// Secrets that the agent has looked at.
    hidden: HiddenValues,
}

impl GuestLog {
    pub(super) fn new(plan: &SessionPlan, task: &Task) -> Self {
        Self {
            agent: plan.agent().clone(),
            revision: plan.revision(),
            task_id: task.id.clone(),
            attempt: task.attempt,
            bytes_max: plan.manifest().limits.log,
            bytes: AtomicU64::new(0),
            cut: AtomicBool::new(false),
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

    fn record(&self, level: Level, context: &str, message: &str) {
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    target: "agent",
                    tracing::Level::$level,
                    agent = %self.agent,
                    revision = self.revision,
                    task_id = %self.task_id,
                    attempt = self.attempt,
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
