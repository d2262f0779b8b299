//! Carrying a settlement out: everything that must be safe before the delivery is acknowledged, in that order.

use std::time::Duration;

use super::ending::submitted;
use super::settlement::{Policy, Settlement, settlement};
use super::traced::trace_id;
use super::{Attempt, Dispatcher};
use crate::agent::Recorded;
use crate::delivery::envelope::{self, DeathNote, Malformed};
use crate::delivery::{Connectivity, Message, PublishError, Receipt, Route};
use crate::records::{Ended, Ending, RecordsError, Status, TaskRecord, Update};
use crate::relay::buried;
use crate::task::{AgentName, Completion, Failure, Outcome, Output, Task, random_fraction, unix_ms_now};

/// Wait before a delivery that could not be settled goes back to its queue, from where it comes again at once.
const PUT_OFF: Duration = Duration::from_secs(1);

/// Why a task is dead-lettered whose id another agent's task has.
pub(super) fn taken(agent: &AgentName) -> String {
    format!("its id is that of a task of agent {agent}: ids are the whole fleet's")
}

/// Why a delivery could not be settled yet; it is handed back.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error("a message of the task could not be published")]
    Publish(#[from] PublishError),
    #[error("the task's end could not be recorded")]
    Record(#[from] RecordsError),
}

impl Dispatcher {
    /// Settles a delivery, and says how.
    pub(super) async fn settle(
        &self,
        attempt: &Attempt,
        receipt: Receipt,
        completion: &Completion,
        recorded: Recorded,
    ) -> &'static str {
        let manifest = &attempt.revision.manifest;
        let policy = Policy {
            attempts_max: attempt.task.attempts_max.unwrap_or(manifest.retry.max_attempts),
            retry: &manifest.retry,
            host_errors: envelope::host_errors(&attempt.message),
            keeps_order: attempt.task.partition_key.is_some(),
        };
        let mut decision = settlement(&completion.outcome, attempt.task.attempt, &policy, random_fraction);
        let prepared = match decision {
            Settlement::Acknowledge | Settlement::DeadLetter => self.conclude(attempt, completion, recorded).await,
            Settlement::RetryLater { delay, attempt: next } => {
                match Box::pin(self.retry_later(attempt, completion, delay, next)).await {
                    // It came larger than anything that may be published, and never will be: this was its last attempt.
                    Err(SettleError::Publish(PublishError::Refused(_))) => {
                        decision = Settlement::DeadLetter;
                        Box::pin(self.conclude(attempt, completion, recorded)).await
                    }
                    published => {
                        attempt.note_log(completion);
                        published
                    }
                }
            }
            Settlement::HandBack { delay } => {
                attempt.note_log(completion);
                attempt.metrics.settled(decision.name(), completion.outcome.name());
                if !delay.is_zero() {
                    self.records.note(attempt.update(Status::Retrying, Some(completion)));
                    self.interrupt.run_until_cancelled(tokio::time::sleep(delay)).await;
                }
                receipt.hand_back();
                return decision.name();
            }
        };
        match prepared {
            Ok(()) => {
                attempt.metrics.settled(decision.name(), completion.outcome.name());
                receipt.acknowledge();
                decision.name()
            }
            Err(error) => {
                Box::pin(self.put_off(&attempt.task, receipt, &error, completion.outcome.name())).await;
                Settlement::HandBack { delay: PUT_OFF }.name()
            }
        }
    }

    /// Hands a delivery back that cannot be settled now. Not at once: it would come again at once, and a broker that holds
    /// publishers back would be busy with nothing else.
    async fn put_off(&self, task: &Task, receipt: Receipt, error: &SettleError, reason: &str) {
        tracing::warn!(
            task = %task.id,
            agent = %task.agent,
            trace_id = trace_id(task),
            error = error as &dyn std::error::Error,
            "handing a task back"
        );
        self.metrics.settled(&task.agent, Settlement::HandBack { delay: PUT_OFF }.name(), reason);
        let mut connectivity = self.broker.connectivity();
        let moment = async {
            tokio::time::sleep(PUT_OFF).await;
            // The sender lives as long as the broker.
            drop(connectivity.wait_for(|state| *state != Connectivity::Blocked).await);
        };
        self.interrupt.run_until_cancelled(moment).await;
        receipt.hand_back();
    }

    async fn retry_later(
        &self,
        attempt: &Attempt,
        completion: &Completion,
        delay: Duration,
        next: u32,
    ) -> Result<(), SettleError> {
        self.records.note(attempt.update(Status::Retrying, Some(completion)));
        // Only those that leave whatever becomes of the attempt; if this host dies now, the next run sends its own.
        for (route, message) in completion.follow_ups.iter().map(submitted) {
            self.broker.publish(route, message).await?;
        }
        let host_errors = match completion.outcome {
            Outcome::HostError { .. } => envelope::host_errors(&attempt.message).saturating_add(1),
            _ => 0,
        };
        let message = envelope::retry(&attempt.message, &attempt.task, next, host_errors);
        Ok(self.broker.publish(Route::Delayed(attempt.task.agent.clone(), delay), message).await?)
    }

    /// Records the end of a task, where that is not done, and sends what leaves with it.
    async fn conclude(
        &self,
        attempt: &Attempt,
        completion: &Completion,
        recorded: Recorded,
    ) -> Result<(), SettleError> {
        let ending = match recorded {
            Recorded::Before => None,
            Recorded::Now(ending) => {
                self.records.was_finished(&ending.update);
                // The agent's own transaction has no part in it.
                attempt.note_log(completion);
                Some(ending)
            }
            Recorded::No => {
                let ending = Box::new(attempt.ended(completion));
                match self.finished(&ending, &attempt.task).await? {
                    Ended::Now => Some(ending),
                    Ended::Before => None,
                }
            }
        };
        // Boxed, here and below, where it is rare: the future of every task would be as large as that of the worst.
        let Some(ending) = ending else { return Box::pin(self.ended_before(attempt, completion)).await };
        let outgoing = ending.outgoing;
        // What cannot be sent now is kept, and sent by whichever host is there.
        if !outgoing.is_empty() {
            Box::pin(self.relay.send(outgoing)).await;
        }
        let outcome = &completion.outcome;
        self.reply(&attempt.task, outcome.name(), outcome.output(), outcome.failure().as_ref()).await
    }

    /// Answers a delivery whose end was not written, because its task has ended before, or because the id is another
    /// agent's: then it is dead-lettered, which is its end.
    async fn ended_before(&self, attempt: &Attempt, completion: &Completion) -> Result<(), SettleError> {
        let task = &attempt.task;
        if let Some(other) = self.records.holder(&task.id).await?.filter(|holder| holder.agent != task.agent) {
            let malformed = envelope::malformed(&attempt.message, &taken(&other.agent));
            let (agent, reason) = (&task.agent, &malformed.reason);
            tracing::warn!(%agent, task_id = %task.id, trace_id = trace_id(task), reason, "a task is dead-lettered");
            return self.bury_malformed(&attempt.message, task, &malformed.outcome()).await;
        }
        // Such as one that was cancelled while it ran: how far it came is worth knowing.
        attempt.note_log(completion);
        match self.records.ended(&task.id, task.generation).await? {
            Some(record) => self.reply_again(task, &record).await,
            // Forgotten between the two looks: it ended as long ago as the records go back.
            None => Ok(()),
        }
    }

    /// Records an end, and goes on trying while the database is away: running the task again would not help.
    async fn finished(&self, ending: &Ending, task: &Task) -> Result<Ended, RecordsError> {
        loop {
            match self.records.finished(ending).await {
                Err(error) if error.is_passing && !self.interrupt.is_cancelled() => {
                    let (trace_id, error) = (trace_id(task), &error as &dyn std::error::Error);
                    tracing::warn!(task = %task.id, trace_id, error, "the end of a task is not recorded yet; trying again");
                }
                finished => return finished,
            }
        }
    }

    /// Answers a delivery of a task that has ended before.
    pub(super) async fn answer(&self, attempt: &Attempt, receipt: Receipt, record: &TaskRecord) {
        match self.reply_again(&attempt.task, record).await {
            Ok(()) => {
                attempt.metrics.settled(Settlement::Acknowledge.name(), "ended-before");
                receipt.acknowledge();
            }
            Err(error) => self.put_off(&attempt.task, receipt, &error, "ended-before").await,
        }
    }

    async fn reply_again(&self, task: &Task, record: &TaskRecord) -> Result<(), SettleError> {
        // A redrive made it anew: its own delivery will answer.
        if !record.status.is_terminal() {
            return Ok(());
        }
        let kind = record.failure.as_ref().map_or("succeeded", |failure| failure.kind.as_str());
        self.reply(task, kind, record.output.as_ref(), record.failure.as_ref()).await
    }

    /// Publishes the result where the sender asked for one. One that cannot be delivered, now or ever, is counted and
    /// dropped: the record stands, and trying again would run the task again.
    async fn reply(
        &self,
        task: &Task,
        kind: &str,
        output: Option<&Output>,
        failure: Option<&Failure>,
    ) -> Result<(), SettleError> {
        let Some((route, message)) = envelope::result(task, kind, output, failure) else { return Ok(()) };
        match self.broker.publish(route, message).await {
            Err(PublishError::Unroutable { .. } | PublishError::Refused(_)) => {
                self.metrics.result_unroutable(&task.agent);
                Ok(())
            }
            published => Ok(published?),
        }
    }

    /// Dead-letters a delivery that is no task, and tells its sender where that asked for a result, in that context.
    pub(super) async fn settle_malformed(
        &self,
        (message, traceparent): (&Message, Option<String>),
        receipt: Receipt,
        agent: &AgentName,
        malformed: Malformed,
    ) {
        let outcome = malformed.outcome();
        let reason = malformed.reason.clone();
        let Malformed { task_id: id, reply, .. } = malformed;
        let task = Task { id, reply, traceparent, ..Task::new(agent.clone(), bytes::Bytes::new()) };
        tracing::warn!(%agent, task_id = %task.id, trace_id = trace_id(&task), reason, "a malformed message is dead-lettered");
        match self.bury_malformed(message, &task, &outcome).await {
            Ok(()) => {
                self.metrics.settled(agent, Settlement::DeadLetter.name(), "malformed");
                receipt.acknowledge();
            }
            Err(error) => self.put_off(&task, receipt, &error, "malformed").await,
        }
    }

    async fn bury_malformed(&self, message: &Message, task: &Task, outcome: &Outcome) -> Result<(), SettleError> {
        let failed_at_ms = unix_ms_now();
        let failure = outcome.failure().unwrap_or_default();
        let note = DeathNote {
            task_id: task.id.clone(),
            error_type: failure.kind.clone(),
            error_message: failure.message.clone(),
            failed_at_ms,
            attempts: 0,
            generation: envelope::generation(message),
            revision: None,
            digest: None,
            host: self.host.to_string(),
        };
        let update = Update {
            id: task.id.clone(),
            agent: task.agent.clone(),
            revision: None,
            status: Status::Failed,
            attempt: task.attempt,
            generation: note.generation,
            output: None,
            failure: Some(failure.clone()),
            usage: None,
            enqueued_at_ms: message.timestamp_ms.unwrap_or(failed_at_ms),
            started_at_ms: None,
            finished_at_ms: Some(failed_at_ms),
        };
        let ending = buried(Ending::from(update), message, note.clone());
        // Where another message's task has its id, that one's record and listed letter stand. The letter goes to the queue
        // even so: what was sent is not lost. It is in no outbox then.
        let ended =
            if self.is_anothers(message, task).await? { Ended::Before } else { self.finished(&ending, task).await? };
        match ended {
            Ended::Now => drop(self.relay.send(ending.outgoing).await),
            Ended::Before => {
                let letter = envelope::dead_letter(message, &note);
                self.broker.publish(Route::DeadLetter(task.agent.clone()), letter).await?;
            }
        }
        self.reply(task, outcome.name(), None, Some(&failure)).await
    }

    /// Whether the id of a message that is no task is that of another message's task, which is yet to end. A redriven one
    /// has its own row, and so has one that was enqueued when its message was.
    async fn is_anothers(&self, message: &Message, task: &Task) -> Result<bool, SettleError> {
        if !envelope::names_its_task(message) || envelope::generation(message) > 0 {
            return Ok(false);
        }
        let Some(holder) = self.records.holder(&task.id).await? else { return Ok(false) };
        let is_own = holder.agent == task.agent
            && (holder.has_ended || envelope::enqueued_at_ms(message) == Some(holder.enqueued_at_ms));
        Ok(!is_own)
    }
}
