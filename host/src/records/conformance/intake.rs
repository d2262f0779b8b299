//! Tasks come in: queued once, known afterwards, withdrawn where nobody relies on them.

use bytes::Bytes;

use super::{ended, got, new_task, queued};
use crate::records::{NewTask, Progress, Queued, Records, Status, body_sha256};

pub(super) async fn unknown_tasks_are_unknown(records: impl Records) {
    let task = new_task("a");
    assert_eq!(got(&records, &task).await, None);
    records.withdraw(vec![task.id.clone()]).await.expect("writable");
    records.note_progress(&task.id, Progress { fraction: 0.5, note: String::new() });
    assert_eq!(*records.follow(&task.id).borrow(), None);
    assert_eq!(records.queued(Vec::new()).await.expect("writable"), []);
}

pub(super) async fn a_task_is_new_once(records: impl Records) {
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
    records.finished(&ended(&first, Status::Failed).into()).await.expect("writable");
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

pub(super) async fn only_an_unshared_queued_record_is_withdrawn(records: impl Records) {
    let [mine, shared, twice, over] = ["a", "b", "c", "d"].map(new_task);
    for task in [&mine, &shared, &over] {
        assert_eq!(queued(&records, task).await, Queued::New);
    }
    records.queued(vec![twice.clone(), twice.clone()]).await.expect("writable");
    assert_eq!(queued(&records, &shared).await, Queued::Known(Status::Queued));
    // Whoever is told of a conflict has no stake in the task.
    let other = NewTask { body_sha256: body_sha256(&Bytes::from_static(b"other")), ..mine.clone() };
    assert_eq!(queued(&records, &other).await, Queued::Conflict);
    records.finished(&ended(&over, Status::Succeeded).into()).await.expect("writable");
    let all = [&mine, &shared, &twice, &over];
    records.withdraw(all.iter().map(|task| task.id.clone()).collect()).await.expect("writable");
    let mut stayed = Vec::new();
    for task in all {
        stayed.push(got(&records, task).await.is_some());
    }
    assert_eq!(stayed, [false, true, true, true], "somebody else relies on the shared ones");
    assert_eq!(queued(&records, &mine).await, Queued::New, "a withdrawn task may be submitted again");
}
