//! What the API shows, as JSON.

mod agent;
mod dead_letter;
mod log;
mod secret;

pub(crate) use agent::{AgentView, DeployedOrPlanView, DeployedView, EventView, PlanView};
pub(crate) use dead_letter::{DeadLetterView, DroppedView, OpenedView, RedriveView, RedrivenView};
pub(crate) use log::RunLogView;
pub(crate) use secret::{SecretSetView, SecretView};

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::records::{Progress, Status, TaskRecord};
use crate::task::{Failure, UnixMs, Usage};

/// A task that was accepted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AcceptedView {
    /// The task's id.
    pub(crate) id: String,
    /// Its agent.
    pub(crate) agent: String,
    /// `queued`; further on where the idempotency key was used before.
    pub(crate) status: Status,
}

/// A task that was cancelled.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CancelledView {
    /// The task's id.
    pub(crate) id: String,
    /// `cancelled`.
    pub(crate) status: Status,
}

/// The tasks of a batch that was accepted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct BatchView {
    /// Their ids, in the order of the lines.
    pub(crate) ids: Vec<String>,
}

/// What is known about a task. What is not known yet is null.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TaskView {
    /// The task's id.
    id: String,
    /// Its agent.
    agent: String,
    /// The revision that ran it last.
    revision: Option<u64>,
    /// Where it stands.
    status: Status,
    /// The attempt that it is at, from 1.
    attempt: u32,
    /// What the agent answered: the JSON value where its content type is JSON, else a string, or `{"base64":"…"}` for
    /// bytes that are not UTF-8.
    #[schema(value_type = Option<serde_json::Value>)]
    output: Option<Box<RawValue>>,
    /// Why the last attempt failed.
    #[schema(value_type = Option<FailureView>)]
    failure: Option<Failure>,
    /// How far it said it was.
    progress: Option<Progress>,
    /// What the last attempt used.
    #[schema(value_type = Option<UsageView>)]
    usage: Option<Usage>,
    /// When it was enqueued, in Unix milliseconds.
    enqueued_at: UnixMs,
    /// When its last attempt began, in Unix milliseconds.
    started_at: Option<UnixMs>,
    /// When it ended, in Unix milliseconds.
    finished_at: Option<UnixMs>,
}

/// Why a task failed. Documentation of [`Failure`], which is written as it is.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes Failure in the OpenAPI document; the vocabulary does not know HTTP")]
pub(crate) struct FailureView {
    /// The outcome's name: `retry`, `rejected`, `trapped`, `timed-out`, `out-of-memory`, `limit-exceeded`, `expired`,
    /// `cancelled`, `interrupted`, `host-error` or `host-killer`.
    #[schema(rename = "type")]
    kind: String,
    /// One line for people, with the limit or exit code where there is one.
    message: String,
}

/// What an attempt used. Documentation of [`Usage`], which is written as it is.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes Usage in the OpenAPI document; the vocabulary does not know HTTP")]
pub(crate) struct UsageView {
    /// Largest memory of the instance, in bytes.
    memory_bytes_peak: u64,
    /// Time inside the guest, in microseconds.
    cpu_us: u64,
    /// Time from instantiation to the answer, in microseconds.
    wall_us: u64,
    /// Calls to brokered capabilities.
    host_calls: u64,
}

impl From<TaskRecord> for TaskView {
    fn from(record: TaskRecord) -> Self {
        Self {
            id: record.id.to_string(),
            agent: record.agent.to_string(),
            revision: record.revision,
            status: record.status,
            attempt: record.attempt,
            output: record.output.as_ref().and_then(|output| shown(output.content_type.as_deref(), &output.body)),
            failure: record.failure,
            progress: record.progress,
            usage: record.usage,
            enqueued_at: record.enqueued_at_ms,
            started_at: record.started_at_ms,
            finished_at: record.finished_at_ms,
        }
    }
}

/// An output or a body as JSON. What is JSON is passed through as it was written, so that no number loses digits.
fn shown(content_type: Option<&str>, body: &[u8]) -> Option<Box<RawValue>> {
    let json = match std::str::from_utf8(body) {
        Ok(text) => {
            let is_json = content_type.is_some_and(is_json_type);
            if let Some(value) = is_json.then(|| serde_json::from_str::<Box<RawValue>>(text).ok()).flatten() {
                return Some(value);
            }
            serde_json::to_string(text)
        }
        Err(_) => serde_json::to_string(&BTreeMap::from([("base64", STANDARD.encode(body))])),
    };
    json.and_then(RawValue::from_string).ok()
}

/// `application/json` and the `+json` types.
fn is_json_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

/// A page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Page<T> {
    /// This page's items.
    pub(crate) items: Vec<T>,
    /// The `cursor` of the next page; null on the last.
    pub(crate) next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_json_a_string_or_base64() {
        for (content_type, body, json) in [
            (Some("application/json"), &b"{\"n\": 12345678901234567890123}"[..], "{\"n\": 12345678901234567890123}"),
            (Some("application/problem+json; charset=utf-8"), b"[1]", "[1]"),
            (Some("application/json"), b"not json", "\"not json\""),
            (Some("application/json"), b"", "\"\""),
            (Some("text/plain"), b"{\"n\":1}", "\"{\\\"n\\\":1}\""),
            (None, b"hello", "\"hello\""),
            (Some("image/png"), b"\xff\x00", "{\"base64\":\"/wA=\"}"),
            (Some("application/json"), b"\xff", "{\"base64\":\"/w==\"}"),
        ] {
            assert_eq!(shown(content_type, body).unwrap().get(), json);
        }
    }
}
