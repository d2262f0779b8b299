//! Many tasks at once, through the records of several hosts of one fleet.

use std::sync::Arc;

use super::{ended, got, new_task, queued, seen_to_end, until, update};
use crate::records::{Progress, Queued, Records, Status, Update};

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
                records.finished(&ended(&task, status).into()).await.expect("writable");
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
                        records.finished(&ended(&task, Status::Succeeded).into()).await.expect("writable");
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
