//! What all task records must do, as one suite over both. Long, because the rules of one port are read together.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite: breaking a rule is a panic"
)]

mod leaving;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::{NewTask, Progress, Queued, Records, Status, TaskRecord, Update, body_sha256};
use crate::task::{AgentName, Failure, Output, TaskId, Usage};

/// Far longer than anything here takes: what is awaited never comes.
const NEVER: Duration = Duration::from_secs(60);

/// Runs every case, each on tasks of its own; `make` opens the records.
///
/// # Panics
/// Where a rule is broken.
pub async fn exercise<R: Records>(make: impl AsyncFn() -> R) {
    unknown_tasks_are_unknown(make().await).await;
    a_task_is_new_once(make().await).await;
    only_an_unshared_queued_record_is_withdrawn(make().await).await;
    everything_said_at_the_end_is_kept(make().await).await;
    text_that_a_database_cannot_hold_costs_no_record(make().await).await;
    a_task_that_was_never_queued_here_is_recorded(make().await).await;
    an_end_is_final(make().await).await;
    late_changes_lose(make().await).await;
    attempts_go_on(make().await).await;
    progress_is_seen(make().await).await;
    followers_see_the_end(make().await).await;
    duplicates_agree(&[Arc::new(make().await)]).await;
    interleavings_end_well(&[Arc::new(make().await)]).await;
    leaving::exercise(&make).await;
    what_was_noted_is_there_after_closing(make).await;
}

/// A task that no other case knows.
#[must_use]
pub fn new_task(body: &str) -> NewTask {
    NewTask {
        id: TaskId::generate(),
        agent: AgentName::parse("voter").expect("a valid name"),
        body_sha256: body_sha256(&Bytes::copy_from_slice(body.as_bytes())),
        enqueued_at_ms: 1_700_000_000_000,
    }
}

/// The change of a task to this status, in its first attempt.
#[must_use]
pub fn update(task: &NewTask, status: Status) -> Update {
    Update {
        id: task.id.clone(),
        agent: task.agent.clone(),
        revision: Some(3),
        status,
        attempt: 1,
        generation: 0,
        output: None,
        failure: None,
        usage: None,
        enqueued_at_ms: task.enqueued_at_ms,
        started_at_ms: Some(1_700_000_001_000),
        finished_at_ms: None,
    }
}

/// The end of a task, with everything that one may carry.
#[must_use]
pub fn ended(task: &NewTask, status: Status) -> Update {
    let succeeded = status == Status::Succeeded;
    Update {
        output: succeeded.then(|| Output {
            content_type: Some("application/json".to_owned()),
            body: Bytes::from_static(b"{\"sum\": 3}\0\xff"),
            ..Output::default()
        }),
        failure: (!succeeded)
            .then(|| Failure { kind: "rejected".to_owned(), message: "exit code 3: \u{e4}".to_owned() }),
        usage: Some(Usage { memory_bytes_peak: 1 << 20, cpu_us: 250, wall_us: 900, host_calls: 7 }),
        finished_at_ms: Some(1_700_000_002_000),
        ..update(task, status)
    }
}

async fn queued(records: &impl Records, task: &NewTask) -> Queued {
    let answers = records.queued(vec![task.clone()]).await.expect("writable");
    assert_eq!(answers.len(), 1);
    answers.into_iter().next().expect("one answer")
}

async fn got(records: &impl Records, task: &NewTask) -> Option<TaskRecord> {
    records.get(&task.id).await.expect("readable")
}

