//! What becomes of a task: it runs, retries, reports and ends, and whoever asks or follows sees it.

use bytes::Bytes;

use super::{NEVER, ended, got, new_task, queued, seen_to_end, until, update};
use crate::records::{Ended, Ending, IdHolder, NewTask, Progress, Queued, Records, Status, TaskRecord, Update};
use crate::task::{Failure, Output};

pub(super) async fn everything_said_at_the_end_is_kept(records: impl Records) {
    for status in [Status::Succeeded, Status::Failed, Status::Cancelled] {
        let task = new_task("a");
        queued(&records, &task).await;
        let end = ended(&task, status);
        records.finished(&end.clone().into()).await.expect("writable");
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
        records.finished(&end.into()).await.expect("writable");
        let record = got(&records, &task).await.expect("it ended");
        assert!(record.output == output, "the output comes back");
        assert_eq!((record.usage, record.revision), (None, None));
    }
}

pub(super) async fn text_that_a_database_cannot_hold_costs_no_record(records: impl Records) {
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
        let records = &records;
        async move { records.finished(&end.into()).await }
    });
    futures::future::try_join_all(ends).await.expect("writable");
    let nul = got(&records, &tasks[5]).await.expect("it ended").failure.expect("it failed");
    assert_eq!(nul.message, "a\u{fffd}b");
    assert_eq!(got(&records, &tasks[4]).await.expect("it ended").failure, failure(4));
}

pub(super) async fn a_task_that_was_never_queued_here_is_recorded(records: impl Records) {
    let task = new_task("a");
    records.note(update(&task, Status::Running));
    let record = until(&records, &task, |record| record.status == Status::Running).await;
    assert_eq!(record.revision, Some(3));
    assert_eq!(queued(&records, &task).await, Queued::Known(Status::Running), "its body was never seen: it is known");
    records.withdraw(vec![task.id.clone()]).await.expect("writable");
    assert!(got(&records, &task).await.is_some());
}

pub(super) async fn an_end_is_final(records: impl Records) {
    let ends = [Status::Succeeded, Status::Failed, Status::Cancelled];
    for first in ends {
        let task = new_task("a");
        queued(&records, &task).await;
        records.finished(&ended(&task, first).into()).await.expect("writable");
        let record = got(&records, &task).await;
        for second in ends {
            let later = Update { attempt: 2, started_at_ms: Some(u64::from(u32::MAX)), ..ended(&task, second) };
            records.finished(&later.into()).await.expect("an end that comes second is no error");
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

pub(super) async fn nothing_is_written_over_another_agents_task(records: impl Records) {
    let mine = new_task("a");
    let theirs = NewTask { agent: "b".parse().expect("a name"), ..mine.clone() };
    queued(&records, &mine).await;
    let record = got(&records, &mine).await;
    let end = Ending::from(ended(&theirs, Status::Succeeded));
    assert_eq!(records.finished(&end).await.expect("writable"), Ended::Before);
    let holder = async || records.holder(&mine.id).await.expect("readable").expect("somebody's");
    let expected = IdHolder { agent: mine.agent.clone(), enqueued_at_ms: mine.enqueued_at_ms, has_ended: false };
    assert_eq!(holder().await, expected);
    records.note(update(&theirs, Status::Running));
    records.note(Update { generation: 1, ..update(&theirs, Status::Retrying) });
    let marker = new_task("marker");
    records.note(update(&marker, Status::Running));
    until(&records, &marker, |record| record.status == Status::Running).await;
    assert_eq!(got(&records, &mine).await, record);
    // At once, which may be one batch.
    let my_end = Ending::from(ended(&mine, Status::Succeeded));
    let (theirs, mine_is) = tokio::join!(records.finished(&end), records.finished(&my_end));
    assert_eq!((mine_is.expect("writable"), theirs.expect("writable")), (Ended::Now, Ended::Before));
    assert_eq!(holder().await, IdHolder { has_ended: true, ..expected });
    assert_eq!(records.holder(&new_task("nobody").id).await.expect("readable"), None);
    let record = got(&records, &mine).await.expect("it ended");
    assert_eq!((record.agent, record.status), (mine.agent.clone(), Status::Succeeded));
}

pub(super) async fn late_changes_lose(records: impl Records) {
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

pub(super) async fn attempts_go_on(records: impl Records) {
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
    records.finished(&Update { attempt: 4, ..ended(&task, Status::Succeeded) }.into()).await.expect("writable");
    let record = got(&records, &task).await.expect("it ended");
    assert_eq!((record.status, record.attempt, record.failure), (Status::Succeeded, 4, None));
}

pub(super) async fn progress_is_seen(records: impl Records) {
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
    records.finished(&ended(&task, Status::Succeeded).into()).await.expect("writable");
    let record = got(&records, &task).await.expect("it ended");
    assert!(record.progress.is_some(), "how far it said it was stays");
}

pub(super) async fn followers_see_the_end(records: impl Records) {
    let task = new_task("a");
    queued(&records, &task).await;
    let early = [records.follow(&task.id), records.follow(&task.id)];
    let gone = records.follow(&task.id);
    drop(gone);
    records.note(update(&task, Status::Running));
    let mut running = early[0].clone();
    let runs = running.wait_for(|record| record.as_ref().is_some_and(|record| record.status == Status::Running));
    tokio::time::timeout(NEVER, runs).await.expect("seen").expect("followed");
    records.finished(&ended(&task, Status::Succeeded).into()).await.expect("writable");
    let record = got(&records, &task).await.expect("it ended");
    for follower in early {
        assert_eq!(seen_to_end(follower).await, record);
    }
    assert_eq!(seen_to_end(records.follow(&task.id)).await, record, "whoever comes late sees it too");
    // An end that is not the first one is never shown.
    let late = records.follow(&task.id);
    records.finished(&ended(&task, Status::Failed).into()).await.expect("writable");
    assert_eq!(seen_to_end(late).await, record);
}

pub(super) async fn what_was_noted_is_there_after_closing<R: Records>(make: impl AsyncFn() -> R) {
    let records = make().await;
    let task = new_task("a");
    let mut follower = records.follow(&task.id);
    records.note(update(&task, Status::Running));
    records.close().await;
    records.close().await;
    let seen = follower.wait_for(Option::is_some);
    tokio::time::timeout(NEVER, seen).await.expect("seen").expect("followed");
}
