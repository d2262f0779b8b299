//! What was sent and what was promised: the side of the audit that no server knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::work::{End, Task};

/// What became of the wish to cancel a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cancelling {
    /// Nobody asked for it, or a host said that it is not to be had.
    #[default]
    No,
    /// Somebody asked and got no answer.
    Unclear,
    /// A host said that the task is cancelled.
    Promised,
}

/// What is known of one label: one submission, or several of the same under one id.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) task: Task,
    /// How often it was sent, lost tries included.
    pub(crate) sends: u64,
    /// The ids under which it was accepted: none before that, and never more than one.
    pub(crate) ids: BTreeSet<String>,
    pub(crate) cancelling: Cancelling,
}

impl Entry {
    /// Whether somebody promised that it will run.
    pub(crate) fn is_accepted(&self) -> bool {
        !self.ids.is_empty()
    }

    /// How it may have ended, now that all is done.
    pub(crate) fn ends(&self) -> Vec<End> {
        let ends = self.task.ends().into_iter();
        ends.filter(|end| match self.cancelling {
            Cancelling::No => *end != End::Cancelled,
            Cancelling::Unclear => true,
            Cancelling::Promised => *end == End::Cancelled,
        })
        .collect()
    }
}

/// Everything that was sent, by label.
pub(crate) type Entries = HashMap<String, Entry>;

/// The counts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Labels that were accepted.
    pub(crate) accepted: u64,
    /// How many ends the accepted tasks have at the least, follow-ups included.
    pub(crate) ends: u64,
}

#[derive(Default)]
struct Inner {
    entries: Entries,
    counts: Counts,
    /// How often each was given, and the label that got it first.
    refusals: BTreeMap<String, (u64, String)>,
    /// What senders are at, by label.
    doing: BTreeMap<String, &'static str>,
}

/// Takes notes from all senders.
#[derive(Default)]
pub(crate) struct Book(Mutex<Inner>);

impl Book {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task is about to be sent.
    pub(crate) fn sending(&self, label: &str, task: Task) {
        let mut inner = self.inner();
        let new = || Entry { task, sends: 0, ids: BTreeSet::new(), cancelling: Cancelling::No };
        inner.entries.entry(label.to_owned()).or_insert_with(new).sends += 1;
    }

    /// It was accepted under this id.
    pub(crate) fn accepted(&self, label: &str, id: &str) {
        let mut inner = self.inner();
        let Some(entry) = inner.entries.get_mut(label) else { return };
        let (is_first, ends) = (entry.ids.is_empty(), entry.task.ends_min());
        entry.ids.insert(id.to_owned());
        if is_first {
            inner.counts.accepted += 1;
            inner.counts.ends += ends;
        }
    }

    /// Whether it was accepted.
    pub(crate) fn is_accepted(&self, label: &str) -> bool {
        self.inner().entries.get(label).is_some_and(Entry::is_accepted)
    }

    /// A request to cancel it went out, or was answered.
    pub(crate) fn cancelling(&self, label: &str, state: Cancelling) {
        if let Some(entry) = self.inner().entries.get_mut(label) {
            entry.cancelling = state;
        }
    }

    /// What a sender is at with a label; nothing when it is done with it.
    pub(crate) fn doing(&self, label: &str, what: Option<&'static str>) {
        let doing = &mut self.inner().doing;
        match what {
            Some(what) => doing.insert(label.to_owned(), what),
            None => doing.remove(label),
        };
    }

    /// What senders are at: how many, and one of them.
    pub(crate) fn at(&self) -> String {
        let doing = &self.inner().doing;
        let first = doing.first_key_value().map(|(label, what)| format!(", as {what} {label}"));
        format!("{} senders at work{}", doing.len(), first.unwrap_or_default())
    }

    /// An answer came that no sound host gives.
    pub(crate) fn refused(&self, label: &str, why: String) {
        let mut inner = self.inner();
        inner.refusals.entry(why).or_insert_with(|| (0, label.to_owned())).0 += 1;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// The ids that were given for accepted tasks.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.inner().entries.values().flat_map(|entry| &entry.ids).cloned().collect()
    }

    /// Everything, for the audit: what was sent, and what answers came that no sound host gives.
    pub(crate) fn close(&self) -> (Entries, Vec<String>) {
        let mut inner = self.inner();
        let refusals = std::mem::take(&mut inner.refusals).into_iter();
        let refusals = refusals.map(|(why, (times, label))| format!("{times} times, first for {label}: {why}"));
        (std::mem::take(&mut inner.entries), refusals.collect())
    }
}
