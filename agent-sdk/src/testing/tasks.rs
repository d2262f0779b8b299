//! Follow-up tasks.

use std::time::Duration;

use super::with;
pub(crate) use crate::bindings::agent::runtime::tasks::{Error, SubmitOptions};

/// A follow-up task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The id that it was given.
    pub id: String,
    /// For which agent.
    pub agent: String,
    /// Its body.
    pub body: Vec<u8>,
    /// The body's media type, where it has one.
    pub content_type: Option<String>,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// How long it waits at least.
    pub delay: Option<Duration>,
    /// What its id follows from, where it was said.
    pub idempotency_key: Option<String>,
    /// How many attempts it gets, where it was said.
    pub max_attempts: Option<u32>,
}

pub(crate) fn submit(agent: &str, body: &[u8], options: &SubmitOptions) -> Result<String, Error> {
    Ok(with(|state| {
        let same = |one: &&Submitted| one.agent == agent && one.idempotency_key == options.idempotency_key;
        let before = state.submitted.iter().find(same).filter(|_| options.idempotency_key.is_some());
        if let Some(before) = before {
            return before.id.clone();
        }
        let id = format!("task-{}", state.submitted.len() + 1);
        state.submitted.push(Submitted {
            id: id.clone(),
            agent: agent.to_owned(),
            body: body.to_vec(),
            content_type: options.content_type.clone(),
            headers: options.headers.clone(),
            delay: options.delay_ms.map(Duration::from_millis),
            idempotency_key: options.idempotency_key.clone(),
            max_attempts: options.max_attempts,
        });
        id
    }))
}

pub(crate) fn is_cancelled() -> bool {
    with(|state| state.is_cancelled)
}

pub(crate) fn progress(fraction: f64, note: Option<&str>) {
    with(|state| state.progress = Some((fraction, note.map(str::to_owned))));
}
