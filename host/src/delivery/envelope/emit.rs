//! From tasks, outcomes and failures to messages.

use std::collections::BTreeMap;

use super::headers::{self, printable};
use super::parse::{check_not_before, earliest, expiration_deadline_ms, moment, sent_deadline_ms};
use crate::delivery::{HeaderValue, Message, Route};
use crate::task::{Failure, Output, Task, TaskId, UnixMs};

/// The message that submits a task.
#[must_use]
pub fn submission(task: &Task) -> Message {
    let mut message = Message {
        message_id: Some(task.id.to_string()),
        correlation_id: task.reply.as_ref().and_then(|reply| reply.correlation_id.clone()),
        reply_to: task.reply.as_ref().map(|reply| reply.routing_key.clone()),
        content_type: Some(task.content_type.clone()),
        timestamp_ms: Some(task.enqueued_at_ms),
        body: task.body.clone(),
        ..Message::default()
    };
    for (name, value) in &task.headers {
        let name = name.to_ascii_lowercase();
        // A task header can be chosen by whoever submits over HTTP; it must not pass for the host's own.
        if !headers::is_ours(&name) && !headers::is_the_brokers(&name) {
            message.headers.insert(name, value.as_str().into());
        }
    }
    stamp(&mut message, task, task.attempt);
    if let Some(key) = &task.partition_key {
        message.headers.insert(headers::PARTITION_KEY.to_owned(), key.as_str().into());
    }
    if let Some(attempts_max) = task.attempts_max {
        message.headers.insert(headers::ATTEMPTS_MAX.to_owned(), u64::from(attempts_max).into());
    }
    if let Some(revision) = task.revision {
        message.headers.insert(headers::REVISION.to_owned(), revision.into());
    }
    if let Some(traceparent) = &task.traceparent {
        message.headers.insert(headers::TRACEPARENT.to_owned(), traceparent.as_str().into());
    }
    message
}

/// The message of a task's next attempt: the original, with the attempt raised and its deadline written down.
/// `host_errors` is how often in a row the host failed it.
#[must_use]
pub fn retry(original: &Message, task: &Task, next_attempt: u32, host_errors: u32) -> Message {
    let mut message = Message {
        message_id: Some(task.id.to_string()),
        expiration: None,
        timestamp_ms: Some(task.enqueued_at_ms),
        headers: headers::that_travel_on(&original.headers),
        ..original.clone()
    };
    stamp(&mut message, task, next_attempt);
    message.headers.retain(|name, _| !name.eq_ignore_ascii_case(headers::HOST_ERRORS));
    if host_errors > 0 {
        message.headers.insert(headers::HOST_ERRORS.to_owned(), u64::from(host_errors).into());
    }
    message
}

/// What a message of the host's own making says about its task beyond the properties.
fn stamp(message: &mut Message, task: &Task, attempt: u32) {
    // Replaced in whatever case the sender wrote them.
    message.headers.retain(|name, _| {
        let name = name.to_ascii_lowercase();
        !matches!(name.as_str(), headers::ATTEMPT | headers::ENQUEUED_AT | headers::DEADLINE | headers::GENERATION)
    });
    message.headers.insert(headers::ATTEMPT.to_owned(), u64::from(attempt).into());
    message.headers.insert(headers::ENQUEUED_AT.to_owned(), task.enqueued_at_ms.into());
    if task.generation > 0 {
        message.headers.insert(headers::GENERATION.to_owned(), u64::from(task.generation).into());
    }
    if let Some(deadline_ms) = task.deadline_ms {
        message.headers.insert(headers::DEADLINE.to_owned(), deadline_ms.into());
    }
}

/// The result of a finished task and where it goes, for senders that asked for one. `kind` is the outcome's name.
#[must_use]
pub fn result(task: &Task, kind: &str, output: Option<&Output>, failure: Option<&Failure>) -> Option<(Route, Message)> {
    let reply = task.reply.as_ref()?;
    let mut message = Message {
        message_id: Some(task.id.to_string()),
        correlation_id: Some(reply.correlation_id.clone().unwrap_or_else(|| task.id.to_string())),
        kind: Some(kind.to_owned()),
        ..Message::default()
    };
    if let Some(output) = output {
        message.content_type.clone_from(&output.content_type);
        message.body = output.body.clone();
        // `x-` is the host's own: an agent cannot forge an error or an attempt. Nor can it have the broker send copies.
        let is_the_agents = |name: &str| !name.starts_with("x-") && !headers::is_the_brokers(name);
        let own = output.headers.iter().map(|(name, value)| (printable(name), value));
        let own = own.filter(|(name, _)| is_the_agents(&name.to_ascii_lowercase()));
        message.headers.extend(own.map(|(name, value)| (name, printable(value).into())));
        headers::shrink_to_fit(&mut message.headers);
    }
    if let Some(failure) = failure {
        message.headers.insert(headers::ERROR_TYPE.to_owned(), failure.kind.as_str().into());
        message.headers.insert(headers::ERROR_MESSAGE.to_owned(), printable(&failure.message).into());
    }
    if let Some(traceparent) = &task.traceparent {
        message.headers.insert(headers::TRACEPARENT.to_owned(), traceparent.as_str().into());
    }
    Some((Route::Reply(reply.routing_key.clone()), message))
}

