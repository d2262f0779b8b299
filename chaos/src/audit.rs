//! The audit: what was promised against what is there.
//!
//! Contract: every accepted task has exactly one end, the one that was planned for it; one effect if it was to succeed,
//! and none if it was to fail; the same for its follow-up. What was never accepted may have run, once at most.

mod report;

use std::collections::{BTreeMap, HashMap};

use crate::book::{Entries, Entry};
use crate::database::{Record, Row};
use crate::queues::Letter;
use crate::work::{FOLLOW_UP_SUFFIX, follow_up_label};

pub(crate) use report::Facts;

/// Everything that is known at the end.
#[derive(Default)]
pub(crate) struct Evidence {
    pub(crate) entries: Entries,
    pub(crate) rows: Vec<Row>,
    pub(crate) records: Vec<Record>,
    pub(crate) letters: Vec<Letter>,
}

/// What a task suffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// It was accepted, and has no end or no effect.
    Lost,
    /// It has more effects than one.
    Double,
    /// An effect that nobody asked for, or that should have been rolled back.
    Extra,
    /// It ended otherwise than planned.
    WrongEnd,
    /// It ended twice: as a success and as a dead letter, or under two ids.
    TwoEnds,
    /// Anything else that must not be.
    Other,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) submitted: u64,
    pub(crate) accepted: u64,
    pub(crate) sends: u64,
    pub(crate) unconfirmed_ran: u64,
    pub(crate) succeeded: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) follow_ups: u64,
    pub(crate) letters_repeated: u64,
    pub(crate) violations: BTreeMap<Violation, Vec<String>>,
}

impl Verdict {
    /// Notes a violation.
    pub(crate) fn blame(&mut self, violation: Violation, what: String) {
        self.violations.entry(violation).or_default().push(what);
    }
}

/// The evidence, by what it is looked up by.
struct Index<'a> {
    rows: HashMap<&'a str, Vec<&'a Row>>,
    records: HashMap<&'a str, &'a Record>,
    letters: HashMap<&'a str, u64>,
}

impl Index<'_> {
    fn letters(&self, label: &str) -> u64 {
        self.letters.get(label).copied().unwrap_or(0)
    }
}

/// Holds the evidence against the contract.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut index = Index { rows: HashMap::new(), records: HashMap::new(), letters: HashMap::new() };
    for row in &evidence.rows {
        index.rows.entry(&row.label).or_default().push(row);
    }
    index.records.extend(evidence.records.iter().map(|record| (record.id.as_str(), record)));
    for letter in &evidence.letters {
        *index.letters.entry(&letter.label).or_default() += 1;
    }
    let distinct_letters = index.letters.len();
    let mut verdict = Verdict {
        letters_repeated: evidence.letters.len().saturating_sub(distinct_letters) as u64,
        ..Verdict::default()
    };
    for (label, entry) in &evidence.entries {
        judge_entry(label, entry, &mut index, &mut verdict);
    }
    for label in index.letters.keys().filter(|label| !is_known(label, &evidence.entries)) {
        verdict.blame(Violation::Extra, format!("{label}: a dead letter of nobody's task"));
    }
    for (label, rows) in index.rows {
        verdict.blame(Violation::Extra, format!("{label}: {} effects that nobody asked for", rows.len()));
    }
    verdict.violations.values_mut().for_each(|found| found.sort());
    verdict
}

/// Whether a label was sent, or is that of a follow-up of one that was.
fn is_known(label: &str, entries: &Entries) -> bool {
    let parent = || label.strip_suffix(FOLLOW_UP_SUFFIX).and_then(|parent| entries.get(parent));
    entries.contains_key(label) || parent().is_some_and(|parent| parent.task.follow_up)
}

