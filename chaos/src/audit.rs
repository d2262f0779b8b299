//! The audit: what was promised against what is there.
//!
//! Contract: every accepted task has exactly one end, one of those that were planned for it, at the attempt that was
//! planned; one effect if it succeeded, and none if not; a dead letter in the queue and in the list if it failed, with its
//! reason, and none if not; a result if its sender asked for one; and the same for its follow-up. What was never accepted
//! may have run, once at most.

mod report;

use std::collections::{BTreeMap, HashMap};

use crate::book::{Entries, Entry};
use crate::database::{Record, Row};
use crate::queues::{Answer, Letter};
use crate::work::{End, FOLLOW_UP_SUFFIX, OUTPUT, follow_up_label};

pub(crate) use report::Facts;

/// Everything that is known at the end.
#[derive(Default)]
pub(crate) struct Evidence {
    pub(crate) entries: Entries,
    pub(crate) rows: Vec<Row>,
    pub(crate) records: Vec<Record>,
    /// In the queue.
    pub(crate) letters: Vec<Letter>,
    /// As hosts list them.
    pub(crate) listed: Vec<Listed>,
    pub(crate) answers: Vec<Answer>,
}

/// A dead letter in the list that hosts give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) reason: String,
    pub(crate) attempts: i64,
    pub(crate) generation: i32,
}

/// What a task suffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// It was accepted, and has no end, no effect or no dead letter.
    Lost,
    /// It has more effects than one.
    Double,
    /// An effect that nobody asked for, or that should have been rolled back.
    Extra,
    /// It ended otherwise than planned.
    WrongEnd,
    /// It ended twice: as a success and as a dead letter, or under two ids.
    TwoEnds,
    /// It ended at another attempt than planned: something else than its own failures used some up.
    WrongAttempts,
    /// The list of dead letters says otherwise than the queue or the record.
    WrongList,
    /// Its sender awaits a result and has none, or has that of another end.
    WrongAnswer,
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
    /// Of the dead-lettered.
    pub(crate) expired: u64,
    pub(crate) cancelled: u64,
    /// Of those that succeeded.
    pub(crate) redriven: u64,
    pub(crate) follow_ups: u64,
    pub(crate) letters_repeated: u64,
    pub(crate) letters_left_behind: u64,
    pub(crate) answered: u64,
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
    letters: HashMap<&'a str, Vec<&'a Letter>>,
    answers: HashMap<&'a str, Vec<&'a Answer>>,
}

impl Index<'_> {
    /// The dead letters of a label, but for those of a generation before this one: they were redriven, and may be left
    /// behind.
    fn letters(&self, label: &str, generation: i32) -> usize {
        let letters = self.letters.get(label).into_iter().flatten();
        letters.filter(|letter| letter.generation >= generation).count()
    }
}

/// Holds the evidence against the contract.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut index =
        Index { rows: HashMap::new(), records: HashMap::new(), letters: HashMap::new(), answers: HashMap::new() };
    for row in &evidence.rows {
        index.rows.entry(&row.label).or_default().push(row);
    }
    index.records.extend(evidence.records.iter().map(|record| (record.id.as_str(), record)));
    for letter in &evidence.letters {
        index.letters.entry(&letter.label).or_default().push(letter);
    }
    for answer in &evidence.answers {
        index.answers.entry(&answer.correlation_id).or_default().push(answer);
    }
    let distinct_letters = index.letters.len();
    let mut verdict = Verdict {
        letters_repeated: evidence.letters.len().saturating_sub(distinct_letters) as u64,
        ..Verdict::default()
    };
    for (label, entry) in &evidence.entries {
        judge_entry(label, entry, &mut index, &mut verdict);
    }
    judge_letters(evidence, &index.records, &mut verdict);
    for label in index.letters.keys().filter(|label| !is_known(label, &evidence.entries)) {
        verdict.blame(Violation::Extra, format!("{label}: a dead letter of nobody's task"));
    }
    for (label, rows) in index.rows {
        verdict.blame(Violation::Extra, format!("{label}: {} effects that nobody asked for", rows.len()));
    }
    for (label, answers) in index.answers {
        verdict.blame(Violation::WrongAnswer, format!("{label}: {} results that nobody asked for", answers.len()));
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
    let mut is_due = None;
    if entry.is_accepted() {
        verdict.accepted += 1;
        for id in &entry.ids {
            let end = judge_end(label, id, entry, index, verdict);
            is_due = end.map(|end| end == End::Succeeded).or(is_due);
            judge_effects(label, id, entry, &rows, verdict);
        }
        if entry.ids.len() > 1 {
            let (count, ids) = (entry.ids.len(), &entry.ids);
            verdict.blame(Violation::TwoEnds, format!("{label}: accepted under {count} ids: {ids:?}"));
        }
    } else {
        let letters = index.letters(label, 0);
        verdict.unconfirmed_ran += u64::from(!rows.is_empty() || letters > 0);
        if entry.task.surely_fails() {
            is_due = Some(false);
        } else if !rows.is_empty() && letters > 0 {
            verdict.blame(Violation::TwoEnds, format!("{label}: there is an effect, and a dead letter"));
        }
    }
    match (rows.len(), is_due) {
        (0, Some(true)) => verdict.blame(Violation::Lost, format!("{label}: no effect")),
        (0, _) | (1, None | Some(true)) => {}
        (count, None | Some(true)) => {
            verdict.blame(Violation::Double, format!("{label}: {count} effects, {}", ids(&rows)));
        }
        (count, Some(false)) => {
            let which = ids(&rows);
            verdict
                .blame(Violation::Extra, format!("{label}: {count} effects of a task that did not succeed, {which}"));
        }
    }
    judge_answers(label, entry, index, verdict);
    if entry.task.follow_up {
        judge_follow_up(label, &rows, index, verdict);
    }
}

