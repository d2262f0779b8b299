//! Names of the headers that the host reads and writes, and what travels on when a message is published again.

use std::collections::BTreeMap;

use crate::delivery::HeaderValue;

/// W3C trace context of the sender.
pub const TRACEPARENT: &str = "traceparent";
/// Which attempt the message is, from 1.
pub const ATTEMPT: &str = "x-attempt";
/// The sender's limit on attempts.
pub const ATTEMPTS_MAX: &str = "x-max-attempts";
/// When the task stops being worth running: Unix milliseconds, or RFC 3339 text.
pub const DEADLINE: &str = "x-deadline";
/// The revision that the task is pinned to.
pub const REVISION: &str = "x-revision";
/// How often the task was redriven; absent where it never was.
pub const GENERATION: &str = "x-generation";
/// How often in a row the host failed the task, a database or a cache being away; absent where it never did.
pub const HOST_ERRORS: &str = "x-host-errors";
/// Tasks of one agent with the same value run one at a time, in order.
pub const PARTITION_KEY: &str = "x-partition-key";
/// How often a quorum queue has delivered the message before. RabbitMQ sets it.
pub const DELIVERY_COUNT: &str = "x-delivery-count";
/// When the task was first enqueued, in Unix milliseconds: AMQP's `timestamp` property has only seconds.
pub const ENQUEUED_AT: &str = "x-enqueued-at";
/// Before this moment, in Unix milliseconds, a delivery goes round through a delay queue again: how delays longer than
/// the longest delay queue are made.
pub const NOT_BEFORE: &str = "x-not-before";
/// How far ahead [`NOT_BEFORE`] may lie: twice the longest delay that there is, 30 days, whatever the clocks of two hosts
/// say. What lies further ahead no host wrote, and it would go round for ever.
pub const NOT_BEFORE_AHEAD_MS_MAX: u64 = 60 * 24 * 60 * 60 * 1000;
/// How long the host that receives a delivery keeps it before it runs, in milliseconds: what its delay queue was too short.
pub const DELAY_REST: &str = "x-delay-rest";
/// The outcome's name, in results and dead letters.
pub const ERROR_TYPE: &str = "x-error-type";
/// What went wrong, in results and dead letters.
pub const ERROR_MESSAGE: &str = "x-error-message";
/// When a dead letter's task failed for good, in Unix milliseconds.
pub const FAILED_AT: &str = "x-failed-at";
/// How many attempts a dead letter's task used.
pub const ATTEMPTS: &str = "x-attempts";
/// The revision that ran a dead letter's task last.
pub const AGENT_REVISION: &str = "x-agent-revision";
/// That revision's module, as `sha256:<hex>`.
pub const AGENT_DIGEST: &str = "x-agent-digest";
/// The host that wrote a dead letter.
pub const HOST: &str = "x-host";

/// Largest sum of header names and values of a task, in bytes, as `counted_size` counts them.
///
/// All headers of an AMQP message share one frame, 128 KiB by default: half of it leaves room for what the host adds to
/// a dead letter, so that every task that is accepted can also be dead-lettered.
pub const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// Largest generation: more redrives than any task comes to in earnest, one a minute for two years. The letter of a task
/// of this generation is not redriven; who redrives it is told so.
pub const GENERATION_MAX: u32 = 1_000_000;

/// Longest name of a header, in bytes: AMQP's short string.
pub const NAME_BYTES_MAX: usize = 255;

/// Whether a header (its name in lower case) is the host's own, and so no header of the sender's to the agent.
pub(super) fn is_ours(name: &str) -> bool {
    matches!(
        name,
        TRACEPARENT
            | ATTEMPT
            | ATTEMPTS_MAX
            | DEADLINE
            | REVISION
            | GENERATION
            | HOST_ERRORS
            | PARTITION_KEY
            | ENQUEUED_AT
            | NOT_BEFORE
            | DELAY_REST
            | ERROR_TYPE
            | ERROR_MESSAGE
            | FAILED_AT
            | ATTEMPTS
            | AGENT_REVISION
            | AGENT_DIGEST
            | HOST
    )
}

/// Whether a header (its name in lower case) tells of a death, and goes when the task runs again.
pub(super) fn is_a_death_notes(name: &str) -> bool {
    matches!(name, ERROR_TYPE | ERROR_MESSAGE | FAILED_AT | ATTEMPTS | AGENT_REVISION | AGENT_DIGEST | HOST)
}

