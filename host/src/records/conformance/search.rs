//! Looking through the tasks.

use super::*;
use crate::records::{Ending, TaskCursor, TaskFilter};

pub(super) async fn tasks_are_found_page_by_page(records: impl Records) {
    let agent = crate::task::AgentName::parse(&format!("s{}", uuid::Uuid::now_v7().simple())).expect("a name");
    let mut made = Vec::new();
    for number in 0..5_u64 {
        let task = NewTask { agent: agent.clone(), ..new_task("x") };
        let task = NewTask { enqueued_at_ms: task.enqueued_at_ms + number, ..task };
        queued(&records, &task).await;
        if number % 2 == 1 {
            let ending = Ending::from(ended(&task, Status::Succeeded));
            records.finished(&ending).await.expect("writable");
        }
        made.push(task.id);
    }
    let filter = |status| TaskFilter { agent: Some(agent.clone()), status };
    let all = async |status: Option<Status>, limit: u32| {
        let (mut found, mut after) = (Vec::new(), None::<TaskCursor>);
        loop {
            let page = records.search(filter(status), after, limit).await.expect("readable");
            assert!(page.tasks.iter().all(|task| task.output.is_none()), "a list has no outputs");
            found.extend(page.tasks.into_iter().map(|task| task.id));
            match page.next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    };
    made.reverse();
    for limit in [1, 2, 5, 100] {
        assert_eq!(all(None, limit).await, made, "the newest first, in pages of {limit}");
    }
    let ends: Vec<_> = made.iter().skip(1).step_by(2).cloned().collect();
    assert_eq!(all(Some(Status::Succeeded), 1).await, ends);
    assert_eq!(all(Some(Status::Failed), 10).await, []);
}
