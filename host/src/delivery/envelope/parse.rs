//! From a message to a task.

use std::collections::BTreeMap;

use super::cloud_events::{self, Event};
use super::headers::{self, GENERATION_MAX, HEADERS_BYTES_MAX};
use crate::delivery::{HeaderValue, Message};
use crate::task::{AgentName, CONTENT_TYPE_DEFAULT, Outcome, ReplyTo, Task, TaskId, UnixMs};
use crate::trace::TraceContext;

/// A message that cannot be a task, with what its dead letter and its sender's reply need.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {reason}")]
pub struct Malformed {
    /// The sender's id where that is one, otherwise a new one.
    pub task_id: TaskId,
    /// Where the sender waits for the answer, if it said so properly.
    pub reply: Option<ReplyTo>,
    /// What is wrong and what was expected: one line, bounded.
    pub reason: String,
}

impl Malformed {
    /// How it ends: it is refused for good, without running.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::Rejected { message: self.to_string() }
    }
}

/// A message that cannot be a task for the reason given.
pub(crate) fn malformed(message: &Message, reason: &str) -> Malformed {
    Malformed {
        task_id: message.message_id.as_deref().and_then(|id| TaskId::parse(id).ok()).unwrap_or_else(TaskId::generate),
        reply: reply_to(message).ok().flatten(),
        reason: headers::printable(reason),
    }
}

/// Reads a message as a task of `agent`, filling in what is absent.
///
/// # Errors
/// [`Malformed`] names the property or header that is not what the contract says.
pub fn parse(agent: &AgentName, message: &Message, now_ms: UnixMs) -> Result<Task, Malformed> {
    let mut fields = Fields::default();
    let reply = reply_to(message);
    let read = fields.read(message).and_then(|()| {
        let id = fields.id(message)?;
        check_not_before(message, now_ms)?;
        let deadline_ms = earliest(fields.deadline_ms, expiration_deadline_ms(message, now_ms)?);
        Ok((id, deadline_ms, reply.clone()?))
    });
    let (id, deadline_ms, reply_to) = read.map_err(|reason| malformed(message, &reason))?;
    let (content_type, body) = match fields.event {
        Some(event) => (event.content_type, event.data),
        None => (message.content_type.clone(), message.body.clone()),
    };
    Ok(Task {
        id,
        agent: agent.clone(),
        attempt: fields.attempt.unwrap_or(1),
        attempts_max: fields.attempts_max,
        generation: fields.generation.unwrap_or(0),
        partition_key: fields.partition_key,
        enqueued_at_ms: fields.enqueued_at_ms.or(message.timestamp_ms).unwrap_or(now_ms),
        deadline_ms,
        revision: fields.revision,
        headers: fields.senders.into_iter().collect(),
        content_type: content_type.unwrap_or_else(|| CONTENT_TYPE_DEFAULT.to_owned()),
        body,
        traceparent: fields.traceparent,
        reply: reply_to,
    })
}

/// Whether the sender named the task. One that it did not name gets a new id at every delivery, so nobody can know it.
#[must_use]
pub fn names_its_task(message: &Message) -> bool {
    let is_id = |name: &str| attribute_or_name(name.to_ascii_lowercase()) == EVENT_ID;
    message.message_id.is_some()
        || message.headers.iter().any(|(name, value)| is_id(name) && value.as_text().is_some())
        || message.content_type.as_deref().is_some_and(cloud_events::is_structured)
}

/// How often the task of a message was redriven, as far as the message says so properly.
#[must_use]
pub fn generation(message: &Message) -> u32 {
    count(message, headers::GENERATION)
}

/// When the task of a message was enqueued, as far as the message says so properly.
pub(crate) fn enqueued_at_ms(message: &Message) -> Option<UnixMs> {
    let given = message.headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(headers::ENQUEUED_AT));
    given.and_then(|(_, value)| value.as_count()).or(message.timestamp_ms)
}

/// How often in a row the host failed the task of a message, as far as the message says so properly.
pub(crate) fn host_errors(message: &Message) -> u32 {
    count(message, headers::HOST_ERRORS)
}

fn count(message: &Message, header: &str) -> u32 {
    let given = message.headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(header));
    let count = given.and_then(|(_, value)| value.as_count());
    count.and_then(|count| u32::try_from(count).ok()).filter(|count| *count <= GENERATION_MAX).unwrap_or(0)
}

/// The queue that a message expired in first, as the broker says.
pub(crate) fn first_queue(message: &Message) -> Option<String> {
    message.headers.get("x-first-death-queue").and_then(HeaderValue::as_text)
}