/// Whether a header (its name in lower case) is written or acted on by RabbitMQ.
///
/// `CC` and `BCC` make the broker route copies to further queues: kept on a republished message, every retry would send
/// those copies again.
pub(super) fn is_the_brokers(name: &str) -> bool {
    name.starts_with("x-death")
        || name.starts_with("x-first-death")
        || name.starts_with("x-last-death")
        || matches!(name, DELIVERY_COUNT | "x-acquired-count" | "cc" | "bcc")
}

/// The headers that go along when a received message is published again.
pub(super) fn that_travel_on(headers: &BTreeMap<String, HeaderValue>) -> BTreeMap<String, HeaderValue> {
    headers
        .iter()
        .filter(|(name, _)| {
            let name = name.to_ascii_lowercase();
            !is_the_brokers(&name) && !matches!(name.as_str(), NOT_BEFORE | DELAY_REST)
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// How many bytes the headers take, give or take the type marks.
pub(crate) fn size(headers: &BTreeMap<String, HeaderValue>) -> usize {
    headers.iter().map(|(name, value)| entry_size(name, value)).sum()
}

/// How many bytes the headers take of what a task may have: all but those that come and go on the message's way.
///
/// The broker's own do not travel on, and the host's stamps are added when a task is published again. Were they counted,
/// a task that was accepted at the limit would be refused at its second attempt.
pub(crate) fn counted_size(headers: &BTreeMap<String, HeaderValue>) -> usize {
    headers.iter().map(|(name, value)| counted_entry_size(name, value)).sum()
}

fn counted_entry_size(name: &str, value: &HeaderValue) -> usize {
    let is_stamp = matches!(name, ATTEMPT | ENQUEUED_AT | DEADLINE | GENERATION | NOT_BEFORE | DELAY_REST)
        && value_size(value) <= STAMP_BYTES_MAX;
    if is_stamp || is_the_brokers(&name.to_ascii_lowercase()) { 0 } else { entry_size(name, value) }
}

/// Largest value that the host writes into a stamp: a `u64` beyond AMQP's integers, as text. What a sender writes under
/// the same name may be longer, and then counts.
const STAMP_BYTES_MAX: usize = LENGTH_BYTES + 20;

/// Removes the largest headers until the rest fit: for dead letters, which have to get through whatever was sent.
pub(super) fn shrink_to_fit(headers: &mut BTreeMap<String, HeaderValue>) {
    let mut excess = counted_size(headers).saturating_sub(HEADERS_BYTES_MAX);
    if excess == 0 {
        return;
    }
    // Sorted once: a frame holds some twenty thousand headers.
    let sizes = headers.iter().map(|(name, value)| (counted_entry_size(name, value), name.clone()));
    let mut largest_last: Vec<_> = sizes.collect();
    largest_last.sort_unstable();
    while excess > 0
        && let Some((bytes, name)) = largest_last.pop()
    {
        headers.remove(&name);
        excess = excess.saturating_sub(bytes);
    }
}

/// A name's length byte and a value's type byte.
const ENTRY_OVERHEAD_BYTES: usize = 2;
/// What precedes a long string, a list or a table.
const LENGTH_BYTES: usize = 4;

fn entry_size(name: &str, value: &HeaderValue) -> usize {
    ENTRY_OVERHEAD_BYTES + name.len() + value_size(value)
}

fn value_size(value: &HeaderValue) -> usize {
    const NUMBER_BYTES: usize = 8;
    match value {
        HeaderValue::Bool(_) => 1,
        HeaderValue::Int(_) | HeaderValue::Float(_) | HeaderValue::Timestamp(_) => NUMBER_BYTES,
        HeaderValue::Text(text) => LENGTH_BYTES + text.len(),
        HeaderValue::Bytes(bytes) => LENGTH_BYTES + bytes.len(),
        HeaderValue::List(values) => LENGTH_BYTES + values.iter().map(|value| 1 + value_size(value)).sum::<usize>(),
        HeaderValue::Table(table) => LENGTH_BYTES + size(table),
        HeaderValue::Void => 0,
    }
}

/// Longest `x-error-message`, in bytes: a paragraph with a trap's frames, far below what headers may take.
const ERROR_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// Text from an agent or a sender, made safe to print: one line, no control or direction-changing characters, bounded.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(ERROR_MESSAGE_BYTES_MAX));
    for character in text.chars() {
        if safe.len() + character.len_utf8() > ERROR_MESSAGE_BYTES_MAX {
            safe.push('…');
            break;
        }
        let hidden = character.is_control()
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
            || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        safe.push(if hidden { ' ' } else { character });
    }
    safe
}
