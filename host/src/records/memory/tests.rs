use super::*;
use crate::records::conformance::{self, ended, new_task};

#[tokio::test]
async fn keeps_the_rules() {
    conformance::exercise(async || MemoryRecords::default()).await;
}

#[tokio::test]
async fn forgets_ended_tasks_after_the_retention_and_no_others() {
    let records = MemoryRecords::new(MemoryLimits { retention: Duration::ZERO, ..MemoryLimits::default() });
    let (waiting, over) = (new_task("a"), new_task("b"));
    records.queued(vec![waiting.clone(), over.clone()]).await.unwrap();
    records.finished(&ended(&over, Status::Succeeded).into()).await.unwrap();
    assert_eq!(records.get(&over.id).await.unwrap(), None);
    assert!(records.get(&waiting.id).await.unwrap().is_some());
}

#[tokio::test]
async fn forgets_the_oldest_ends_first_when_full_and_counts_exactly() {
    let limits = MemoryLimits { bytes_max: 100_000, ..MemoryLimits::default() };
    let records = MemoryRecords::new(limits);
    let tasks: Vec<_> = (0..50).map(|_| new_task("a")).collect();
    for task in &tasks {
        let mut update = ended(task, Status::Succeeded);
        update.output = Some(crate::task::Output { body: bytes::Bytes::from(vec![0; 10_000]), ..Default::default() });
        records.finished(&update.into()).await.unwrap();
    }
    let mut known = Vec::new();
    for task in &tasks {
        known.push(records.get(&task.id).await.unwrap().is_some());
    }
    let first_kept = known.iter().position(|known| *known).unwrap();
    assert!(first_kept > 30, "{first_kept}");
    assert!(known[first_kept..].iter().all(|known| *known));
    assert!(records.bytes.load(Ordering::Relaxed) <= limits.bytes_max);
}

#[tokio::test]
async fn refuses_more_when_unfinished_tasks_fill_it_and_takes_more_once_they_end() {
    let records = MemoryRecords::new(MemoryLimits { bytes_max: 4_000, ..MemoryLimits::default() });
    let mut taken = Vec::new();
    let error = loop {
        let task = new_task("a");
        match records.queued(vec![task.clone()]).await {
            Ok(_) => taken.push(task),
            Err(error) => break error,
        }
    };
    assert_eq!(error.action, "written");
    for task in &taken {
        records.finished(&ended(task, Status::Succeeded).into()).await.unwrap();
    }
    records.queued(vec![new_task("a")]).await.unwrap();
}

/// Full of ended tasks is not full: what others take meanwhile is made room for as well.
#[test]
fn refuses_nobody_while_there_are_ends_to_forget() {
    let records = MemoryRecords::new(MemoryLimits { bytes_max: 40_000, ..MemoryLimits::default() });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let task = new_task("a");
                    futures::executor::block_on(records.queued(vec![task.clone()])).unwrap();
                    futures::executor::block_on(records.finished(&ended(&task, Status::Succeeded).into())).unwrap();
                }
            });
        }
    });
}