/// Why and where a task failed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathNote {
    /// The task.
    pub task_id: TaskId,
    /// The outcome's name.
    pub error_type: String,
    /// What went wrong, for people.
    pub error_message: String,
    /// When.
    pub failed_at_ms: UnixMs,
    /// How many attempts it used.
    pub attempts: u32,
    /// How often it had been redriven.
    pub generation: u32,
    /// The revision that ran it last, where one did.
    pub revision: Option<u64>,
    /// That revision's module, as `sha256:<hex>`.
    pub digest: Option<String>,
    /// The host that gave it up.
    pub host: String,
}

/// The dead letter of a message: the original body and headers, and the reason.
#[must_use]
pub fn dead_letter(original: &Message, note: &DeathNote) -> Message {
    let mut headers = headers::that_travel_on(&original.headers);
    // Kept, an expiration would remove the dead letter from its queue.
    // A deadline that cannot be read is kept, for people to see.
    if let (Ok(expires_at_ms), Ok(sent)) =
        (expiration_deadline_ms(original, note.failed_at_ms), sent_deadline_ms(&headers))
        && let (Some(_), Some(deadline_ms)) = (expires_at_ms, earliest(sent, expires_at_ms))
    {
        set_deadline(&mut headers, deadline_ms);
    }
    headers::shrink_to_fit(&mut headers);
    let mut add = |name: &str, value: HeaderValue| headers.insert(name.to_owned(), value);
    add(headers::ERROR_TYPE, printable(&note.error_type).into());
    add(headers::ERROR_MESSAGE, printable(&note.error_message).into());
    add(headers::FAILED_AT, note.failed_at_ms.into());
    add(headers::ATTEMPTS, u64::from(note.attempts).into());
    add(headers::HOST, printable(&note.host).into());
    if note.generation > 0 {
        add(headers::GENERATION, u64::from(note.generation).into());
    }
    if let Some(revision) = note.revision {
        add(headers::AGENT_REVISION, revision.into());
    }
    if let Some(digest) = &note.digest {
        add(headers::AGENT_DIGEST, printable(digest).into());
    }
    Message { message_id: Some(note.task_id.to_string()), expiration: None, headers, ..original.clone() }
}

/// Replaces the deadline, in whatever case it was written: one that is left behind would count when this one is removed.
fn set_deadline(headers: &mut BTreeMap<String, HeaderValue>, deadline_ms: UnixMs) {
    headers.retain(|name, _| !name.eq_ignore_ascii_case(headers::DEADLINE));
    headers.insert(headers::DEADLINE.to_owned(), deadline_ms.into());
}

/// A message that the broker took out of an agent's queue because its `expiration` passed, made fit to go back there:
/// its deadline now says so, and the host that receives it ends it as `expired` like any other late task.
#[must_use]
pub fn expired_again(message: &Message, now_ms: UnixMs) -> Message {
    let mut headers = headers::that_travel_on(&message.headers);
    let sent = sent_deadline_ms(&headers).ok().flatten();
    if let Some(deadline_ms) = earliest(sent, Some(now_ms)) {
        set_deadline(&mut headers, deadline_ms);
    }
    Message { expiration: None, headers, ..message.clone() }
}

/// A message that a host publishes again as it is, into another of the agent's queues. What its expiration says is
/// written down as a deadline: kept as it is, it would start anew.
pub(crate) fn moved(message: &Message, now_ms: UnixMs) -> Message {
    // What is to be refused stays as it is, for whoever receives the message to refuse it.
    if check_not_before(message, now_ms).is_err() {
        return message.clone();
    }
    let Ok(expires_at_ms) = expiration_deadline_ms(message, now_ms) else { return message.clone() };
    let mut headers = headers::that_travel_on(&message.headers);
    let is_deadline = |name: &str| name.eq_ignore_ascii_case(headers::DEADLINE);
    let sent = headers.iter().filter(|(name, _)| is_deadline(name)).map(|(name, value)| moment(name, value));
    // So does a deadline that cannot be read.
    if let (Some(_), Ok(sent)) = (expires_at_ms, sent.collect::<Result<Vec<_>, _>>()) {
        headers.retain(|name, _| !is_deadline(name));
        if let Some(deadline_ms) = earliest(sent.last().copied(), expires_at_ms) {
            headers.insert(headers::DEADLINE.to_owned(), deadline_ms.into());
        }
    }
    Message { expiration: None, headers, ..message.clone() }
}

/// The message that has a dead letter's task run again, from its first attempt, in the next generation.
///
/// A deadline that has passed is not kept: whoever redrives the task wants it to run.
#[must_use]
pub fn redriven(letter: &Message, generation: u32, now_ms: UnixMs) -> Message {
    let mut headers = headers::that_travel_on(&letter.headers);
    let is_past = sent_deadline_ms(&headers).is_ok_and(|sent| sent.is_some_and(|deadline_ms| deadline_ms <= now_ms));
    headers.retain(|name, _| match name.to_ascii_lowercase().as_str() {
        headers::ATTEMPT | headers::GENERATION | headers::HOST_ERRORS => false,
        headers::DEADLINE => !is_past,
        name => !headers::is_a_death_notes(name),
    });
    headers.insert(headers::GENERATION.to_owned(), u64::from(generation).into());
    Message { expiration: None, headers, ..letter.clone() }
}