/// When a delivery may run at the earliest, if it is still going round through delay queues: a moment that is yet to come.
/// At its deadline it has its end, so it goes round no longer than that. One that would go round for ever is not kept from
/// being read: [`parse`] refuses it.
pub(crate) fn not_before_ms(message: &Message, now_ms: UnixMs) -> Option<UnixMs> {
    let sent_ms = message.headers.get(headers::NOT_BEFORE).and_then(HeaderValue::as_count)?;
    if is_absurdly_far(sent_ms, now_ms) {
        return None;
    }
    // One that cannot be read is refused as well.
    let expires_at_ms = expiration_deadline_ms(message, now_ms).ok()?;
    let deadline_ms = earliest(sent_deadline_ms(&message.headers).ok()?, expires_at_ms);
    earliest(Some(sent_ms), deadline_ms).filter(|not_before_ms| *not_before_ms > now_ms)
}

fn is_absurdly_far(not_before_ms: UnixMs, now_ms: UnixMs) -> bool {
    not_before_ms > now_ms.saturating_add(headers::NOT_BEFORE_AHEAD_MS_MAX)
}

/// Refuses a message that would go round for ever.
pub(super) fn check_not_before(message: &Message, now_ms: UnixMs) -> Result<(), String> {
    let is_it = |name: &str| name.eq_ignore_ascii_case(headers::NOT_BEFORE);
    for (name, value) in message.headers.iter().filter(|(name, _)| is_it(name)) {
        if value.as_count().is_some_and(|sent_ms| is_absurdly_far(sent_ms, now_ms)) {
            return Err(unexpected(&name.to_ascii_lowercase(), value, "Unix milliseconds at most 60 days ahead"));
        }
    }
    Ok(())
}

/// How long a delivery is kept before it runs, in milliseconds, as far as the message says so properly.
pub(crate) fn delay_rest_ms(message: &Message) -> Option<u64> {
    message.headers.get(headers::DELAY_REST).and_then(HeaderValue::as_count)
}

/// The key of a task that is to run in turn with others of its key. A value that is no text is none: the message is
/// malformed, and runs nowhere.
pub(crate) fn partition_key(message: &Message) -> Option<String> {
    let is_key = |name: &str| name.eq_ignore_ascii_case(headers::PARTITION_KEY);
    message.headers.iter().rfind(|(name, _)| is_key(name)).and_then(|(_, value)| value.as_text())
}

/// What the header table says.
#[derive(Default)]
struct Fields {
    attempt: Option<u32>,
    attempts_max: Option<u32>,
    generation: Option<u32>,
    partition_key: Option<String>,
    deadline_ms: Option<UnixMs>,
    enqueued_at_ms: Option<UnixMs>,
    revision: Option<u64>,
    traceparent: Option<String>,
    senders: BTreeMap<String, String>,
    event: Option<Event>,
}

impl Fields {
    fn read(&mut self, message: &Message) -> Result<(), String> {
        let bytes = headers::counted_size(&message.headers);
        if bytes > HEADERS_BYTES_MAX {
            return Err(format!("its headers take {bytes} bytes, expected at most {HEADERS_BYTES_MAX}"));
        }
        for (name, value) in &message.headers {
            self.read_header(&name.to_ascii_lowercase(), value)?;
        }
        if message.content_type.as_deref().is_some_and(cloud_events::is_structured) {
            let event = cloud_events::parse_structured(&message.body)?;
            for (name, value) in &event.attributes {
                self.senders.insert(name.clone(), value.clone());
            }
            self.event = Some(event);
        }
        if self.traceparent.is_none() {
            self.traceparent = self.senders.get("ce-traceparent").and_then(|text| well_formed_traceparent(text));
        }
        Ok(())
    }

    fn read_header(&mut self, name: &str, value: &HeaderValue) -> Result<(), String> {
        match name {
            headers::ATTEMPT => self.attempt = Some(from_one(name, value)?),
            headers::ATTEMPTS_MAX => self.attempts_max = Some(from_one(name, value)?),
            headers::REVISION => self.revision = Some(from_one(name, value)?),
            headers::GENERATION => {
                let generation = from_one(name, value).ok().filter(|generation| *generation <= GENERATION_MAX);
                let expected = format!("a whole number from 1 to {GENERATION_MAX}");
                self.generation = Some(generation.ok_or_else(|| unexpected(name, value, &expected))?);
            }
            headers::PARTITION_KEY => {
                let text = value.as_text().ok_or_else(|| unexpected(name, value, "text"))?;
                self.partition_key = Some(text);
            }
            headers::DEADLINE => self.deadline_ms = Some(moment(name, value)?),
            headers::ENQUEUED_AT => self.enqueued_at_ms = Some(moment(name, value)?),
            headers::TRACEPARENT => {
                let text = value.as_text().ok_or_else(|| unexpected(name, value, "text"))?;
                self.traceparent = well_formed_traceparent(&text);
            }
            _ if headers::is_ours(name) || headers::is_the_brokers(name) => {}
            _ => {
                if let Some(text) = value.as_text() {
                    let name = attribute_or_name(name.to_owned());
                    // Names that differ in case only are one header, as in HTTP.
                    self.senders
                        .entry(name)
                        .and_modify(|known| {
                            known.push_str(", ");
                            known.push_str(&text);
                        })
                        .or_insert(text);
                }
            }
        }
        Ok(())
    }

