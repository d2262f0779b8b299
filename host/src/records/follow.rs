//! Those who wait for a task's record to change.
//!
//! Changes that this host makes reach them at once; what other hosts do is read from the database by whoever owns this,
//! who asks [`Followers::due`] which records to look at.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::{Progress, Status, TaskRecord, order};
use crate::task::TaskId;

/// How long after somebody begins to follow a task its record is first read. Most tasks that are followed have just
/// been submitted here and end sooner, so that nothing need be read at all.
const FIRST_READ_AFTER: Duration = Duration::from_millis(25);

/// How often the record of a followed task is read: tasks of other hosts are to be seen within half a second.
const READ_EVERY: Duration = Duration::from_millis(300);

/// Entries that nobody listens to any more are cleared when the table has grown by this factor since the last time, so
/// that clearing costs a constant per entry.
const CLEAR_AT_GROWTH: usize = 2;

/// Below this many entries nothing is cleared on growth.
const CLEAR_FROM: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Followers {
    table: Mutex<Table>,
    /// Signalled when the table stops being empty, or a record is to be read now.
    pub(super) wake: Notify,
}

#[derive(Debug, Default)]
struct Table {
    followed: HashMap<TaskId, Followed>,
    left_at_last_clearing: usize,
}

#[derive(Debug)]
struct Followed {
    sender: watch::Sender<Option<TaskRecord>>,
    read_at: Instant,
}

impl Followers {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to follow a task, of which `known` is what the caller knows.
    pub(super) fn follow(&self, id: &TaskId, known: Option<TaskRecord>) -> watch::Receiver<Option<TaskRecord>> {
        if known.as_ref().is_some_and(|record| record.status.is_terminal()) {
            return watch::channel(known).1;
        }
        let mut table = self.table();
        if let Some(followed) = table.followed.get(id) {
            return followed.sender.subscribe();
        }
        if table.followed.len() > table.left_at_last_clearing.max(CLEAR_FROM) * CLEAR_AT_GROWTH {
            table.followed.retain(|_, followed| followed.sender.receiver_count() > 0);
            table.left_at_last_clearing = table.followed.len();
        }
        let (sender, receiver) = watch::channel(known);
        let read_at = Instant::now() + FIRST_READ_AFTER;
        table.followed.insert(id.clone(), Followed { sender, read_at });
        if table.followed.len() == 1 {
            self.wake.notify_one();
        }
        receiver
    }

    /// Tells of a change that has happened: by this host, or one that was read.
    pub(super) fn changed(&self, change: &TaskRecord) {
        self.modify(&change.id, |known| match known {
            None => {
                *known = Some(change.clone());
                true
            }
            Some(record) if order::supersedes(change, record) => {
                order::merge(record, change);
                true
            }
            Some(_) => false,
        });
    }

    /// Tells of progress.
    pub(super) fn progressed(&self, id: &TaskId, progress: &Progress) {
        self.modify(id, |known| match known {
            Some(record) if record.status == Status::Running => {
                record.progress = Some(progress.clone());
                true
            }
            Some(_) | None => false,
        });
    }

    /// Tells that a queued record was taken back.
    pub(super) fn withdrawn(&self, id: &TaskId) {
        self.modify(id, |known| {
            let was_queued = known.as_ref().is_some_and(|record| record.status == Status::Queued);
            if was_queued {
                *known = None;
            }
            was_queued
        });
    }

    /// Tells what the database holds. It may be behind what this host has noted and not yet written.
    pub(super) fn read(&self, read: TaskRecord) {
        let id = read.id.clone();
        self.modify(&id, |known| match known {
            Some(record) if *record == read => false,
            Some(record) if !read.status.is_terminal() && !order::supersedes(&read, record) => false,
            Some(_) | None => {
                *known = Some(read);
                true
            }
        });
    }

    /// Has a record read as soon as possible: a change of it turned out not to be the last word.
    pub(super) fn read_soon(&self, id: &TaskId) {
        if let Some(followed) = self.table().followed.get_mut(id) {
            followed.read_at = Instant::now();
            self.wake.notify_one();
        }
    }

    /// The followed records to read now, and when to ask again; `None` once nobody follows anything.
    pub(super) fn due(&self) -> Option<(Vec<TaskId>, Instant)> {
        let now = Instant::now();
        let mut table = self.table();
        table.followed.retain(|_, followed| followed.sender.receiver_count() > 0);
        let mut due = Vec::new();
        for (id, followed) in &mut table.followed {
            if followed.read_at <= now {
                followed.read_at = now + READ_EVERY;
                due.push(id.clone());
            }
        }
        // New ones come due this soon at the earliest.
        let soonest = now + FIRST_READ_AFTER;
        let next = table.followed.values().map(|followed| followed.read_at).min()?;
        Some((due, next.min(soonest)))
    }

    /// Changes what followers of a task see; an end is the last thing that they see.
    fn modify(&self, id: &TaskId, change: impl FnOnce(&mut Option<TaskRecord>) -> bool) {
        let mut table = self.table();
        let Some(followed) = table.followed.get(id) else { return };
        followed.sender.send_if_modified(change);
        let ended = followed.sender.borrow().as_ref().is_some_and(|record| record.status.is_terminal());
        if ended {
            table.followed.remove(id);
        }
    }
}
