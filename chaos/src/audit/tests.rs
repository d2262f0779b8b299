use super::*;
use crate::work::{Task, Then};

/// A sound run of one task, which the tests then spoil.
fn sound(then: Then, follow_up: bool) -> Evidence {
    let task = Task { number: 0, then, follow_up, cache: false };
    let entry = Entry { task, sends: 1, ids: ["id".to_owned()].into() };
    let mut evidence = Evidence { entries: [("a".to_owned(), entry)].into(), ..Evidence::default() };
    if task.succeeds() {
        evidence.rows.push(row("a", "id", follow_up.then_some("f-id")));
        evidence.records.push(record("id", Record::SUCCEEDED, None));
        if follow_up {
            evidence.rows.push(row("a-follow-up", "f-id", None));
            evidence.records.push(record("f-id", Record::SUCCEEDED, None));
        }
    } else {
        evidence.records.push(record("id", Record::FAILED, task.failure()));
        evidence.letters.push(Letter { label: "a".to_owned() });
    }
    evidence
}

fn row(label: &str, task_id: &str, follow_up: Option<&str>) -> Row {
    Row { label: label.to_owned(), task_id: task_id.to_owned(), follow_up: follow_up.map(str::to_owned) }
}

fn record(id: &str, status: i16, failure: Option<&str>) -> Record {
    let failure_kind = failure.map(str::to_owned);
    Record { id: id.to_owned(), status, attempt: 1, failure_kind, failure_message: None }
}

fn found(evidence: &Evidence) -> Vec<Violation> {
    judge(evidence).violations.into_keys().collect()
}

fn spoilt(then: Then, follow_up: bool, spoil: impl FnOnce(&mut Evidence)) -> Vec<Violation> {
    let mut evidence = sound(then, follow_up);
    spoil(&mut evidence);
    found(&evidence)
}

#[test]
fn a_sound_run_is_blamed_for_nothing() {
    for then in [Then::Succeed, Then::RetryUntil(2), Then::SleepMs(1), Then::Reject, Then::Trap] {
        for follow_up in [false, true] {
            assert_eq!(found(&sound(then, follow_up)), [], "{then:?}");
        }
    }
}

#[test]
fn a_second_effect_is_found_also_of_a_follow_up() {
    let again = |evidence: &mut Evidence| evidence.rows.push(evidence.rows[0].clone());
    assert_eq!(spoilt(Then::Succeed, false, again), [Violation::Double]);
    let again = |evidence: &mut Evidence| evidence.rows.push(evidence.rows[1].clone());
    assert_eq!(spoilt(Then::Succeed, true, again), [Violation::Double]);
}

#[test]
fn a_lost_task_is_found_however_it_was_lost() {
    assert_eq!(spoilt(Then::Succeed, false, |evidence| evidence.rows.clear()), [Violation::Lost]);
    assert_eq!(spoilt(Then::Succeed, false, |evidence| evidence.records.clear()), [Violation::Lost]);
    assert_eq!(spoilt(Then::Succeed, false, |evidence| evidence.records[0].status = 1), [Violation::Lost]);
    assert_eq!(spoilt(Then::Reject, false, |evidence| evidence.letters.clear()), [Violation::Lost]);
    assert_eq!(spoilt(Then::Succeed, true, |evidence| drop(evidence.rows.pop())), [Violation::Lost]);
}

#[test]
fn effects_that_should_not_be_are_found() {
    let left = |evidence: &mut Evidence| evidence.rows.push(row("a", "id", None));
    assert_eq!(spoilt(Then::Trap, false, left), [Violation::Extra]);
    let stray = |evidence: &mut Evidence| evidence.rows.push(row("b", "other", None));
    assert_eq!(spoilt(Then::Succeed, false, stray), [Violation::Extra]);
    let letter = |evidence: &mut Evidence| evidence.letters.push(Letter { label: "b".to_owned() });
    assert_eq!(spoilt(Then::Succeed, false, letter), [Violation::Extra]);
    let early = |evidence: &mut Evidence| evidence.rows.push(row("a-follow-up", "f-id", None));
    assert_eq!(spoilt(Then::Reject, true, early), [Violation::Extra]);
}

#[test]
fn another_end_than_planned_and_a_second_one_are_found() {
    let worn_out = |evidence: &mut Evidence| {
        *evidence = Evidence { entries: std::mem::take(&mut evidence.entries), ..sound(Then::Trap, false) };
    };
    assert_eq!(spoilt(Then::Succeed, false, worn_out), [Violation::WrongEnd]);
    let letter = |evidence: &mut Evidence| evidence.letters.push(Letter { label: "a".to_owned() });
    assert_eq!(spoilt(Then::Succeed, false, letter), [Violation::TwoEnds]);
}

#[test]
fn what_was_never_accepted_may_run_once() {
    let unaccepted = |evidence: &mut Evidence| evidence.entries.get_mut("a").unwrap().ids.clear();
    assert_eq!(spoilt(Then::Succeed, true, unaccepted), []);
    assert_eq!(
        spoilt(Then::Succeed, true, |evidence| {
            unaccepted(evidence);
            evidence.rows.clear();
        }),
        []
    );
    assert_eq!(
        spoilt(Then::Succeed, false, |evidence| {
            unaccepted(evidence);
            evidence.rows.push(evidence.rows[0].clone());
        }),
        [Violation::Double]
    );
}

#[test]
fn what_was_never_accepted_may_not_end_twice() {
    let found = spoilt(Then::Succeed, false, |evidence| {
        evidence.entries.get_mut("a").unwrap().ids.clear();
        evidence.letters.push(Letter { label: "a".to_owned() });
    });
    assert_eq!(found, [Violation::TwoEnds]);
}

#[test]
fn a_letter_that_came_twice_is_counted_and_tolerated() {
    let mut evidence = sound(Then::Reject, false);
    evidence.letters.push(evidence.letters[0].clone());
    let verdict = judge(&evidence);
    assert_eq!((verdict.letters_repeated, verdict.violations.len()), (1, 0));
}