/// How an accepted task ended, where that is as planned; nothing where it is not known, or was blamed.
fn judge_end(label: &str, id: &str, entry: &Entry, index: &Index<'_>, verdict: &mut Verdict) -> Option<End> {
    let Some(record) = index.records.get(id) else {
        verdict.blame(Violation::Lost, format!("{label}: nothing is recorded of {id}"));
        return None;
    };
    let (status, attempt) = (record.status_name(), record.attempt);
    if !record.has_ended() {
        verdict.blame(Violation::Lost, format!("{label}: {id} is still {status}, attempt {attempt}"));
        return None;
    }
    let letters = index.letters(label, record.generation);
    if record.status == Record::FAILED && letters == 0 {
        verdict.blame(Violation::Lost, format!("{label}: {id} failed, and there is no dead letter"));
    }
    if record.status != Record::FAILED && letters > 0 {
        verdict.blame(Violation::TwoEnds, format!("{label}: {id} is {status}, and there is a dead letter"));
    }
    let Some(end) = entry.ends().into_iter().find(|end| is_end(record, *end)) else {
        verdict.blame(Violation::WrongEnd, wrong_end(label, entry, record));
        // Its effects are to be those of the end that it has.
        return (record.status != Record::SUCCEEDED).then_some(End::Cancelled);
    };
    match end {
        End::Succeeded => verdict.succeeded += 1,
        End::Failed(reason) => {
            verdict.dead_lettered += 1;
            verdict.expired += u64::from(reason == "expired");
        }
        End::Cancelled => verdict.cancelled += 1,
    }
    verdict.redriven += u64::from(end == End::Succeeded && record.generation > 0);
    if end == End::Succeeded && record.generation != entry.task.redrives() {
        let (planned, generation) = (entry.task.redrives(), record.generation);
        verdict.blame(Violation::WrongEnd, format!("{label}: redriven {generation} times, planned: {planned}"));
    }
    if let Some(planned) = entry.task.attempts(end).filter(|planned| i64::from(*planned) != attempt) {
        let end = end.name();
        verdict.blame(Violation::WrongAttempts, format!("{label}: {end} at attempt {attempt}, planned: {planned}"));
    }
    Some(end)
}

fn is_end(record: &Record, end: End) -> bool {
    match end {
        End::Succeeded => record.status == Record::SUCCEEDED,
        End::Failed(reason) => record.status == Record::FAILED && record.failure_kind.as_deref() == Some(reason),
        End::Cancelled => record.status == Record::CANCELLED,
    }
}

/// The effects are of the id that was promised, and of the attempt that was planned.
fn judge_effects(label: &str, id: &str, entry: &Entry, rows: &[&Row], verdict: &mut Verdict) {
    for row in rows.iter().filter(|row| row.task_id != *id) {
        verdict.blame(Violation::TwoEnds, format!("{label}: an effect of {}, accepted as {id}", row.task_id));
    }
    let may_succeed = entry.task.ends().contains(&End::Succeeded);
    let Some(planned) = entry.task.attempts(End::Succeeded).filter(|_| may_succeed) else { return };
    for row in rows.iter().filter(|row| i64::from(row.attempt) != i64::from(planned)) {
        let attempt = row.attempt;
        verdict.blame(Violation::WrongAttempts, format!("{label}: an effect of attempt {attempt}, planned: {planned}"));
    }
}

