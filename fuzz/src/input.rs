//! Messages and tasks as a fuzzer makes them: any value, but often one that the envelope looks for.

use std::collections::BTreeMap;

use arbitrary::Arbitrary;

use crate::delivery::envelope::headers::GENERATION_MAX;
use crate::delivery::{HeaderValue, Message};
use crate::task::{AgentName, Output, ReplyTo, Task, TaskId};

/// Deepest nesting of a header: what lies deeper does not arrive (`DEPTH_MAX` of the conversion from AMQP).
const DEPTH_MAX: usize = 8;
/// Lengths at which something changes, less some: a short string's, an error text's, half of what headers may take, all of
/// it, a frame's.
const FILLER_BYTES: [usize; 5] = [200, 4_000, 32_600, 65_300, 130_800];
/// Most headers that one input adds by number. More of them show nothing new and take the time of a hundred inputs.
const MANY_MAX: u16 = 500;

const NAMES: [&str; 32] = [
    "x-attempt",
    "x-max-attempts",
    "x-deadline",
    "x-revision",
    "x-generation",
    "x-partition-key",
    "x-enqueued-at",
    "x-not-before",
    "traceparent",
    "ce-id",
    "ce-traceparent",
    "cloudEvents:id",
    "cloudEvents_id",
    "cloudevents:traceparent",
    "x-error-type",
    "x-error-message",
    "x-failed-at",
    "x-attempts",
    "x-agent-revision",
    "x-agent-digest",
    "x-host",
    "x-death",
    "x-first-death-queue",
    "x-delivery-count",
    "CC",
    "BCC",
    "a",
    "content-encoding",
    "id",
    "data",
    "data_base64",
    "datacontenttype",
];

const WORDS: [&str; 16] = [
    "",
    "id",
    "application/cloudevents+json",
    "Application/CloudEvents",
    "application/json; charset=utf-8",
    "text/plain",
    "replies",
    "agent.voter",
    "agents.delay.250ms",
    "2030-01-01T00:00:00+01:00",
    "0000-01-01T00:00:00Z",
    " 5 ",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "\u{1b}[31m\u{202e}\u{2028}\u{61c}\r\n\0",
    "/wA=",
    "18446744073709551616",
];

fn chosen<const N: usize>(from: &[&'static str; N], index: u8) -> &'static str {
    from[usize::from(index) % N]
}

#[derive(Arbitrary, Debug)]
enum Name {
    Known(u8),
    Shouted(u8),
    Free(String),
}

impl Name {
    fn text(&self) -> String {
        match self {
            Self::Known(index) => chosen(&NAMES, *index).to_owned(),
            Self::Shouted(index) => chosen(&NAMES, *index).to_ascii_uppercase(),
            Self::Free(text) => text.clone(),
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Word {
    Known(u8),
    Number(u64),
    Free(String),
    Filler { about: u8, more: u8 },
}

impl Word {
    fn text(&self) -> String {
        match self {
            Self::Known(index) => chosen(&WORDS, *index).to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Free(text) => text.clone(),
            Self::Filler { about, more } => {
                "x".repeat(FILLER_BYTES[usize::from(*about) % FILLER_BYTES.len()] + usize::from(*more))
            }
        }
    }
}

fn text(word: &Option<Word>) -> Option<String> {
    word.as_ref().map(Word::text)
}

#[derive(Arbitrary, Debug)]
enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Word),
    Bytes(Vec<u8>),
    Timestamp(u64),
    List(Vec<Value>),
    Table(Vec<(Name, Value)>),
    Void,
}

impl Value {
    fn header(&self, depth: usize) -> HeaderValue {
        match self {
            Self::Bool(value) => HeaderValue::Bool(*value),
            Self::Int(value) => HeaderValue::Int(*value),
            Self::Float(value) => HeaderValue::Float(*value),
            Self::Text(value) => HeaderValue::Text(value.text()),
            Self::Bytes(value) => HeaderValue::Bytes(value.clone().into()),
            Self::Timestamp(value) => HeaderValue::Timestamp(*value),
            Self::List(_) | Self::Table(_) if depth >= DEPTH_MAX => HeaderValue::Void,
            Self::List(values) => HeaderValue::List(values.iter().map(|value| value.header(depth + 1)).collect()),
            Self::Table(entries) => HeaderValue::Table(table(entries, depth + 1)),
            Self::Void => HeaderValue::Void,
        }
    }
}

fn table(entries: &[(Name, Value)], depth: usize) -> BTreeMap<String, HeaderValue> {
    entries.iter().map(|(name, value)| (name.text(), value.header(depth))).collect()
}

#[derive(Arbitrary, Debug)]
enum Body {
    Raw(Vec<u8>),
    /// A CloudEvent with these members, which are JSON where the flag says so and text otherwise.
    Event {
        required: u8,
        members: Vec<(Name, bool, Word)>,
    },
}

impl Body {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Event { required, members } => {
                let mut lines: Vec<String> = ["specversion", "id", "source", "type"]
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| required & (1 << index) == 0)
                    .map(|(_, name)| format!("{name:?}:\"1.0\""))
                    .collect();
                for (name, is_json, value) in members {
                    let (name, value) = (serde_json::json!(name.text()), value.text());
                    let value = if *is_json { value } else { serde_json::json!(value).to_string() };
                    lines.push(format!("{name}:{value}"));
                }
                format!("{{{}}}", lines.join(",")).into_bytes()
            }
        }
    }
}

