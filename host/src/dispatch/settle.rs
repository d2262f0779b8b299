//! Carrying a settlement out: everything that must be safe before the delivery is acknowledged, in that order.

use futures::future::try_join_all;

use super::settlement::{Policy, Settlement, settlement};
use super::{Attempt, Dispatcher};
use crate::agent::Revision;
use crate::delivery::envelope::{self, DeathNote, Malformed};
use crate::delivery::{Delivery, PublishError, Route};
use crate::records::{RecordsError, Status, Update};
use crate::task::{AgentName, Completion, FollowUp, Outcome, Task, unix_ms_now};

/// Why a delivery could not be settled yet; it is handed back.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error("a message of the task could not be published")]
    Publish(#[from] PublishError),
    #[error("the task's end could not be recorded")]
    Record(#[from] RecordsError),
}

impl Dispatcher {
    pub(super) async fn settle(&self, attempt: Attempt, completion: Completion) {
        let manifest = &attempt.revision.manifest;
        let policy = Policy {
            attempts_max: attempt.task.attempts_max.unwrap_or(manifest.retry.max_attempts),
            retry: &manifest.retry,
        };
        let decision = settlement(&completion.outcome, attempt.task.attempt, &policy, random);
        let prepared = match decision {
            Settlement::Acknowledge => self.conclude(&attempt, &completion).await,
            Settlement::RetryLater { delay, attempt: next } => {
                self.records.note(attempt.update(Status::Retrying, Some(&completion)));
                let message = envelope::retry(&attempt.delivery.message, &attempt.task, next);
                let route = Route::Delayed(attempt.task.agent.clone(), delay);
                self.broker.publish(route, message).await.map_err(SettleError::from)
            }
            Settlement::DeadLetter => self.bury(&attempt, &completion).await,
            Settlement::HandBack => return self.hand_back(attempt, &completion.outcome),
        };
        match prepared {
            Ok(()) => {
                self.metrics.settled(&attempt.task.agent, decision.name(), completion.outcome.name());
                attempt.delivery.receipt.acknowledge();
            }
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(task = %attempt.task.id, agent = %attempt.task.agent, error = cause, "handing a task back");
                self.hand_back(attempt, &completion.outcome);
            }
        }
    }

    fn hand_back(&self, attempt: Attempt, outcome: &Outcome) {
        self.metrics.settled(&attempt.task.agent, Settlement::HandBack.name(), outcome.name());
        attempt.delivery.receipt.hand_back();
    }

    async fn conclude(&self, attempt: &Attempt, completion: &Completion) -> Result<(), SettleError> {
        let status = match completion.outcome {
            Outcome::Cancelled => Status::Cancelled,
            _ => Status::Succeeded,
        };
        try_join_all(completion.follow_ups.iter().map(|follow_up| self.submit(follow_up))).await?;
        self.records.finished(attempt.update(status, Some(completion))).await?;
        self.reply(&attempt.task, &completion.outcome).await
    }

    async fn submit(&self, follow_up: &FollowUp) -> Result<(), PublishError> {
        let agent = follow_up.task.agent.clone();
        let route =
            if follow_up.delay.is_zero() { Route::Agent(agent) } else { Route::Delayed(agent, follow_up.delay) };
        self.broker.publish(route, envelope::submission(&follow_up.task)).await
    }

    async fn bury(&self, attempt: &Attempt, completion: &Completion) -> Result<(), SettleError> {
        let note = self.death_note(&attempt.task, &completion.outcome, Some(&attempt.revision));
        let letter = envelope::dead_letter(&attempt.delivery.message, &note);
        self.broker.publish(Route::DeadLetter(attempt.task.agent.clone()), letter).await?;
        self.records.finished(attempt.update(Status::Failed, Some(completion))).await?;
        self.reply(&attempt.task, &completion.outcome).await
    }

    /// Publishes the result where the sender asked for one. One that cannot be delivered, now or ever, is counted and
    /// dropped: the record stands, and trying again would run the task again.
    async fn reply(&self, task: &Task, outcome: &Outcome) -> Result<(), SettleError> {
        let Some((route, message)) = envelope::result(task, outcome) else { return Ok(()) };
        match self.broker.publish(route, message).await {
            Err(PublishError::Unroutable { .. } | PublishError::Refused(_)) => {
                self.metrics.result_unroutable(&task.agent);
                Ok(())
            }
            published => Ok(published?),
        }
    }

    /// Dead-letters a delivery that is no task, and tells its sender where that asked for a result.
    pub(super) async fn settle_malformed(&self, delivery: Delivery, agent: &AgentName, malformed: Malformed) {
        let outcome = malformed.outcome();
        let reason = malformed.reason.clone();
        let task = Task {
            id: malformed.task_id,
            reply: malformed.reply,
            ..Task::new(agent.clone(), delivery.message.body.clone())
        };
        tracing::warn!(%agent, task_id = %task.id, reason, "a malformed message is dead-lettered");
        match self.bury_malformed(&delivery, &task, &outcome).await {
            Ok(()) => {
                self.metrics.settled(agent, Settlement::DeadLetter.name(), "malformed");
                delivery.receipt.acknowledge();
            }
            Err(error) => {
                tracing::warn!(%agent, task_id = %task.id, error = &error as &dyn std::error::Error, "handing a message back");
                delivery.receipt.hand_back();
            }
        }
    }

    async fn bury_malformed(&self, delivery: &Delivery, task: &Task, outcome: &Outcome) -> Result<(), SettleError> {
        let failure = outcome.failure();
        let note = self.death_note(task, outcome, None);
        let letter = envelope::dead_letter(&delivery.message, &note);
        self.broker.publish(Route::DeadLetter(task.agent.clone()), letter).await?;
        let update = Update {
            id: task.id.clone(),
            agent: task.agent.clone(),
            revision: None,
            status: Status::Failed,
            attempt: task.attempt,
            output: None,
            failure,
            usage: None,
            enqueued_at_ms: delivery.message.timestamp_ms.unwrap_or(note.failed_at_ms),
            started_at_ms: None,
            finished_at_ms: Some(note.failed_at_ms),
        };
        self.records.finished(update).await?;
        self.reply(task, outcome).await
    }

    fn death_note(&self, task: &Task, outcome: &Outcome, revision: Option<&Revision>) -> DeathNote {
        let failure = outcome.failure().unwrap_or_default();
        DeathNote {
            task_id: task.id.clone(),
            error_type: failure.kind,
            error_message: failure.message,
            failed_at_ms: unix_ms_now(),
            attempts: task.attempt,
            revision: revision.map(|revision| revision.number),
            digest: revision.map(|revision| revision.digest.clone()),
            host: self.host.clone(),
        }
    }
}

/// Uniform in 0..1: the low bits of a UUIDv4 are as random as jitter needs.
fn random() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX);
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}
