//! The end of a task, with everything that leaves the host because of it.

use super::Attempt;
use crate::delivery::envelope::{self, DeathNote};
use crate::delivery::{Message, Route, outgoing};
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
        let outgoing = completion.follow_ups.iter().map(follow_up).collect();
        let ending = Ending { update, outgoing, dead_letter: None, log: self.log(completion) };
        if status == Status::Failed {
            let mut ending = buried(ending, &self.message, self.death_note(completion));
            if let (Some(letter), Some(recording)) = (&mut ending.dead_letter, &completion.recording) {
                letter.recording = Some(recording.file().clone());
            }
            return ending;
        }
        ending
    }

    fn death_note(&self, completion: &Completion) -> DeathNote {
        let failure = completion.outcome.failure().unwrap_or_default();
        let ran = Self::ran(completion);
        DeathNote {
            task_id: self.task.id.clone(),
            error_type: failure.kind,
            error_message: failure.message,
            failed_at_ms: unix_ms_now(),
            // One that was not begun was not used.
            attempts: if ran { self.task.attempt } else { self.task.attempt.saturating_sub(1) },
            generation: self.task.generation,
            revision: ran.then_some(self.revision.number),
            digest: ran.then(|| self.revision.digest.clone()),
            host: self.host.to_string(),
        }
    }
}

/// Where a follow-up goes, and the message of it.
pub(super) fn submitted(follow_up: &FollowUp) -> (Route, Message) {
    let agent = follow_up.task.agent.clone();
    let route = if follow_up.delay.is_zero() { Route::Agent(agent) } else { Route::Delayed(agent, follow_up.delay) };
    (route, envelope::submission(&follow_up.task))
}

fn follow_up(follow_up: &FollowUp) -> Outgoing {
    let (route, message) = submitted(follow_up);
    Outgoing { id: outgoing_id(), payload: outgoing::encode(&route, &message) }
}
