//! How a run ended, and what it used.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// What an agent answered with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Output {
    /// Media type of the body, where the agent named one.
    pub content_type: Option<String>,
    /// Headers of the result message.
    pub headers: Vec<(String, String)>,
    /// The answer's bytes.
    pub body: Bytes,
}

/// A cap that a run reached; its name stands in the failure's message and in the dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The limit's name as in the manifest or the documentation, such as `limits.output`.
    pub name: &'static str,
    /// What was allowed, with its unit.
    pub allowed: String,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.allowed)
    }
}

/// How a run ended (contract, section 1). There is deliberately no "other": adding a way to end breaks the build until
/// someone decides how it settles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The agent answered.
    Succeeded(Option<Output>),
    /// The agent asked to be run again.
    Retry {
        /// Its reason.
        message: String,
        /// The delay that it asked for; the manifest's backoff holds where absent.
        after_ms: Option<u64>,
    },
    /// The agent refused the task for good.
    Rejected {
        /// Its reason.
        message: String,
    },
    /// The agent crashed: a trap such as `unreachable`, or a broken answer.
    Trapped {
        /// The trap, with the innermost frames.
        message: String,
    },
    /// The agent ran past its wall-clock or processor time.
    TimedOut(Limit),
    /// The agent was refused memory and then trapped.
    OutOfMemory(Limit),
    /// Any other cap.
    LimitExceeded(Limit),
    /// Its deadline passed, before it ran or while it did.
    Expired,
    /// Someone cancelled it.
    Cancelled,
    /// The host stopped it to hand it back: shutdown, or no memory left. Not the task's fault.
    Interrupted,
    /// The host could not do its part: database or cache away, commit failed. Not the task's fault.
    HostError {
        /// What went wrong, without addresses or credentials.
        message: String,
    },
    /// It was running at several host deaths in a row, the last time alone.
    HostKiller,
}

impl Outcome {
    /// Its name in results, dead letters, metrics and the HTTP API.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::Retry { .. } => "retry",
            Self::Rejected { .. } => "rejected",
            Self::Trapped { .. } => "trapped",
            Self::TimedOut(_) => "timed-out",
            Self::OutOfMemory(_) => "out-of-memory",
            Self::LimitExceeded(_) => "limit-exceeded",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::HostError { .. } => "host-error",
            Self::HostKiller => "host-killer",
        }
    }

    /// What the agent answered, if it did.
    #[must_use]
    pub fn output(&self) -> Option<&Output> {
        match self {
            Self::Succeeded(output) => output.as_ref(),
            _ => None,
        }
    }

    /// What went wrong, for people; nothing for a success.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        let message = match self {
            Self::Succeeded(_) => return None,
            Self::Retry { message, .. }
            | Self::Rejected { message }
            | Self::Trapped { message }
            | Self::HostError { message } => message.clone(),
            Self::TimedOut(limit) => format!("ran past its time limit, {limit}"),
            Self::OutOfMemory(limit) => format!("asked for more memory than {limit} and trapped"),
            Self::LimitExceeded(limit) => format!("went over {limit}"),
            Self::Expired => "its deadline passed".to_owned(),
            Self::Cancelled => "cancelled on request".to_owned(),
            Self::Interrupted => "interrupted by its host and handed back".to_owned(),
            Self::HostKiller => "it was running at several host deaths in a row".to_owned(),
        };
        Some(Failure { kind: self.name().to_owned(), message })
    }
}

/// Why a task failed, as the HTTP API, results and dead letters say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// The outcome's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line for people, with the limit or exit code where there is one.
    pub message: String,
}

/// What a run used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Largest sum over all linear memories and tables of the instance, in bytes.
    pub memory_bytes_peak: u64,
    /// Time inside the guest, in microseconds.
    pub cpu_us: u64,
    /// Time from instantiation to the answer, host calls included, in microseconds.
    pub wall_us: u64,
    /// Calls from the guest to a brokered capability.
    pub host_calls: u64,
}

/// A finished run: how it ended, what it used, and what must leave the host before the delivery is acknowledged.
#[derive(Clone, Debug)]
pub struct Completion {
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// How long it took to make the instance; nothing where none came to be. For metrics alone: not part of the usage
    /// that senders are told.
    pub init: Option<Duration>,
    /// Tasks that the agent submitted and that are to be published.
    pub follow_ups: Vec<FollowUp>,
    /// What it said, if it did.
    pub log: Option<Arc<super::RunLog>>,
    /// What it asked and was told, where it failed and that is recorded.
    pub recording: Option<Arc<super::RunRecording>>,
}

impl Completion {
    /// Of a task that was not run.
    #[must_use]
    pub fn without_a_run(outcome: Outcome) -> Self {
        Self { outcome, usage: Usage::default(), init: None, follow_ups: Vec::new(), log: None, recording: None }
    }

    /// Whether there was an instance, or at least the beginning of one.
    #[must_use]
    pub fn is_of_a_run(&self) -> bool {
        self.init.is_some() || self.usage != Usage::default()
    }
}

/// A task that an agent submitted while it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowUp {
    /// The task.
    pub task: super::Task,
    /// How long it waits at least before it is run.
    pub delay: Duration,
}
