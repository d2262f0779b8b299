//! Which of two changes of a record is the later one, and what a record is after a change.
//!
//! Changes arrive out of order: `running` is written late, several hosts may meet the same task, a batch may be written
//! twice. So arrival decides nothing; the rules here do. The statement in `records::postgres::changes` says the same in
//! SQL, and `records::conformance` holds both to it.

use super::{DeadLetter, NewTask, Outgoing, Progress, Status, TaskRecord, Update};
use crate::task::{Failure, Outcome, Output, UnixMs};

/// The number that stands for a status in the database. Later stages have larger numbers; all ends are from 3 on.
pub(super) fn code(status: Status) -> i16 {
    match status {
        Status::Queued => 0,
        Status::Running => 1,
        Status::Retrying => 2,
        Status::Succeeded => 3,
        Status::Failed => 4,
        Status::Cancelled => 5,
    }
}

/// The status that a number stands for.
pub(super) fn from_code(code: i16) -> Option<Status> {
    use Status::{Cancelled, Failed, Queued, Retrying, Running, Succeeded};
    [Queued, Running, Retrying, Succeeded, Failed, Cancelled].into_iter().find(|status| self::code(*status) == code)
}

/// Whether `change` is to be written over `record`.
///
/// Ids are the whole fleet's: under one that another agent's task has, nothing is written. A redrive makes a task anew:
/// the later generation is the later change. Within one, nothing follows an end. Before it, the attempt decides, then when
/// the attempt began (a task that its host died with runs again under the same number), then the stage.
pub(super) fn supersedes(change: &TaskRecord, record: &TaskRecord) -> bool {
    if change.agent != record.agent {
        return false;
    }
    if change.generation != record.generation {
        return change.generation > record.generation;
    }
    if record.status.is_terminal() {
        return false;
    }
    let started_ms = |started: Option<UnixMs>| started.or(record.started_at_ms).unwrap_or(0);
    let new = (change.attempt, started_ms(change.started_at_ms), code(change.status));
    let old = (record.attempt, started_ms(record.started_at_ms), code(record.status));
    change.status.is_terminal() || new >= old
}

/// Writes `change` over `record`, which it must supersede. What a change before the end does not say stays.
pub(super) fn merge(record: &mut TaskRecord, change: &TaskRecord) {
    if change.generation != record.generation {
        record.generation = change.generation;
        record.progress = None;
        record.failure = None;
        record.usage = None;
    }
    let begins_again = change.status == Status::Running
        && (change.attempt != record.attempt || change.started_at_ms.or(record.started_at_ms) != record.started_at_ms);
    if begins_again {
        record.progress = None;
    }
    let ends = change.status.is_terminal();
    record.revision = change.revision.or(record.revision);
    record.status = change.status;
    record.attempt = change.attempt;
    record.output.clone_from(&change.output);
    if ends || change.failure.is_some() {
        record.failure.clone_from(&change.failure);
    }
    record.usage = change.usage.or(record.usage);
    record.started_at_ms = change.started_at_ms.or(record.started_at_ms);
    record.finished_at_ms = change.finished_at_ms;
}

/// Whether the record says that the task need not be run in this generation.
pub(super) fn has_ended(record: &TaskRecord, generation: u32) -> bool {
    record.generation > generation || (record.generation == generation && record.status.is_terminal())
}

/// The end of a task that is known and cancelled.
pub(super) fn cancelled(record: &TaskRecord, at_ms: UnixMs) -> Update {
    Update {
        id: record.id.clone(),
        agent: record.agent.clone(),
        revision: record.revision,
        status: Status::Cancelled,
        attempt: record.attempt,
        generation: record.generation,
        output: None,
        failure: Outcome::Cancelled.failure(),
        usage: None,
        enqueued_at_ms: record.enqueued_at_ms,
        started_at_ms: record.started_at_ms,
        finished_at_ms: Some(at_ms),
    }
}

/// The beginning of a task that is redriven.
pub(super) fn redriven(letter: &DeadLetter) -> Update {
    Update {
        id: letter.id.clone(),
        agent: letter.agent.clone(),
        revision: None,
        status: Status::Queued,
        attempt: 1,
        generation: letter.generation.saturating_add(1),
        output: None,
        failure: None,
        usage: None,
        enqueued_at_ms: letter.failed_at_ms,
        started_at_ms: None,
        finished_at_ms: None,
    }
}

impl From<&NewTask> for TaskRecord {
    fn from(task: &NewTask) -> Self {
        Self {
            id: task.id.clone(),
            agent: task.agent.clone(),
            revision: None,
            status: Status::Queued,
            attempt: 1,
            generation: 0,
            output: None,
            failure: None,
            progress: None,
            usage: None,
            enqueued_at_ms: task.enqueued_at_ms,
            started_at_ms: None,
            finished_at_ms: None,
        }
    }
}

/// The record that a change makes where there was none.
impl From<Update> for TaskRecord {
    fn from(update: Update) -> Self {
        Self {
            id: update.id,
            agent: update.agent,
            revision: update.revision,
            status: update.status,
            attempt: update.attempt,
            generation: update.generation,
            output: update.output.map(|output| Output {
                content_type: output.content_type.map(storable),
                body: output.body,
                // Headers are for the result message; the API does not show them.
                headers: Vec::new(),
            }),
            failure: update
                .failure
                .map(|failure| Failure { kind: storable(failure.kind), message: storable(failure.message) }),
            progress: None,
            usage: update.usage,
            enqueued_at_ms: update.enqueued_at_ms,
            started_at_ms: update.started_at_ms,
            finished_at_ms: update.finished_at_ms,
        }
    }
}

/// Progress as it can be stored.
pub(super) fn storable_progress(progress: Progress) -> Progress {
    Progress { fraction: progress.fraction, note: storable(progress.note) }
}

/// Text from an agent as PostgreSQL can hold it: it has no NUL in text, and one such message must not cost the batch
/// that it is written with.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// Bytes that a record keeps in memory or takes on its way to the database, roughly.
pub(super) fn weight(record: &TaskRecord) -> usize {
    let output = record
        .output
        .as_ref()
        .map_or(0, |output| output.body.len() + output.content_type.as_ref().map_or(0, String::len));
    let failure = record.failure.as_ref().map_or(0, |failure| failure.message.len() + failure.kind.len());
    let progress = record.progress.as_ref().map_or(0, |progress| progress.note.len());
    RECORD_BYTES + record.id.as_str().len() + output + failure + progress
}

/// Bytes of what leaves with an end.
pub(super) fn extra_weight(outgoing: &[Outgoing], letter: Option<&DeadLetter>) -> usize {
    let outgoing: usize = outgoing.iter().map(|outgoing| RECORD_BYTES + outgoing.payload.len()).sum();
    let letter = letter.map_or(0, |letter| {
        let recording = letter.recording.as_ref().map_or(0, bytes::Bytes::len);
        RECORD_BYTES + letter.message.len() + letter.error_message.len() + recording
    });
    outgoing + letter
}

/// What a record without output, failure and progress takes, map entry and allocations included.
pub(super) const RECORD_BYTES: usize = 384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_number() {
        for status in
            [Status::Queued, Status::Running, Status::Retrying, Status::Succeeded, Status::Failed, Status::Cancelled]
        {
            assert_eq!(from_code(code(status)), Some(status));
            assert_eq!(status.is_terminal(), code(status) >= 3);
        }
        assert_eq!(from_code(6), None);
    }
}