/// A message that came, and when.
#[derive(Arbitrary, Debug)]
pub(crate) struct Received {
    /// The time then.
    pub(crate) now_ms: u64,
    message_id: Option<Word>,
    correlation_id: Option<Word>,
    reply_to: Option<Word>,
    content_type: Option<Word>,
    kind: Option<Word>,
    timestamp_ms: Option<u64>,
    expiration: Option<Word>,
    headers: Vec<(Name, Value)>,
    many: Option<u16>,
    body: Body,
}

impl Received {
    /// The message.
    pub(crate) fn message(&self) -> Message {
        let mut headers = table(&self.headers, 0);
        if let Some(many) = self.many {
            headers.extend((0..many % MANY_MAX).map(|number| (format!("{number:x}"), HeaderValue::Void)));
        }
        Message {
            message_id: text(&self.message_id),
            correlation_id: text(&self.correlation_id),
            reply_to: text(&self.reply_to),
            content_type: text(&self.content_type),
            kind: text(&self.kind),
            timestamp_ms: self.timestamp_ms,
            expiration: text(&self.expiration),
            headers,
            body: self.body.bytes().into(),
        }
    }
}

/// A task that a program submits, and an answer of its agent.
#[derive(Arbitrary, Debug)]
pub(crate) struct Submitted {
    id: Word,
    attempt: u32,
    attempts_max: Option<u32>,
    generation: u32,
    partition_key: Option<Word>,
    enqueued_at_ms: u64,
    deadline_ms: Option<u64>,
    revision: Option<u64>,
    headers: Vec<(Name, Word)>,
    content_type: Word,
    body: Vec<u8>,
    is_traced: bool,
    reply: Option<(Word, Option<Word>)>,
    output_content_type: Option<Word>,
    output_headers: Vec<(Name, Word)>,
    output_body: Vec<u8>,
}

impl Submitted {
    /// The task. Its numbers are ones that the host gives; its headers may be anything.
    pub(crate) fn task(&self) -> Task {
        let agent = AgentName::parse("voter").expect("a name");
        Task {
            id: TaskId::parse(&self.id.text()).unwrap_or_else(|_| TaskId::generate()),
            agent,
            attempt: self.attempt.max(1),
            attempts_max: self.attempts_max.map(|max| max.max(1)),
            generation: self.generation.min(GENERATION_MAX),
            partition_key: text(&self.partition_key),
            enqueued_at_ms: self.enqueued_at_ms,
            deadline_ms: self.deadline_ms,
            revision: self.revision.map(|number| number.max(1)),
            headers: self.headers.iter().map(|(name, value)| (name.text(), value.text())).collect(),
            content_type: self.content_type.text(),
            body: self.body.clone().into(),
            traceparent: self.is_traced.then(|| "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            reply: self.reply.as_ref().map(|(routing_key, correlation_id)| ReplyTo {
                routing_key: routing_key.text(),
                correlation_id: text(correlation_id),
            }),
        }
    }

    /// The answer.
    pub(crate) fn output(&self) -> Output {
        Output {
            content_type: text(&self.output_content_type),
            headers: self.output_headers.iter().map(|(name, value)| (name.text(), value.text())).collect(),
            body: self.output_body.clone().into(),
        }
    }
}
