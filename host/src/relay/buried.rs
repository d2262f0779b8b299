//! Ends with a dead letter.

use crate::delivery::envelope::{self, DeathNote};
use crate::delivery::{Message, Route, outgoing};
use crate::records::{DeadLetter, Ending, Outgoing, Status, Update, outgoing_id};
use crate::task::{AgentName, Outcome, TaskId, unix_ms_now};

/// The end with its dead letter: the one that is listed, and the one that leaves for the agent's queue of them, behind what
/// leaves besides.
#[must_use]
pub fn buried(mut end: Ending, message: &Message, note: DeathNote) -> Ending {
    let letter = envelope::dead_letter(message, &note);
    let payload = outgoing::encode(&Route::DeadLetter(end.update.agent.clone()), &letter);
    let listed = listed(&end.update.agent, note, payload.clone());
    end.outgoing.push(Outgoing { id: outgoing_id(), payload });
    Ending { dead_letter: Some(listed), ..end }
}

fn listed(agent: &AgentName, note: DeathNote, message: bytes::Bytes) -> DeadLetter {
    DeadLetter {
        id: note.task_id,
        agent: agent.clone(),
        generation: note.generation,
        failed_at_ms: note.failed_at_ms,
        // As in the letter: one line, bounded, and text that a database can hold.
        error_type: envelope::printable(&note.error_type),
        error_message: envelope::printable(&note.error_message),
        attempts: note.attempts,
        revision: note.revision,
        digest: note.digest,
        host: note.host,
        message,
        recording: None,
    }
}

/// The end of a task that never was in its agent's queue.
pub(super) fn unsent(host: &str, agent: &AgentName, message: &Message, outcome: &Outcome) -> Ending {
    let failed_at_ms = unix_ms_now();
    let failure = outcome.failure().unwrap_or_default();
    let id = message.message_id.as_deref().and_then(|id| TaskId::parse(id).ok()).unwrap_or_else(TaskId::generate);
    let note = DeathNote {
        task_id: id.clone(),
        error_type: failure.kind.clone(),
        error_message: failure.message.clone(),
        failed_at_ms,
        attempts: 0,
        generation: envelope::generation(message),
        revision: None,
        digest: None,
        host: host.to_owned(),
    };
    let update = Update {
        id,
        agent: agent.clone(),
        revision: None,
        status: Status::Failed,
        attempt: 1,
        generation: note.generation,
        output: None,
        failure: Some(failure),
        usage: None,
        enqueued_at_ms: message.timestamp_ms.unwrap_or(failed_at_ms),
        started_at_ms: None,
        finished_at_ms: Some(failed_at_ms),
    };
    buried(Ending::from(update), message, note)
}