    fn id(&self, message: &Message) -> Result<TaskId, String> {
        let (property, text) = match (&message.message_id, self.senders.get(EVENT_ID)) {
            (Some(id), _) => ("message-id", id),
            (None, Some(id)) => ("the CloudEvents id", id),
            (None, None) => return Ok(TaskId::generate()),
        };
        TaskId::parse(text).map_err(|error| format!("{property}: {error}"))
    }
}

/// The CloudEvents id as a header, which serves as the task's id.
const EVENT_ID: &str = "ce-id";

/// What the agent sees a header as, its name being in lower case.
fn attribute_or_name(name: String) -> String {
    cloud_events::attribute_header(&name).unwrap_or(name)
}

/// The reply queue, if one is asked for and allowed.
fn reply_to(message: &Message) -> Result<Option<ReplyTo>, String> {
    let Some(routing_key) = message.reply_to.as_ref().filter(|key| !key.is_empty()) else {
        return Ok(None);
    };
    if routing_key.starts_with("agent.") || routing_key.starts_with("agents.") {
        // A result that arrives as a task would let a sender act in an agent's name, or make agents feed each other.
        return Err(format!(
            "reply-to is {routing_key:?}, expected a queue of the sender's own: agent.* and agents.* are not"
        ));
    }
    Ok(Some(ReplyTo { routing_key: routing_key.clone(), correlation_id: message.correlation_id.clone() }))
}

/// How far AMQP's `timestamp`, in whole seconds, may lie before the moment of sending.
const TIMESTAMP_ROUNDING_MS: u64 = 999;

/// The deadline that `expiration` means: it counts from the sender's timestamp, or from now where there is none.
pub(super) fn expiration_deadline_ms(message: &Message, now_ms: UnixMs) -> Result<Option<UnixMs>, String> {
    let Some(expiration) = &message.expiration else {
        return Ok(None);
    };
    let expiration_ms: u64 = expiration.trim().parse().map_err(|_| {
        format!("expiration is {:?}, expected milliseconds as a decimal number", headers::printable(expiration))
    })?;
    let sent_at_ms = message.timestamp_ms.map_or(now_ms, |timestamp_ms| {
        let rounding_ms = if timestamp_ms.is_multiple_of(1000) { TIMESTAMP_ROUNDING_MS } else { 0 };
        timestamp_ms.saturating_add(rounding_ms).min(now_ms)
    });
    Ok(Some(sent_at_ms.saturating_add(expiration_ms)))
}

/// The deadline in a header table, its name in whatever case; an error for one that cannot be read. Names sort so that the
/// last one is the one that counts, and the host's own, in lower case, after all others.
pub(super) fn sent_deadline_ms(headers: &BTreeMap<String, HeaderValue>) -> Result<Option<UnixMs>, String> {
    let sent = headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(headers::DEADLINE));
    sent.map(|(name, value)| moment(name, value)).transpose()
}

pub(super) fn earliest(one: Option<UnixMs>, other: Option<UnixMs>) -> Option<UnixMs> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn from_one<T: TryFrom<u64>>(name: &str, value: &HeaderValue) -> Result<T, String> {
    value
        .as_count()
        .filter(|count| *count >= 1)
        .and_then(|count| T::try_from(count).ok())
        .ok_or_else(|| unexpected(name, value, "a whole number from 1"))
}

pub(super) fn moment(name: &str, value: &HeaderValue) -> Result<UnixMs, String> {
    let rfc3339 = || match value {
        HeaderValue::Text(text) => chrono::DateTime::parse_from_rfc3339(text.trim())
            .ok()
            .map(|time| u64::try_from(time.timestamp_millis()).unwrap_or(0)),
        _ => None,
    };
    value
        .as_count()
        .or_else(rfc3339)
        .ok_or_else(|| unexpected(name, value, "Unix milliseconds or RFC 3339 text such as 2030-01-31T12:00:00Z"))
}

fn unexpected(name: &str, value: &HeaderValue, expected: &str) -> String {
    let found = match value {
        HeaderValue::Bytes(_) => "bytes that are not UTF-8".to_owned(),
        HeaderValue::List(_) => "a list".to_owned(),
        HeaderValue::Table(_) => "a table".to_owned(),
        HeaderValue::Void => "no value".to_owned(),
        scalar => format!("{:?}", scalar.as_text().unwrap_or_default().chars().take(80).collect::<String>()),
    };
    format!("header {name} is {found}, expected {expected}")
}

/// W3C trace context says that a `traceparent` which does not parse is treated as absent, so it fails no task.
fn well_formed_traceparent(text: &str) -> Option<String> {
    TraceContext::parse(text).map(|context| context.to_string())
}
