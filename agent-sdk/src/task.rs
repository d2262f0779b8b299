//! The task as a handler sees it, and what can be made of it.

use serde::de::DeserializeOwned;

use crate::{Failure, bindings};

/// One unit of work, as one attempt sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// The task's id, the same on every attempt.
    pub id: String,
    /// The agent's name.
    pub agent: String,
    /// The number of the revision that runs.
    pub revision: u32,
    /// Which attempt this is, counted from 1.
    pub attempt: u32,
    /// The attempt after which a failure is final.
    pub max_attempts: u32,
    /// When the task was enqueued, in milliseconds since 1970-01-01T00:00Z.
    pub enqueued_at_ms: u64,
    /// When this attempt is stopped at the latest, in milliseconds since 1970-01-01T00:00Z.
    pub deadline_ms: u64,
    /// Header names (lower case) and values, in the order of arrival.
    pub headers: Vec<(String, String)>,
    /// The media type of the body.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
    /// The W3C trace context of the task: that of its run where the host traces, otherwise what it arrived with.
    pub traceparent: Option<String>,
}

impl Task {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a failure of this attempt is final.
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// The body as JSON. A body that does not fit is rejected, with the place and the reason.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::reject(format!("the body is not the JSON that this agent takes: {error}")))
    }

    /// The body as text. One that is not UTF-8 is rejected.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body).map_err(|error| Failure::reject(format!("the body is not UTF-8 text: {error}")))
    }
}

impl From<bindings::agent::runtime::types::Task> for Task {
    fn from(raw: bindings::agent::runtime::types::Task) -> Self {
        Self {
            id: raw.id,
            agent: raw.agent,
            revision: raw.revision,
            attempt: raw.attempt,
            max_attempts: raw.max_attempts,
            enqueued_at_ms: raw.enqueued_at,
            deadline_ms: raw.deadline,
            headers: raw.headers,
            content_type: raw.content_type,
            body: raw.body,
            traceparent: raw.traceparent,
        }
    }
}

/// What a handler can take as an argument.
pub trait FromTask: Sized {
    /// Makes the argument; a task that does not fit is failed.
    fn from_task(task: &Task) -> Result<Self, Failure>;

    /// As [`FromTask::from_task`], for the one argument that the task can be handed over to without a copy.
    fn from_owned_task(task: Task) -> Result<Self, Failure> {
        Self::from_task(&task)
    }
}

impl FromTask for Task {
    fn from_task(task: &Task) -> Result<Self, Failure> {
        Ok(task.clone())
    }

    fn from_owned_task(task: Task) -> Result<Self, Failure> {
        Ok(task)
    }
}

/// The body, unchanged.
impl FromTask for Vec<u8> {
    fn from_task(task: &Task) -> Result<Self, Failure> {
        Ok(task.body.clone())
    }

    fn from_owned_task(task: Task) -> Result<Self, Failure> {
        Ok(task.body)
    }
}

/// The body as UTF-8 text.
impl FromTask for String {
    fn from_task(task: &Task) -> Result<Self, Failure> {
        task.text().map(str::to_owned)
    }
}

/// JSON: as an argument the body, as a result the output, each of the type inside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromTask for Json<T> {
    fn from_task(task: &Task) -> Result<Self, Failure> {
        task.json().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(body: &[u8]) -> Task {
        Task { body: body.to_vec(), attempt: 2, max_attempts: 2, ..Task::default() }
    }

    #[test]
    fn a_body_that_is_not_the_expected_json_is_rejected_with_its_place() {
        let failure = Json::<Vec<u32>>::from_task(&task(b"[1, \"two\"]")).unwrap_err();
        assert!(matches!(failure, Failure::Reject { .. }));
        assert!(failure.message().contains("line 1 column"), "{failure}");
    }

    #[test]
    fn text_must_be_utf8() {
        assert_eq!(String::from_task(&task("grüß".as_bytes())), Ok("grüß".to_owned()));
        assert!(matches!(String::from_task(&task(&[0xff])), Err(Failure::Reject { .. })));
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let task = Task { headers: vec![("width".into(), "64".into())], ..task(b"") };
        assert_eq!(task.header("Width"), Some("64"));
        assert_eq!(task.header("height"), None);
    }

    #[test]
    fn the_last_attempt_knows_it() {
        assert!(task(b"").is_last_attempt());
        assert!(!Task { attempt: 1, ..task(b"") }.is_last_attempt());
    }
}