fn judge_entry<'a>(label: &'a str, entry: &Entry, index: &mut Index<'a>, verdict: &mut Verdict) {
    let rows = index.rows.remove(label).unwrap_or_default();
    verdict.submitted += 1;
    verdict.sends += entry.sends;
    let mut due = entry.task.succeeds();
    if entry.is_accepted() {
        verdict.accepted += 1;
        due &= judge_end(label, entry, index, verdict);
    } else {
        let letters = index.letters(label);
        verdict.unconfirmed_ran += u64::from(!rows.is_empty() || letters > 0);
        if due && !rows.is_empty() && letters > 0 {
            verdict.blame(Violation::TwoEnds, format!("{label}: there is an effect, and a dead letter"));
        }
    }
    match (rows.len(), due) {
        (0, true) if entry.is_accepted() => verdict.blame(Violation::Lost, format!("{label}: no effect")),
        (0, _) | (1, true) => {}
        (count, true) => verdict.blame(Violation::Double, format!("{label}: {count} effects, {}", ids(&rows))),
        (count, false) => {
            verdict.blame(Violation::Extra, format!("{label}: {count} effects of a task that failed, {}", ids(&rows)));
        }
    }
    if entry.task.follow_up {
        judge_follow_up(label, &rows, index, verdict);
    }
}

/// Whether an accepted task ended, or seems to have ended, as a success where that was planned.
fn judge_end(label: &str, entry: &Entry, index: &Index<'_>, verdict: &mut Verdict) -> bool {
    let letters = index.letters(label);
    let mut as_planned = true;
    for id in &entry.ids {
        let Some(record) = index.records.get(id.as_str()) else {
            verdict.blame(Violation::Lost, format!("{label}: nothing is recorded of {id}"));
            continue;
        };
        let failure = record.failure_kind.as_deref();
        match (record.status, entry.task.failure()) {
            (Record::SUCCEEDED, None) => verdict.succeeded += 1,
            (Record::FAILED, planned) if planned.is_some() && failure == planned => verdict.dead_lettered += 1,
            _ if !record.has_ended() => {
                let (status, attempt) = (record.status_name(), record.attempt);
                verdict.blame(Violation::Lost, format!("{label}: {id} is still {status}, attempt {attempt}"));
            }
            _ => {
                as_planned = false;
                verdict.blame(Violation::WrongEnd, wrong_end(label, entry, record));
            }
        }
        if record.status == Record::FAILED && letters == 0 {
            verdict.blame(Violation::Lost, format!("{label}: {id} failed, and there is no dead letter"));
        }
        if record.status == Record::SUCCEEDED && letters > 0 {
            verdict.blame(Violation::TwoEnds, format!("{label}: {id} succeeded, and there is a dead letter"));
        }
    }
    if entry.ids.len() > 1 {
        verdict.blame(Violation::TwoEnds, format!("{label}: accepted under {} ids: {:?}", entry.ids.len(), entry.ids));
    }
    as_planned
}

fn wrong_end(label: &str, entry: &Entry, record: &Record) -> String {
    let planned = entry.task.failure().unwrap_or("succeeded");
    let kind = record.failure_kind.as_deref().unwrap_or("no failure");
    let message = record.failure_message.as_deref().unwrap_or_default();
    let (status, attempt) = (record.status_name(), record.attempt);
    format!("{label}: {status} ({kind}: {message}), attempt {attempt}, planned: {planned}")
}

/// A follow-up leaves exactly if the task that submitted it has its effect.
fn judge_follow_up(label: &str, parent: &[&Row], index: &mut Index<'_>, verdict: &mut Verdict) {
    let own = follow_up_label(label);
    let rows = index.rows.remove(own.as_str()).unwrap_or_default();
    let Some(id) = parent.first().map(|row| row.follow_up.as_deref().unwrap_or_default()) else {
        if !rows.is_empty() || index.letters(&own) > 0 {
            verdict.blame(Violation::Extra, format!("{own}: ran, though the task that submitted it did not succeed"));
        }
        return;
    };
    verdict.follow_ups += 1;
    match rows.len() {
        0 => verdict.blame(Violation::Lost, format!("{own}: no effect, {id}")),
        1 => {}
        count => verdict.blame(Violation::Double, format!("{own}: {count} effects, {}", ids(&rows))),
    }
    match index.records.get(id) {
        Some(record) if record.status == Record::SUCCEEDED => {}
        Some(record) => {
            verdict.blame(Violation::WrongEnd, format!("{own}: {id} is {}, planned: succeeded", record.status_name()));
        }
        None => verdict.blame(Violation::Lost, format!("{own}: nothing is recorded of {id}")),
    }
    if index.letters(&own) > 0 {
        verdict.blame(Violation::TwoEnds, format!("{own}: there is a dead letter"));
    }
}

fn ids(rows: &[&Row]) -> String {
    let ids: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.task_id.as_str()).collect();
    format!("{ids:?}")
}

#[cfg(test)]
mod tests;
