//! What holds for every message and every task.

use crate::delivery::envelope::headers::{self, HEADERS_BYTES_MAX};
use crate::delivery::envelope::{self, DeathNote, Malformed};
use crate::delivery::{Message, Route, outgoing};
use crate::task::{AgentName, Outcome, Output, Task};
use crate::wire;

/// RabbitMQ's `frame_max` unless configured otherwise, less a frame's own type, channel, length and end mark. All properties
/// of a message share one frame.
const PROPERTIES_BYTES_MAX: usize = 128 * 1024 - 8;
/// Longest error text, in bytes: what `x-error-message` may have, the prefix of a [`Malformed`], and a little.
const ERROR_BYTES_MAX: usize = 5_000;

fn agent() -> AgentName {
    AgentName::parse("voter").expect("a name")
}

/// A content header and a body as they arrive: if the driver hands the message on, so does everything after it.
pub(crate) fn of_a_delivery(bytes: &[u8]) {
    let Some(message) = wire::received(bytes) else { return };
    // What came over AMQP can go over AMQP again, whatever is made of it; checked where it is made.
    assert!(wire::published(&message).is_ok());
    of_a_message(&message, 1_800_000_000_123);
}

/// A message in the host's terms.
pub(crate) fn of_a_message(message: &Message, now_ms: u64) {
    let can_be_published = wire::published(message).is_ok();
    let parsed = envelope::parse(&agent(), message, now_ms);
    let note = match &parsed {
        Ok(task) => {
            is_well_formed(task);
            says_who_it_is(message, task, now_ms);
            comes_again(message, task, now_ms, can_be_published);
            if !is_structured(&task.content_type) && headers_bytes(task) <= HEADERS_BYTES_MAX {
                assert_eq!(envelope::parse(&task.agent, &envelope::submission(task), now_ms).as_ref(), Ok(task));
            }
            note(
                task,
                &Outcome::Trapped { message: task.headers.iter().map(|(_, value)| value.as_str()).collect() },
                now_ms,
            )
        }
        Err(malformed) => {
            can_be_told(malformed);
            note(&unread(malformed, message), &malformed.outcome(), now_ms)
        }
    };
    let letter = envelope::dead_letter(message, &note);
    for name in [headers::ERROR_TYPE, headers::ERROR_MESSAGE] {
        can_be_shown(&letter.headers[name].as_text().expect("text"));
    }
    fits_amqp(&letter, can_be_published);
    let route = Route::DeadLetter(agent());
    is_kept(&route, &letter);
    let Some(generation) = note.generation.checked_add(1).filter(|next| *next <= headers::GENERATION_MAX) else {
        return;
    };
    let redriven = envelope::redriven(&letter, generation, now_ms);
    fits_amqp(&redriven, can_be_published);
    assert_eq!(
        (envelope::generation(&redriven), redriven.message_id.as_deref()),
        (generation, Some(note.task_id.as_str()))
    );
    if let Ok(task) = parsed {
        let deadline_ms = task.deadline_ms.filter(|deadline_ms| *deadline_ms > now_ms);
        let first = Task { attempt: 1, generation, deadline_ms, ..task };
        assert_eq!(envelope::parse(&first.agent, &redriven, now_ms).as_ref(), Ok(&first));
    }
}

/// A task as a program submits it, and what its sender is told.
pub(crate) fn of_a_task(task: &Task, output: &Output) {
    const NOW_MS: u64 = 1_800_000_000_123;
    let message = envelope::submission(task);
    of_a_message(&message, NOW_MS);
    if let Ok(parsed) = envelope::parse(&task.agent, &message, NOW_MS) {
        assert_eq!(
            (parsed.attempt, parsed.generation, &parsed.partition_key),
            (task.attempt, task.generation, &task.partition_key)
        );
        assert_eq!(
            (parsed.attempts_max, parsed.revision, parsed.deadline_ms),
            (task.attempts_max, task.revision, task.deadline_ms)
        );
        assert_eq!((parsed.id, parsed.enqueued_at_ms), (task.id.clone(), task.enqueued_at_ms));
    }
    let outcome = Outcome::Rejected { message: task.content_type.clone() };
    let told = envelope::result(task, "rejected", Some(output), outcome.failure().as_ref());
    assert_eq!(told.is_some(), task.reply.is_some());
    if let Some((route, answer)) = told {
        is_kept(&route, &answer);
        let own = [headers::ERROR_TYPE, headers::ERROR_MESSAGE, headers::TRACEPARENT];
        for (name, value) in &answer.headers {
            let lower = name.to_ascii_lowercase();
            assert!(own.contains(&name.as_str()) || !lower.starts_with("x-"), "an agent wrote {name:?}");
            assert!(lower != "cc" && lower != "bcc", "an agent sends copies of its results");
            can_be_shown(name);
            can_be_shown(&value.as_text().expect("text"));
        }
        if let Ok(bytes) = wire::published(&answer) {
            assert!(bytes.len() <= PROPERTIES_BYTES_MAX);
        }
    }
}