/// A sender that asked for the result has it, at least once; and none but that of the task's end, or of the failure before
/// its redrive.
fn judge_answers<'a>(label: &'a str, entry: &Entry, index: &mut Index<'a>, verdict: &mut Verdict) {
    if !entry.task.reply {
        return;
    }
    let answers = index.answers.remove(label).unwrap_or_default();
    let record = entry.ids.first().and_then(|id| index.records.get(id.as_str()));
    let Some(record) = record.filter(|record| record.has_ended()) else { return };
    let end = match record.status {
        Record::SUCCEEDED => "succeeded",
        _ => record.failure_kind.as_deref().unwrap_or_default(),
    };
    let of_the_end = answers.iter().filter(|answer| answer.outcome == end).count();
    verdict.answered += u64::from(of_the_end > 0);
    if of_the_end == 0 {
        verdict.blame(Violation::WrongAnswer, format!("{label}: {end}, and its sender was never told"));
    }
    let first = entry.task.first_failure();
    for answer in answers.iter().filter(|answer| answer.outcome != end && Some(answer.outcome.as_str()) != first) {
        verdict.blame(Violation::WrongAnswer, format!("{label}: {end}, and its sender was told {}", answer.outcome));
    }
    if answers.iter().any(|answer| answer.outcome == "succeeded" && answer.body != OUTPUT) {
        verdict.blame(Violation::WrongAnswer, format!("{label}: its sender was sent another output"));
    }
}

/// Every failed task is listed once, with the reason and the attempts that its record and its letters in the queue say;
/// and nothing else is listed.
fn judge_letters(evidence: &Evidence, records: &HashMap<&str, &Record>, verdict: &mut Verdict) {
    let mut listed: HashMap<&str, Vec<&Listed>> = HashMap::new();
    for letter in &evidence.listed {
        listed.entry(&letter.id).or_default().push(letter);
    }
    for record in evidence.records.iter().filter(|record| record.status == Record::FAILED) {
        let id = &record.id;
        match listed.remove(id.as_str()).unwrap_or_default().as_slice() {
            [letter] if says(record, &letter.reason, letter.attempts, letter.generation) => {}
            [letter] => verdict.blame(Violation::WrongList, format!("{letter:?} is listed of {record:?}")),
            [] => verdict.blame(Violation::WrongList, format!("{id}: failed, and is not listed")),
            [..] => verdict.blame(Violation::WrongList, format!("{id}: is listed twice")),
        }
    }
    for id in listed.keys() {
        verdict.blame(Violation::WrongList, format!("{id}: is listed, and has not failed"));
    }
    for letter in &evidence.letters {
        match records.get(letter.id.as_str()) {
            Some(record) if letter.generation < record.generation => verdict.letters_left_behind += 1,
            Some(record) if says(record, &letter.reason, letter.attempts, letter.generation) => {}
            Some(record) if record.status == Record::FAILED => {
                verdict.blame(Violation::WrongList, format!("{letter:?} lies in the queue of {record:?}"));
            }
            // Blamed elsewhere: the letter of a task that has not failed, or of none.
            Some(_) | None => {}
        }
    }
}

fn says(record: &Record, reason: &str, attempts: i64, generation: i32) -> bool {
    // A deadline that passed before the attempt began has used none.
    let is_unused = reason == "expired" && attempts + 1 == record.attempt;
    let is_attempt = record.attempt == attempts || is_unused;
    record.failure_kind.as_deref() == Some(reason) && is_attempt && record.generation == generation
}

fn wrong_end(label: &str, entry: &Entry, record: &Record) -> String {
    let planned: Vec<&str> = entry.ends().into_iter().map(End::name).collect();
    let kind = record.failure_kind.as_deref().unwrap_or("no failure");
    let message = record.failure_message.as_deref().unwrap_or_default();
    let (status, attempt) = (record.status_name(), record.attempt);
    format!("{label}: {status} ({kind}: {message}), attempt {attempt}, planned: {}", planned.join(" or "))
}

/// A follow-up leaves exactly if the task that submitted it has its effect.
fn judge_follow_up(label: &str, parent: &[&Row], index: &mut Index<'_>, verdict: &mut Verdict) {
    let own = follow_up_label(label);
    let rows = index.rows.remove(own.as_str()).unwrap_or_default();
    let Some(id) = parent.first().map(|row| row.follow_up.as_deref().unwrap_or_default()) else {
        if !rows.is_empty() || index.letters(&own, 0) > 0 {
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
        Some(record) if record.status == Record::SUCCEEDED => {
            if record.attempt != 1 {
                verdict.blame(Violation::WrongAttempts, format!("{own}: attempt {}, planned: 1", record.attempt));
            }
        }
        Some(record) => {
            verdict.blame(Violation::WrongEnd, format!("{own}: {id} is {}, planned: succeeded", record.status_name()));
        }
        None => verdict.blame(Violation::Lost, format!("{own}: nothing is recorded of {id}")),
    }
    if index.letters(&own, 0) > 0 {
        verdict.blame(Violation::TwoEnds, format!("{own}: there is a dead letter"));
    }
}

fn ids(rows: &[&Row]) -> String {
    let ids: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.task_id.as_str()).collect();
    format!("{ids:?}")
}

#[cfg(test)]
mod tests;
