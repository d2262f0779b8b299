//! What a run did to the world: committed with the task's end, or rolled back.

use super::caps::FAILURE_BYTES_MAX;
use super::{Recorded, Run};
use crate::capability::sql::{CommitError, Committed};
use crate::capability::{Session, Trouble};
use crate::records::Ended;
use crate::task::{Completion, FollowUp, Outcome};
use crate::text::escaped;
use crate::trace::TraceId;

/// Whether an agent may have come to this because a statement of its met another transaction.
pub(super) fn may_be_a_conflicts_doing(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { .. } | Outcome::Rejected { .. } | Outcome::Trapped { .. })
}

/// Commits what a success did, together with the task's end, and rolls everything else back. What failed because a
/// capability was away is the host's failure, whatever the agent made of it.
pub(super) async fn settle_effects(
    session: Session,
    mut completion: Completion,
    run: &dyn Run,
) -> (Completion, Recorded, Option<Trouble>) {
    // Its streams are closed, and with them their last lines are there.
    completion.log = session.log().take();
    let make_ending = |follow_ups: &[FollowUp], host_calls: u64| {
        let mut ended = completion.clone();
        ended.usage.host_calls = host_calls;
        ended.follow_ups = follow_ups.to_vec();
        run.ending(&ended)
    };
    let succeeded = matches!(completion.outcome, Outcome::Succeeded(_));
    let finished = session.finish(succeeded.then_some(&make_ending)).await;
    completion.usage.host_calls = finished.host_calls;
    completion.follow_ups = finished.follow_ups;
    let mut recorded = Recorded::No;
    match finished.result {
        Ok(Committed::Effects) => {}
        Ok(Committed::WithEnd(Ended::Before)) => recorded = Recorded::Before,
        Ok(Committed::WithEnd(Ended::Now)) => {
            recorded = finished.ending.map_or(Recorded::No, Recorded::Now);
        }
        Err(error) => {
            // On one line: agents raise errors of their own in SQL.
            tracing::warn!(
                task_id = %run.task().id,
                trace_id = TraceId::of(run.task()).map(tracing::field::display),
                error = crate::capability::chain(&error),
                "a task's effects could not be committed"
            );
            // In the agent's own words, where it had PostgreSQL say them.
            let message = escaped(&error.to_string(), FAILURE_BYTES_MAX);
            completion.outcome = match error {
                // The agent's own doing: it answered success over a failed statement, or against a deferred constraint.
                CommitError::Aborted(_) | CommitError::Refused(_) => Outcome::Retry { message, after_ms: None },
                CommitError::NoRoom(_) => Outcome::Interrupted,
                CommitError::Unavailable(_) => Outcome::HostError { message },
            };
        }
    }
    if let Some(Trouble::Away(capability)) = finished.trouble
        && matches!(
            completion.outcome,
            Outcome::Retry { .. } | Outcome::Rejected { .. } | Outcome::Trapped { .. } | Outcome::TimedOut(_)
        )
    {
        completion.outcome = Outcome::HostError { message: format!("{capability} was not available to the task") };
    }
    (completion, recorded, finished.trouble)
}
