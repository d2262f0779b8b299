//! What the runs of a task said.

use std::sync::Arc;

use uuid::Uuid;

use super::{NEVER, ended, new_task, queued, update};
use crate::records::{Ended, Ending, NewTask, RUNS_KEPT_MAX, Records, Status, TaskLog};
use crate::task::{RunLog, TaskId};

fn log(task: &NewTask, attempt: u32, said: &str) -> TaskLog {
    TaskLog {
        run: Uuid::now_v7(),
        task: task.id.clone(),
        generation: 0,
        attempt,
        revision: Some(3),
        host: "h1".into(),
        log: Arc::new(RunLog::new(format!("{said}\n"), attempt == 2, Vec::new())),
    }
}

async fn until_said(records: &impl Records, id: &TaskId, wanted: &[TaskLog]) {
    let said = async {
        while records.logs(id).await.expect("readable") != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let last = tokio::time::timeout(NEVER, said).await;
    assert!(last.is_ok(), "there is {:?} instead of {wanted:?}", records.logs(id).await);
}

pub(super) async fn what_runs_said_is_kept_in_their_order(records: impl Records) {
    let (task, silent) = (new_task("a"), new_task("b"));
    queued(&records, &task).await;
    let [first, second, last] = [1, 2, 3].map(|attempt| log(&task, attempt, "{\"message\":\"\u{e4}\"}"));
    for log in [&first, &second] {
        records.note(update(&task, Status::Retrying));
        records.note_log(log.clone());
    }
    until_said(&records, &task.id, &[first.clone(), second.clone()]).await;
    // With the end, in one commit: it is there when that is.
    let ending = Ending { log: Some(last.clone()), ..ended(&task, Status::Succeeded).into() };
    assert_eq!(records.finished(&ending).await.expect("writable"), Ended::Now);
    assert_eq!(records.logs(&task.id).await.expect("readable"), [first, second, last]);
    records.finished(&ended(&silent, Status::Succeeded).into()).await.expect("writable");
    assert_eq!(records.logs(&silent.id).await.expect("readable"), []);
    assert_eq!(records.logs(&TaskId::generate()).await.expect("readable"), []);
}

pub(super) async fn an_end_that_came_too_late_leaves_no_log_and_the_last_runs_are_kept(records: impl Records) {
    let task = new_task("a");
    records.finished(&ended(&task, Status::Succeeded).into()).await.expect("writable");
    let late = Ending { log: Some(log(&task, 1, "late")), ..ended(&task, Status::Failed).into() };
    assert_eq!(records.finished(&late).await.expect("writable"), Ended::Before);
    assert_eq!(records.logs(&task.id).await.expect("readable"), []);

    let logs: Vec<_> = (0..RUNS_KEPT_MAX + 3).map(|_| log(&task, 1, "again")).collect();
    for log in &logs {
        records.note_log(log.clone());
    }
    until_said(&records, &task.id, &logs[3..]).await;
}
