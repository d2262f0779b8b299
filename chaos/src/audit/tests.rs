use super::*;
use crate::book::Cancelling;
use crate::work::{Deadline, Task, Then};

const PLAIN: Task = Task {
    number: 0,
    then: Then::Succeed,
    follow_up: false,
    cache: false,
    deadline: Deadline::None,
    reply: false,
    cancel_after_ms: None,
};

/// A sound run of one task, which the tests then spoil.
fn sound(then: Then, follow_up: bool) -> Evidence {
    sound_run(Task { then, follow_up, ..PLAIN })
}

/// A sound run of one task that ends in the first of its ways to.
fn sound_run(task: Task) -> Evidence {
    let end = task.ends()[0];
    let cancelling = if end == End::Cancelled { Cancelling::Promised } else { Cancelling::No };
    let entry = Entry { task, sends: 1, ids: ["id".to_owned()].into(), cancelling };
    let mut evidence = Evidence { entries: [("a".to_owned(), entry)].into(), ..Evidence::default() };
    let attempt = task.attempts(end).unwrap_or(1);
    let mut record = record("id", Record::SUCCEEDED, i64::from(attempt));
    match end {
        End::Succeeded => {
            record.generation = task.redrives();
            let follow_up_id = task.follow_up.then_some("f-id");
            evidence.rows.push(Row { attempt: attempt.try_into().unwrap(), ..row("a", "id", follow_up_id) });
            if task.follow_up {
                evidence.rows.push(row("a-follow-up", "f-id", None));
                evidence.records.push(self::record("f-id", Record::SUCCEEDED, 1));
            }
        }
        End::Failed(reason) => {
            record.status = Record::FAILED;
            record.failure_kind = Some(reason.to_owned());
            evidence.letters.push(letter("a", "id", reason, i64::from(attempt)));
            evidence.listed.push(listed("id", reason, i64::from(attempt)));
        }
        End::Cancelled => {
            record.status = Record::CANCELLED;
            record.failure_kind = Some("cancelled".to_owned());
        }
    }
    if task.reply {
        evidence.answers.push(answer("a", end.name()));
    }
    evidence.records.insert(0, record);
    evidence
}

fn row(label: &str, task_id: &str, follow_up: Option<&str>) -> Row {
    Row { label: label.to_owned(), task_id: task_id.to_owned(), attempt: 1, follow_up: follow_up.map(str::to_owned) }
}

fn record(id: &str, status: i16, attempt: i64) -> Record {
    Record { id: id.to_owned(), status, attempt, generation: 0, failure_kind: None, failure_message: None }
}

fn letter(label: &str, id: &str, reason: &str, attempts: i64) -> Letter {
    Letter { label: label.to_owned(), id: id.to_owned(), reason: reason.to_owned(), attempts, generation: 0 }
}

fn listed(id: &str, reason: &str, attempts: i64) -> Listed {
    Listed { id: id.to_owned(), reason: reason.to_owned(), attempts, generation: 0 }
}