/// Waits until the record is as wanted.
///
/// # Panics
/// When it does not become so.
pub async fn until(records: &impl Records, task: &NewTask, wanted: impl Fn(&TaskRecord) -> bool) -> TaskRecord {
    let mut seen = None;
    let polling = async {
        loop {
            seen = got(records, task).await;
            match &seen {
                Some(record) if wanted(record) => return record.clone(),
                Some(_) | None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    match tokio::time::timeout(NEVER, polling).await {
        Ok(record) => record,
        Err(_) => panic!("the record stays {seen:?}"),
    }
}

/// Waits until a follower sees the task's end.
///
/// # Panics
/// When it does not.
pub async fn seen_to_end(mut follower: watch::Receiver<Option<TaskRecord>>) -> TaskRecord {
    let ends = follower.wait_for(|record| record.as_ref().is_some_and(|record| record.status.is_terminal()));
    let record = tokio::time::timeout(NEVER, ends).await.expect("the end is seen").expect("followed until the end");
    record.clone().expect("an end is a record")
}

async fn unknown_tasks_are_unknown(records: impl Records) {
    let task = new_task("a");
    assert_eq!(got(&records, &task).await, None);
    records.withdraw(vec![task.id.clone()]).await.expect("writable");
    records.note_progress(&task.id, Progress { fraction: 0.5, note: String::new() });
    assert_eq!(*records.follow(&task.id).borrow(), None);
    assert_eq!(records.queued(Vec::new()).await.expect("writable"), []);
}

async fn a_task_is_new_once(records: impl Records) {
    let (first, second) = (new_task("a"), new_task("b"));
    let other_body = NewTask { body_sha256: second.body_sha256, ..first.clone() };
    let answers =
        records.queued(vec![first.clone(), second.clone(), first.clone(), other_body.clone()]).await.expect("writable");
    assert_eq!(answers, [Queued::New, Queued::New, Queued::Known(Status::Queued), Queued::Conflict]);
    assert_eq!(queued(&records, &first).await, Queued::Known(Status::Queued));
    assert_eq!(queued(&records, &other_body).await, Queued::Conflict);
    let record = got(&records, &first).await.expect("it was queued");
    assert_eq!((record.status, record.attempt), (Status::Queued, 1));
    assert_eq!((record.agent, record.enqueued_at_ms), (first.agent.clone(), first.enqueued_at_ms));
    records.finished(ended(&first, Status::Failed).into()).await.expect("writable");
    assert_eq!(queued(&records, &first).await, Queued::Known(Status::Failed));
    assert_eq!(
        got(&records, &first).await.expect("it ended").status,
        Status::Failed,
        "a late `queued` changes nothing"
    );
    // More than fit in any one statement.
    let many: Vec<_> = (0..2_345).map(|_| new_task("c")).collect();
    assert_eq!(records.queued(many.clone()).await.expect("writable"), vec![Queued::New; many.len()]);
    let known = Queued::Known(Status::Queued);
    assert_eq!(records.queued(many.clone()).await.expect("writable"), vec![known; many.len()]);
}

async fn only_an_unshared_queued_record_is_withdrawn(records: impl Records) {
    let [mine, shared, twice, over] = ["a", "b", "c", "d"].map(new_task);
    for task in [&mine, &shared, &over] {
        assert_eq!(queued(&records, task).await, Queued::New);
    }
    records.queued(vec![twice.clone(), twice.clone()]).await.expect("writable");
    assert_eq!(queued(&records, &shared).await, Queued::Known(Status::Queued));
    // Whoever is told of a conflict has no stake in the task.
    let other = NewTask { body_sha256: body_sha256(&Bytes::from_static(b"other")), ..mine.clone() };
    assert_eq!(queued(&records, &other).await, Queued::Conflict);
    records.finished(ended(&over, Status::Succeeded).into()).await.expect("writable");
    let all = [&mine, &shared, &twice, &over];
    records.withdraw(all.iter().map(|task| task.id.clone()).collect()).await.expect("writable");
    let mut stayed = Vec::new();
    for task in all {
        stayed.push(got(&records, task).await.is_some());
    }
    assert_eq!(stayed, [false, true, true, true], "somebody else relies on the shared ones");
    assert_eq!(queued(&records, &mine).await, Queued::New, "a withdrawn task may be submitted again");
}

async fn everything_said_at_the_end_is_kept(records: impl Records) {
    for status in [Status::Succeeded, Status::Failed, Status::Cancelled] {
        let task = new_task("a");
        queued(&records, &task).await;
        let end = ended(&task, status);
        records.finished(end.clone().into()).await.expect("writable");
        let expected = TaskRecord {
            id: end.id,
            agent: end.agent,
            revision: end.revision,
            status,
            attempt: 1,
            generation: 0,
            output: end.output,
            failure: end.failure,
            progress: None,
            usage: end.usage,
            enqueued_at_ms: end.enqueued_at_ms,
            started_at_ms: end.started_at_ms,
            finished_at_ms: end.finished_at_ms,
        };
        assert_eq!(got(&records, &task).await, Some(expected));
    }
    // Nothing but an empty output, and a large one.
    for body in [Bytes::new(), Bytes::from(vec![7; 15 << 20])] {
        let task = new_task("a");
        let output = Some(Output { body, ..Output::default() });
        let end = Update { output: output.clone(), usage: None, revision: None, ..ended(&task, Status::Succeeded) };
        records.finished(end.into()).await.expect("writable");
        let record = got(&records, &task).await.expect("it ended");
        assert!(record.output == output, "the output comes back");
        assert_eq!((record.usage, record.revision), (None, None));
    }
}

async fn text_that_a_database_cannot_hold_costs_no_record(records: impl Records) {
    let tasks: Vec<_> = (0..10).map(|_| new_task("a")).collect();
    let failure = |index: usize| {
        let message = if index == 5 { "a\0b" } else { "fine" };
        Some(Failure { kind: "trapped".to_owned(), message: message.to_owned() })
    };
    let ends = tasks.iter().enumerate().map(|(index, task)| {
        let mut end = ended(task, Status::Failed);
        end.failure = failure(index);
        // Numbers that come from messages and may be anything.
        end.enqueued_at_ms = if index == 6 { i64::MAX as u64 } else { 0 };
        records.finished(end.into())
    });
    futures::future::try_join_all(ends).await.expect("writable");
    let nul = got(&records, &tasks[5]).await.expect("it ended").failure.expect("it failed");
    assert_eq!(nul.message, "a\u{fffd}b");
    assert_eq!(got(&records, &tasks[4]).await.expect("it ended").failure, failure(4));
}

async fn a_task_that_was_never_queued_here_is_recorded(records: impl Records) {
    let task = new_task("a");
    records.note(update(&task, Status::Running));
    let record = until(&records, &task, |record| record.status == Status::Running).await;
    assert_eq!(record.revision, Some(3));
    assert_eq!(queued(&records, &task).await, Queued::Known(Status::Running), "its body was never seen: it is known");
    records.withdraw(vec![task.id.clone()]).await.expect("writable");
    assert!(got(&records, &task).await.is_some());
}

async fn an_end_is_final(records: impl Records) {
    let ends = [Status::Succeeded, Status::Failed, Status::Cancelled];
    for first in ends {
        let task = new_task("a");
        queued(&records, &task).await;
        records.finished(ended(&task, first).into()).await.expect("writable");
        let record = got(&records, &task).await;
        for second in ends {
            let later = Update { attempt: 2, started_at_ms: Some(u64::from(u32::MAX)), ..ended(&task, second) };
            records.finished(later.into()).await.expect("an end that comes second is no error");
        }
        for status in [Status::Running, Status::Retrying] {
            records.note(Update { attempt: 9, ..update(&task, status) });
        }
        records.note_progress(&task.id, Progress { fraction: 0.1, note: "late".to_owned() });
        // Notes are written in order: once a later one is there, these were looked at.
        let marker = new_task("marker");
        records.note(update(&marker, Status::Running));
        until(&records, &marker, |record| record.status == Status::Running).await;
        assert_eq!(got(&records, &task).await, record);
    }
}

async fn late_changes_lose(records: impl Records) {
    let task = new_task("a");
    queued(&records, &task).await;
    records.note(update(&task, Status::Retrying));
    until(&records, &task, |record| record.status == Status::Retrying).await;
    records.note(update(&task, Status::Running));
    let marker = new_task("marker");
    records.note(update(&marker, Status::Running));
    until(&records, &marker, |record| record.status == Status::Running).await;
    let record = got(&records, &task).await.expect("it is known");
    assert_eq!(record.status, Status::Retrying, "`running` of the attempt that failed came late");
    // Its host died with it: the same attempt begins again elsewhere.
    records.note(Update { started_at_ms: Some(1_700_000_009_000), ..update(&task, Status::Running) });
    until(&records, &task, |record| record.status == Status::Running).await;
}

async fn attempts_go_on(records: impl Records) {
    let task = new_task("a");
    queued(&records, &task).await;
    let why = Failure { kind: "retry".to_owned(), message: "not yet".to_owned() };
    for attempt in 1..=3 {
        let started_at_ms = Some(1_700_000_000_000 + u64::from(attempt));
        records.note(Update { attempt, started_at_ms, ..update(&task, Status::Running) });
        let record =
            until(&records, &task, |record| record.status == Status::Running && record.attempt == attempt).await;
        assert_eq!(record.failure.is_some(), attempt > 1, "why the attempt before failed stays until the next ends");
        records.note_progress(&task.id, Progress { fraction: 0.5, note: String::new() });
        until(&records, &task, |record| record.progress.is_some()).await;
        records.note(Update { attempt, started_at_ms, failure: Some(why.clone()), ..update(&task, Status::Retrying) });
        let record = until(&records, &task, |record| record.status == Status::Retrying).await;
        assert_eq!(record.failure.as_ref(), Some(&why));
    }
    records.note(Update { attempt: 4, started_at_ms: Some(1_700_000_005_000), ..update(&task, Status::Running) });
    let record = until(&records, &task, |record| record.attempt == 4).await;
    assert_eq!(record.progress, None, "an attempt begins without progress");
    records.finished(Update { attempt: 4, ..ended(&task, Status::Succeeded) }.into()).await.expect("writable");
    let record = got(&records, &task).await.expect("it ended");
    assert_eq!((record.status, record.attempt, record.failure), (Status::Succeeded, 4, None));
}

async fn progress_is_seen(records: impl Records) {
    let task = new_task("a");
    let follower = records.follow(&task.id);
    records.note(update(&task, Status::Running));
    for percent in [10u8, 50, 90] {
        let progress = Progress { fraction: f32::from(percent) / 100.0, note: format!("{percent} %") };
        records.note_progress(&task.id, progress.clone());
        assert_eq!(follower.borrow().as_ref().and_then(|record| record.progress.clone()).as_ref(), Some(&progress));
    }
    let record = until(&records, &task, |record| record.progress.as_ref().is_some_and(|p| p.note == "90 %")).await;
    assert_eq!(record.status, Status::Running);
    records.finished(ended(&task, Status::Succeeded).into()).await.expect("writable");
    let record = got(&records, &task).await.expect("it ended");
    assert!(record.progress.is_some(), "how far it said it was stays");
}

async fn followers_see_the_end(records: impl Records) {
    let task = new_task("a");
    queued(&records, &task).await;
    let early = [records.follow(&task.id), records.follow(&task.id)];
    let gone = records.follow(&task.id);
    drop(gone);
    records.note(update(&task, Status::Running));
    let mut running = early[0].clone();
    let runs = running.wait_for(|record| record.as_ref().is_some_and(|record| record.status == Status::Running));
    tokio::time::timeout(NEVER, runs).await.expect("seen").expect("followed");
    records.finished(ended(&task, Status::Succeeded).into()).await.expect("writable");
    let record = got(&records, &task).await.expect("it ended");
    for follower in early {
        assert_eq!(seen_to_end(follower).await, record);
    }
    assert_eq!(seen_to_end(records.follow(&task.id)).await, record, "whoever comes late sees it too");
    // An end that is not the first one is never shown.
    let late = records.follow(&task.id);
    records.finished(ended(&task, Status::Failed).into()).await.expect("writable");
    assert_eq!(seen_to_end(late).await, record);
}

/// 50 tasks, each submitted and ended several times over at once, through all these records (of one fleet).
///
/// # Panics
/// Where a task is new twice, or two calls disagree on its end.
pub async fn duplicates_agree<R: Records>(fleet: &[Arc<R>]) {
    const TASKS: usize = 50;
    const TIMES: usize = 6;
    let tasks: Vec<_> = (0..TASKS).map(|_| new_task("a")).collect();
    let mut submitting = tokio::task::JoinSet::new();
    for (time, records) in fleet.iter().cycle().take(TIMES).enumerate() {
        for task in &tasks {
            let (records, task) = (Arc::clone(records), task.clone());
            submitting.spawn(async move {
                let answer = queued(&*records, &task).await;
                let status = if time % 2 == 0 { Status::Succeeded } else { Status::Failed };
                records.note(update(&task, Status::Running));
                let follower = records.follow(&task.id);
                records.finished(ended(&task, status).into()).await.expect("writable");
                let record = got(&*records, &task).await.expect("it ended");
                assert!(record.status.is_terminal());
                assert_eq!(seen_to_end(follower).await.status, record.status);
                (task.id, answer, record.status)
            });
        }
    }
    let answers = submitting.join_all().await;
    for task in &tasks {
        let of_task: Vec<_> = answers.iter().filter(|(id, ..)| *id == task.id).collect();
        assert_eq!(of_task.len(), TIMES);
        assert_eq!(of_task.iter().filter(|(_, answer, _)| *answer == Queued::New).count(), 1, "new exactly once");
        assert!(of_task.iter().all(|(.., status)| *status == of_task[0].2), "every reader saw the same end");
    }
}

/// Tasks that begin, retry, report and end at once and in any order, through all these records (of one fleet).
///
/// # Panics
/// Where one of them does not stay ended.
pub async fn interleavings_end_well<R: Records>(fleet: &[Arc<R>]) {
    const TASKS: usize = 200;
    let tasks: Vec<_> = (0..TASKS).map(|_| new_task("a")).collect();
    let mut changing = tokio::task::JoinSet::new();
    for (index, task) in tasks.iter().enumerate() {
        for (place, records) in fleet.iter().enumerate() {
            let (records, task) = (Arc::clone(records), task.clone());
            changing.spawn(async move {
                // Some before the end, some after, some while it is being written.
                for step in 0..6 {
                    if step == (index + place) % 6 {
                        records.finished(ended(&task, Status::Succeeded).into()).await.expect("writable");
                    }
                    let status = if step % 2 == 0 { Status::Running } else { Status::Retrying };
                    records.note(Update { attempt: 1 + step as u32 / 2, ..update(&task, status) });
                    records.note_progress(&task.id, Progress { fraction: 0.5, note: String::new() });
                    if index % 3 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    }
    changing.join_all().await;
    for records in fleet {
        let marker = new_task("marker");
        records.note(update(&marker, Status::Running));
        until(&**records, &marker, |record| record.status == Status::Running).await;
    }
    for records in fleet {
        for task in &tasks {
            let record = got(&**records, task).await.expect("it ended");
            assert_eq!(record.status, Status::Succeeded);
            assert_eq!(record.usage, ended(task, Status::Succeeded).usage);
        }
    }
}

async fn what_was_noted_is_there_after_closing<R: Records>(make: impl AsyncFn() -> R) {
    let records = make().await;
    let task = new_task("a");
    let mut follower = records.follow(&task.id);
    records.note(update(&task, Status::Running));
    records.close().await;
    records.close().await;
    let seen = follower.wait_for(Option::is_some);
    tokio::time::timeout(NEVER, seen).await.expect("seen").expect("followed");
}
