//! Dead letters, as JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::shown;
use crate::dead_letters::{Opened, Redriven};
use crate::delivery::HeaderValue;
use crate::records::DeadLetter;
use crate::task::{Failure, UnixMs};

/// A task that failed for good, and why.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeadLetterView {
    /// The task's id, which is the dead letter's too.
    id: String,
    /// Its agent.
    agent: String,
    /// How often it had been redriven before it failed.
    generation: u32,
    /// When it failed, in Unix milliseconds.
    failed_at: UnixMs,
    /// Why.
    #[schema(value_type = super::FailureView)]
    failure: Failure,
    /// How many attempts it used: 0 where it never ran.
    attempts: u32,
    /// The revision that ran its last attempt; null where that never ran, such as one whose deadline passed in the queue.
    revision: Option<u64>,
    /// That revision's module, as `sha256:<hex>`.
    digest: Option<String>,
    /// The host that gave it up.
    host: String,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id.to_string(),
            agent: letter.agent.to_string(),
            generation: letter.generation,
            failed_at: letter.failed_at_ms,
            failure: Failure { kind: letter.error_type, message: letter.error_message },
            attempts: letter.attempts,
            revision: letter.revision,
            digest: letter.digest,
            host: letter.host,
        }
    }
}

/// A dead letter and the message that it was.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct OpenedView {
    #[serde(flatten)]
    letter: DeadLetterView,
    /// The message's headers: numbers, truth values and text as such, bytes as `{"base64":"…"}`, times in Unix
    /// milliseconds.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    headers: BTreeMap<String, Value>,
    /// The body's media type.
    content_type: Option<String>,
    /// The task's body: the JSON value where its content type is JSON, else a string, or `{"base64":"…"}` for bytes that
    /// are not UTF-8.
    #[schema(value_type = Option<serde_json::Value>)]
    body: Option<Box<RawValue>>,
}

impl From<Opened> for OpenedView {
    fn from(opened: Opened) -> Self {
        let message = opened.message;
        Self {
            letter: opened.letter.into(),
            headers: message.headers.iter().map(|(name, value)| (name.clone(), header(value))).collect(),
            body: shown(message.content_type.as_deref(), &message.body),
            content_type: message.content_type,
        }
    }
}

/// A header's value as JSON.
fn header(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Bool(value) => (*value).into(),
        HeaderValue::Int(value) => (*value).into(),
        // JSON has no infinities; as text they are still seen.
        HeaderValue::Float(value) => {
            serde_json::Number::from_f64(*value).map_or_else(|| value.to_string().into(), Value::Number)
        }
        HeaderValue::Text(text) => text.as_str().into(),
        HeaderValue::Bytes(bytes) => serde_json::json!({ "base64": STANDARD.encode(bytes) }),
        HeaderValue::Timestamp(ms) => (*ms).into(),
        HeaderValue::List(values) => values.iter().map(header).collect(),
        HeaderValue::Table(table) => {
            Value::Object(table.iter().map(|(name, value)| (name.clone(), header(value))).collect())
        }
        HeaderValue::Void => Value::Null,
    }
}

/// A task that runs again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RedriveView {
    /// The task's id: the same as before.
    pub(crate) id: String,
}

/// Tasks that run again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RedrivenView {
    /// How many they are.
    redriven: u64,
    /// Dead letters that stay.
    left: LeftView,
}

/// How many dead letters stay though all of their agent were to be redriven, by what is in the way.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct LeftView {
    /// Their messages are too large to be sent.
    unsendable: u64,
    /// Another version of the host wrote them, and this one does not understand them.
    unreadable: u64,
}

impl From<Redriven> for RedrivenView {
    fn from(redriven: Redriven) -> Self {
        let Redriven { redriven, unsendable, unreadable } = redriven;
        Self { redriven, left: LeftView { unsendable, unreadable } }
    }
}

/// Dead letters that were dropped.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DroppedView {
    /// How many they are.
    pub(crate) dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn headers_of_every_type_are_shown() {
        for (value, json) in [
            (HeaderValue::Bool(true), "true"),
            (HeaderValue::Int(-7), "-7"),
            (HeaderValue::Float(0.5), "0.5"),
            (HeaderValue::Float(f64::INFINITY), "\"inf\""),
            (HeaderValue::from("x"), "\"x\""),
            (HeaderValue::Bytes(Bytes::from_static(b"\xff\x00")), "{\"base64\":\"/wA=\"}"),
            (HeaderValue::Timestamp(1_000), "1000"),
            (HeaderValue::List(vec![HeaderValue::Void, HeaderValue::Int(1)]), "[null,1]"),
            (HeaderValue::Table(BTreeMap::from([("a".to_owned(), HeaderValue::Int(1))])), "{\"a\":1}"),
        ] {
            assert_eq!(header(&value).to_string(), json);
        }
    }
}