/// What may lie in the records: read or refused, and if read, written again the same.
pub(crate) fn of_kept_bytes(bytes: &[u8]) {
    match outgoing::decode(bytes) {
        Ok((route, message)) => {
            is_kept(&route, &message);
            of_a_message(&message, 1);
        }
        Err(error) => can_be_shown(&error.to_string()),
    }
}

fn is_well_formed(task: &Task) {
    assert!(task.attempt >= 1);
    for pair in task.headers.windows(2) {
        assert!(pair[0].0 < pair[1].0, "headers are in order and each is there once");
    }
    for (name, _) in &task.headers {
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
        assert!(
            name != headers::ATTEMPT && name != headers::ERROR_MESSAGE && name != "cc",
            "{name} is not the sender's"
        );
    }
    if let Some(reply) = &task.reply {
        assert!(!reply.routing_key.is_empty() && !reply.routing_key.starts_with("agent."));
    }
}

/// What is asked of a message without reading all of it agrees with what reading it says.
fn says_who_it_is(message: &Message, task: &Task, now_ms: u64) {
    let second = envelope::parse(&task.agent, message, now_ms).expect("it was read before");
    let is_named = envelope::names_its_task(message);
    assert_eq!(second.id == task.id, is_named, "a task has an id of its own exactly if its sender named it");
    assert_eq!(envelope::generation(message), task.generation);
}

/// The next attempt is the same task, and a message that expired is the same task, expired.
fn comes_again(message: &Message, task: &Task, now_ms: u64, can_be_published: bool) {
    let next = Task { attempt: task.attempt.saturating_add(1), ..task.clone() };
    let again = envelope::retry(message, task, next.attempt, 0);
    assert_eq!(envelope::parse(&task.agent, &again, now_ms).as_ref(), Ok(&next));
    fits_amqp(&again, can_be_published);
    is_kept(&Route::Agent(agent()), &again);
    let late = envelope::expired_again(message, now_ms);
    let late = envelope::parse(&task.agent, &late, now_ms).expect("it was read before");
    assert!(late.is_expired(now_ms));
}

fn can_be_told(malformed: &Malformed) {
    can_be_shown(&malformed.to_string());
    assert!(malformed.to_string().len() <= ERROR_BYTES_MAX);
    assert!(matches!(malformed.outcome(), Outcome::Rejected { .. }));
}

/// The task that stands for a message which is none, as dispatch makes it.
fn unread(malformed: &Malformed, message: &Message) -> Task {
    let generation = envelope::generation(message);
    let reply = malformed.reply.clone();
    Task { id: malformed.task_id.clone(), generation, reply, ..Task::new(agent(), message.body.clone()) }
}

fn note(task: &Task, outcome: &Outcome, now_ms: u64) -> DeathNote {
    let failure = outcome.failure().unwrap_or_default();
    DeathNote {
        task_id: task.id.clone(),
        error_type: failure.kind,
        error_message: failure.message,
        failed_at_ms: now_ms,
        attempts: task.attempt,
        generation: task.generation,
        revision: Some(u64::MAX),
        digest: Some(format!("sha256:{}", "0".repeat(64))),
        host: "h".repeat(255),
    }
}

/// One line of text that cannot act on a terminal or turn what stands around it.
fn can_be_shown(text: &str) {
    let is_hidden = |character: char| {
        character.is_control()
            // Line and paragraph separator, and every character with Unicode's property Bidi_Control.
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
            || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.chars().any(is_hidden), "{text:?} can be printed as it is");
}

/// It can be published if the message that it was made from could, and arrives as it was sent.
fn fits_amqp(message: &Message, can_be_published: bool) {
    let bytes = match wire::published(message) {
        Ok(bytes) => bytes,
        Err(reason) => {
            can_be_shown(&reason);
            assert!(!can_be_published, "{reason}");
            return;
        }
    };
    assert!(bytes.len() <= PROPERTIES_BYTES_MAX || !can_be_published, "{} bytes of properties", bytes.len());
    let arrived = wire::received(&bytes).expect("what the driver writes, it can read");
    let bytes_again = wire::published(&arrived).expect("what arrived can be sent on");
    // Its times are whole seconds now; so it is the second journey that has to change nothing.
    is_same(&wire::received(&bytes_again).expect("as above"), &arrived);
    assert_eq!(arrived.headers.len(), message.headers.len());
}

fn is_kept(route: &Route, message: &Message) {
    let (route_again, message_again) =
        outgoing::decode(&outgoing::encode(route, message)).expect("what was kept can be read");
    assert_eq!(&route_again, route);
    is_same(&message_again, message);
}

/// Equal, where a number that is none equals itself.
fn is_same(one: &Message, other: &Message) {
    assert!(one == other || format!("{one:?}") == format!("{other:?}"), "{one:?}\n{other:?}");
}

fn is_structured(content_type: &str) -> bool {
    content_type.trim_start().to_ascii_lowercase().starts_with("application/cloudevents")
}

fn headers_bytes(task: &Task) -> usize {
    // A name's and a value's marks and lengths take 6 bytes.
    let senders: usize = task.headers.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    senders + task.partition_key.as_ref().map_or(0, String::len) + 256
}
