//! Follow-up tasks, and the running task's progress and cancellation.

use std::time::Duration;

#[cfg(target_family = "wasm")]
use crate::bindings::agent::runtime::tasks as raw;
#[cfg(not(target_family = "wasm"))]
use crate::testing::tasks as raw;
use crate::{Failure, IntoOutput, Output};

/// Why a task was not submitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest does not grant this agent.
    #[error("submitting to this agent is not granted: {0}")]
    AccessDenied(String),
    /// No agent of this name is deployed.
    #[error("no such agent: {0}")]
    UnknownAgent(String),
    /// An option is out of range.
    #[error("an option of the task is out of range: {0}")]
    InvalidOption(String),
    /// The body is too large, or this run has submitted too many.
    #[error("a limit on follow-up tasks was reached: {0}")]
    LimitExceeded(String),
    /// The task could not be stored.
    #[error("the task could not be stored: {0}")]
    Unavailable(String),
    /// The body could not be made.
    #[error("the task has no body: {0}")]
    Body(String),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<raw::Error> for Error {
    fn from(error: raw::Error) -> Self {
        match error {
            raw::Error::AccessDenied(text) => Self::AccessDenied(text),
            raw::Error::UnknownAgent(text) => Self::UnknownAgent(text),
            raw::Error::InvalidOption(text) => Self::InvalidOption(text),
            raw::Error::LimitExceeded(text) => Self::LimitExceeded(text),
            raw::Error::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

/// A follow-up task in the making.
///
/// ```no_run
/// # use agent_sdk::{Json, tasks};
/// # use std::time::Duration;
/// let id = tasks::to("counter").delay(Duration::from_secs(5)).submit(Json("visits"))?;
/// # Ok::<(), tasks::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "nothing is sent before `submit`"]
pub struct Submission {
    agent: String,
    options: raw::SubmitOptions,
}

/// A task for an agent that the manifest's `tasks` grant names.
pub fn to(agent: impl Into<String>) -> Submission {
    let options = raw::SubmitOptions {
        delay_ms: None,
        idempotency_key: None,
        content_type: None,
        headers: Vec::new(),
        max_attempts: None,
    };
    Submission { agent: agent.into(), options }
}

impl Submission {
    /// Waits at least this long before the task is run; 30 days at most.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.delay_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Makes the task's id follow from this key: submitted twice, it runs once. Without one the host takes the running
    /// task and the position of this call.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.options.idempotency_key = Some(key.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.headers.push((name.into(), value.into()));
        self
    }

    /// Sets how many attempts the task gets.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.options.max_attempts = Some(attempts);
        self
    }

    /// Submits the task and gives its id. Under `transaction = "task"` it leaves only if the running task succeeds.
    pub fn submit(mut self, body: impl IntoOutput) -> Result<String, Error> {
        let body = self.take_body(body)?;
        Ok(raw::submit(&self.agent, &body, &self.options)?)
    }

    fn take_body(&mut self, body: impl IntoOutput) -> Result<Vec<u8>, Error> {
        let body = body.into_output().map_err(|failure: Failure| Error::Body(failure.to_string()))?;
        let Output { content_type, body, headers } = body.unwrap_or_default();
        self.options.content_type = content_type;
        self.options.headers.extend(headers);
        Ok(body)
    }
}

/// Whether somebody has asked for this task to be cancelled.
pub fn is_cancelled() -> bool {
    raw::is_cancelled()
}

/// Tells how far this task is, from 0 to 1.
pub fn progress(fraction: f64, note: &str) {
    raw::progress(fraction, (!note.is_empty()).then_some(note));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    #[test]
    fn the_body_brings_its_media_type_and_headers() {
        let mut submission = to("counter").delay(Duration::from_secs(5)).header("a", "1");
        assert_eq!(submission.take_body(Json("visits")), Ok(b"\"visits\"".to_vec()));
        assert_eq!(submission.options.content_type.as_deref(), Some("application/json"));
        assert_eq!(submission.options.delay_ms, Some(5000));

        submission.take_body(Output::text("x").header("b", "2")).unwrap();
        assert_eq!(submission.options.headers, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    }
}