fn answer(correlation_id: &str, outcome: &str) -> Answer {
    let body = if outcome == "succeeded" { OUTPUT.to_vec() } else { Vec::new() };
    Answer { correlation_id: correlation_id.to_owned(), outcome: outcome.to_owned(), body }
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
    let thens = [
        Then::Succeed,
        Then::RetryUntil(2),
        Then::SleepMs(1),
        Then::Reject,
        Then::Trap,
        Then::WearOut(3),
        Then::AwaitMending,
    ];
    for then in thens {
        for deadline in [Deadline::None, Deadline::Far, Deadline::Passed, Deadline::Near(1)] {
            for (follow_up, reply) in [(false, false), (true, true)] {
                let task = Task { then, follow_up, deadline, reply, ..PLAIN };
                assert_eq!(found(&sound_run(task)), [], "{task:?}");
            }
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
    let stray_letter = |evidence: &mut Evidence| evidence.letters.push(letter("b", "other", "rejected", 1));
    assert_eq!(spoilt(Then::Succeed, false, stray_letter), [Violation::Extra]);
    let early = |evidence: &mut Evidence| evidence.rows.push(row("a-follow-up", "f-id", None));
    assert_eq!(spoilt(Then::Reject, true, early), [Violation::Extra]);
}

#[test]
fn another_end_than_planned_and_a_second_one_are_found() {
    let worn_out = |evidence: &mut Evidence| {
        *evidence = Evidence { entries: std::mem::take(&mut evidence.entries), ..sound(Then::Trap, false) };
    };
    assert_eq!(spoilt(Then::Succeed, false, worn_out), [Violation::WrongEnd]);
    let buried = |evidence: &mut Evidence| evidence.letters.push(letter("a", "id", "rejected", 1));
    assert_eq!(spoilt(Then::Succeed, false, buried), [Violation::TwoEnds]);
    let other_id = |evidence: &mut Evidence| evidence.rows[0].task_id = "other".to_owned();
    assert_eq!(spoilt(Then::Succeed, false, other_id), [Violation::TwoEnds]);
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
        evidence.letters.push(letter("a", "id", "rejected", 1));
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

#[test]
fn a_task_that_was_to_be_cancelled_ends_as_its_sender_was_told() {
    let cancelled = |cancelling, status, failure: Option<&str>| {
        let mut evidence = sound_run(Task { cancel_after_ms: Some(1), ..PLAIN });
        evidence.entries.get_mut("a").unwrap().cancelling = cancelling;
        evidence.records[0].status = status;
        evidence.records[0].failure_kind = failure.map(str::to_owned);
        if status == Record::CANCELLED {
            evidence.rows.clear();
        }
        found(&evidence)
    };
    let (succeeded, ended) = ((Record::SUCCEEDED, None), (Record::CANCELLED, Some("cancelled")));
    for (cancelling, (status, failure), expected) in [
        (Cancelling::No, succeeded, None),
        (Cancelling::No, ended, Some(Violation::WrongEnd)),
        (Cancelling::Unclear, succeeded, None),
        (Cancelling::Unclear, ended, None),
        (Cancelling::Promised, succeeded, Some(Violation::WrongEnd)),
        (Cancelling::Promised, ended, None),
    ] {
        assert_eq!(cancelled(cancelling, status, failure), Vec::from_iter(expected), "{cancelling:?} {status}");
    }
}

#[test]
fn the_effect_of_a_cancelled_task_is_found() {
    let mut evidence = sound_run(Task { cancel_after_ms: Some(1), follow_up: true, ..PLAIN });
    evidence.entries.get_mut("a").unwrap().cancelling = Cancelling::Promised;
    evidence.records[0].status = Record::CANCELLED;
    assert_eq!(found(&evidence), [Violation::Extra]);
}

#[test]
fn a_deadline_that_passed_has_no_effect_and_one_that_is_far_away_no_end() {
    let passed = Task { deadline: Deadline::Passed, ..PLAIN };
    let mut ran = sound_run(passed);
    ran.rows.push(row("a", "id", None));
    assert_eq!(found(&ran), [Violation::Extra]);
    let mut expired = sound_run(passed);
    expired.entries.get_mut("a").unwrap().task.deadline = Deadline::Far;
    assert_eq!(found(&expired), [Violation::WrongEnd]);
    expired.entries.get_mut("a").unwrap().task.deadline = Deadline::Near(1);
    assert_eq!(found(&expired), []);
    // It may have passed before the attempt began, which is then not used.
    (expired.letters[0].attempts, expired.listed[0].attempts) = (0, 0);
    assert_eq!(found(&expired), []);
    expired.listed[0].attempts = 2;
    assert_eq!(found(&expired), [Violation::WrongList]);
}

#[test]
fn attempts_that_something_else_used_up_are_found() {
    let later = |evidence: &mut Evidence| evidence.records[0].attempt = 2;
    assert_eq!(spoilt(Then::Succeed, false, later), [Violation::WrongAttempts]);
    let early = |evidence: &mut Evidence| evidence.rows[0].attempt = 1;
    assert_eq!(spoilt(Then::RetryUntil(2), false, early), [Violation::WrongAttempts]);
    let gave_up = |evidence: &mut Evidence| {
        evidence.records[0].attempt = 4;
        evidence.letters[0].attempts = 4;
        evidence.listed[0].attempts = 4;
    };
    assert_eq!(spoilt(Then::Trap, false, gave_up), [Violation::WrongAttempts]);
}

#[test]
fn a_list_that_says_otherwise_than_record_or_queue_is_found() {
    let missing = |evidence: &mut Evidence| evidence.listed.clear();
    assert_eq!(spoilt(Then::Reject, false, missing), [Violation::WrongList]);
    let twice = |evidence: &mut Evidence| evidence.listed.push(evidence.listed[0].clone());
    assert_eq!(spoilt(Then::Reject, false, twice), [Violation::WrongList]);
    let other = |evidence: &mut Evidence| evidence.listed[0].reason = "trapped".to_owned();
    assert_eq!(spoilt(Then::Reject, false, other), [Violation::WrongList]);
    let stray = |evidence: &mut Evidence| evidence.listed.push(listed("id", "rejected", 1));
    assert_eq!(spoilt(Then::Succeed, false, stray), [Violation::WrongList]);
    let in_the_queue = |evidence: &mut Evidence| evidence.letters[0].attempts = 2;
    assert_eq!(spoilt(Then::Reject, false, in_the_queue), [Violation::WrongList]);
}

#[test]
fn a_redriven_task_succeeds_once_and_its_first_letter_may_be_left_behind() {
    let mut evidence = sound(Then::AwaitMending, false);
    evidence.letters.push(letter("a", "id", "rejected", 1));
    let verdict = judge(&evidence);
    assert_eq!((verdict.redriven, verdict.letters_left_behind, verdict.violations.len()), (1, 1, 0));
    evidence.records[0].generation = 2;
    assert_eq!(found(&evidence), [Violation::WrongEnd]);
    evidence.records[0].generation = 1;
    evidence.letters[0].generation = 1;
    assert_eq!(found(&evidence), [Violation::TwoEnds]);
}

#[test]
fn a_sender_without_its_result_or_with_another_is_found() {
    let asked = |then| sound_run(Task { then, reply: true, ..PLAIN });
    let spoilt = |then, spoil: &dyn Fn(&mut Vec<Answer>)| {
        let mut evidence = asked(then);
        spoil(&mut evidence.answers);
        found(&evidence)
    };
    for then in [Then::Succeed, Then::Reject, Then::AwaitMending] {
        assert_eq!(
            spoilt(then, &|answers| answers.push(answers[0].clone())),
            [],
            "twice is once too often, and allowed"
        );
        assert_eq!(spoilt(then, &Vec::clear), [Violation::WrongAnswer]);
        assert_eq!(spoilt(then, &|answers| answers.push(answer("a", "trapped"))), [Violation::WrongAnswer]);
        assert_eq!(spoilt(then, &|answers| answers.push(answer("b", "succeeded"))), [Violation::WrongAnswer]);
    }
    assert_eq!(spoilt(Then::AwaitMending, &|answers| answers.push(answer("a", "rejected"))), []);
    assert_eq!(spoilt(Then::Succeed, &|answers| answers[0].body.clear()), [Violation::WrongAnswer]);
}
