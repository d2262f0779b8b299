//! The end of a task, with everything that leaves the host because of it.

use super::Attempt;
use crate::delivery::envelope::{self, DeathNote};
use crate::delivery::{Route, outgoing};
use crate::records::{Ending, Outgoing, Status, outgoing_id};
use crate::relay::buried;
use crate::task::{Completion, FollowUp, Outcome, unix_ms_now};

impl Attempt {
    /// The end that an outcome means: a success or a cancellation with the follow-ups, anything else with a dead letter.
    pub(super) fn ended(&self, completion: &Completion) -> Ending {
        let status = match completion.outcome {
            Outcome::Succeeded(_) => Status::Succeeded,
            Outcome::Cancelled => Status::Cancelled,
            _ => Status::Failed,
        };
        let update = self.update(status, Some(completion));
        if status == Status::Failed {
            return buried(Ending::from(update), &self.message, self.death_note(&completion.outcome));
        }
        Ending { update, outgoing: completion.follow_ups.iter().map(follow_up).collect(), dead_letter: None }
    }

    fn death_note(&self, outcome: &Outcome) -> DeathNote {
        let failure = outcome.failure().unwrap_or_default();
        DeathNote {
            task_id: self.task.id.clone(),
            error_type: failure.kind,
            error_message: failure.message,
            failed_at_ms: unix_ms_now(),
            attempts: self.task.attempt,
            generation: self.task.generation,
            revision: Some(self.revision.number),
            digest: Some(self.revision.digest.clone()),
            host: self.host.to_string(),
        }
    }
}

fn follow_up(follow_up: &FollowUp) -> Outgoing {
    let agent = follow_up.task.agent.clone();
    let route = if follow_up.delay.is_zero() { Route::Agent(agent) } else { Route::Delayed(agent, follow_up.delay) };
    Outgoing { id: outgoing_id(), payload: outgoing::encode(&route, &envelope::submission(&follow_up.task)) }
}
