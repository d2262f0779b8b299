//! Changes that nobody waits for, kept back for a moment.
//!
//! Most tasks end before their `running` would be written; then it never is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::records::{Progress, TaskLog, TaskRecord, order};
use crate::task::TaskId;

/// How long a note is kept back: shorter than anybody watching would notice, longer than most tasks run.
const KEPT_BACK: Duration = Duration::from_millis(100);

/// Notes that may be kept back at once. More means that the database is away; then newer ones are dropped, since the
/// records of these tasks are written anew at their end.
const NOTES_MAX: usize = 16_384;

/// Bytes of what runs said that may wait at once, and that one statement carries. More means that the database is away, or
/// that many tasks which say much fail at once; then newer ones are dropped.
const LOG_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct Noted {
    notes: Mutex<HashMap<TaskId, Note>>,
    logs: Mutex<Logs>,
}

/// What runs said. Apart from the notes, for no later change overtakes it.
#[derive(Debug, Default)]
struct Logs {
    waiting: Vec<TaskLog>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Note {
    pub(super) change: Option<TaskRecord>,
    pub(super) progress: Option<Progress>,
    since: Instant,
}

impl Noted {
    fn notes(&self) -> MutexGuard<'_, HashMap<TaskId, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a change back. Answers whether there was room.
    pub(super) fn change(&self, change: TaskRecord) -> bool {
        let mut notes = self.notes();
        if let Some(note) = notes.get_mut(&change.id) {
            match &mut note.change {
                Some(kept) if order::supersedes(&change, kept) => {
                    if change.attempt != kept.attempt || change.started_at_ms != kept.started_at_ms {
                        note.progress = None;
                    }
                    order::merge(kept, &change);
                }
                Some(_) => {}
                None => note.change = Some(change),
            }
            return true;
        }
        if notes.len() >= NOTES_MAX {
            return false;
        }
        notes.insert(change.id.clone(), Note { change: Some(change), progress: None, since: Instant::now() });
        true
    }

    /// Keeps progress back. Answers whether there was room.
    pub(super) fn progress(&self, id: &TaskId, progress: Progress) -> bool {
        let mut notes = self.notes();
        if let Some(note) = notes.get_mut(id) {
            note.progress = Some(progress);
            return true;
        }
        if notes.len() >= NOTES_MAX {
            return false;
        }
        notes.insert(id.clone(), Note { change: None, progress: Some(progress), since: Instant::now() });
        true
    }

    /// Keeps what a run said until it is written. Answers whether there was room.
    pub(super) fn log(&self, log: TaskLog) -> bool {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = logs.bytes.saturating_add(log.weight());
        if bytes > LOG_BYTES_MAX {
            return false;
        }
        logs.bytes = bytes;
        logs.waiting.push(log);
        true
    }

    /// Takes all that runs said.
    pub(super) fn take_logs(&self) -> Vec<TaskLog> {
        std::mem::take(&mut *self.logs.lock().unwrap_or_else(PoisonError::into_inner)).waiting
    }

    /// Drops what the task's end makes needless, and progress that nobody would have seen.
    pub(super) fn overtaken(&self, end: &TaskRecord) {
        self.notes().remove(&end.id);
    }

    /// Takes the notes that were kept back long enough, or all.
    pub(super) fn take(&self, all: bool) -> Vec<(TaskId, Note)> {
        let mut notes = self.notes();
        if all {
            return notes.drain().collect();
        }
        notes.extract_if(|_, note| note.since.elapsed() >= KEPT_BACK).collect()
    }
}

/// Messages that have left, and whose rows in the outbox are to go.
#[derive(Debug, Default)]
pub(super) struct Sent {
    ids: Mutex<Vec<Uuid>>,
}

impl Sent {
    pub(super) fn add(&self, ids: Vec<Uuid>) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }

    pub(super) fn take(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
