//! What all task records must do, as one suite over both.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite: breaking a rule is a panic"
)]

mod changes;
mod fleet;
mod intake;
mod leaving;
mod logs;
mod search;

pub use fleet::{duplicates_agree, interleavings_end_well};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::{NewTask, Queued, Records, Status, TaskRecord, Update, body_sha256};
use crate::task::{AgentName, Failure, Output, TaskId, Usage};

/// Far longer than anything here takes: what is awaited never comes.
const NEVER: Duration = Duration::from_secs(60);

/// Runs every case, each on tasks of its own; `make` opens the records.
///
/// # Panics
/// Where a rule is broken.
pub async fn exercise<R: Records>(make: impl AsyncFn() -> R) {
    intake::unknown_tasks_are_unknown(make().await).await;
    intake::a_task_is_new_once(make().await).await;
    intake::only_an_unshared_queued_record_is_withdrawn(make().await).await;
    changes::everything_said_at_the_end_is_kept(make().await).await;
    changes::text_that_a_database_cannot_hold_costs_no_record(make().await).await;
    changes::a_task_that_was_never_queued_here_is_recorded(make().await).await;
    changes::an_end_is_final(make().await).await;
    changes::nothing_is_written_over_another_agents_task(make().await).await;
    changes::late_changes_lose(make().await).await;
    changes::attempts_go_on(make().await).await;
    changes::progress_is_seen(make().await).await;
    changes::followers_see_the_end(make().await).await;
    duplicates_agree(&[Arc::new(make().await)]).await;
    interleavings_end_well(&[Arc::new(make().await)]).await;
    leaving::the_first_end_counts_and_says_so(make().await).await;
    leaving::an_end_is_known_to_whoever_asks_before_a_run(make().await).await;
    leaving::what_leaves_with_an_end_is_kept_until_it_is_sent(make().await).await;
    leaving::what_would_leave_with_a_second_end_does_not(make().await).await;
    leaving::what_was_left_behind_is_given_out_in_pieces(make().await).await;
    leaving::a_cancelled_task_ends_in_no_other_way(make().await).await;
    leaving::runs_of_suspects_are_counted_until_one_ends(make().await).await;
    leaving::dead_letters_are_listed_page_by_page(make().await).await;
    leaving::a_recording_goes_with_its_letter(make().await).await;
    leaving::a_redriven_task_is_new_and_a_dropped_one_stays_failed(make().await).await;
    leaving::a_letter_of_an_absurd_generation_is_in_nobodys_way(make().await).await;
    logs::what_runs_said_is_kept_in_their_order(make().await).await;
    logs::an_end_that_came_too_late_leaves_no_log_and_the_last_runs_are_kept(make().await).await;
    search::tasks_are_found_page_by_page(make().await).await;
    changes::what_was_noted_is_there_after_closing(make).await;
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
