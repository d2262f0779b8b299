//! From a delivery to its settlement: the loop that runs tasks.
//!
//! ```text
//! delivery ─► parse ─► ended before? ─► run ─► settlement ─► end recorded ─► messages sent ─► result ─► acknowledge
//!                │           │                    ├─► retry later (delay bucket) ──────────────────────► acknowledge
//!                │           └─ yes ──────────────┼──────────────────────────────────────────► result ─► acknowledge
//!                └─ malformed, expired ───────────┴─► end recorded ─► dead letter sent ──────► result ─► acknowledge
//! ```
//!
//! The end of a task is recorded in one commit with what leaves because of it, and with its SQL effects where it had any:
//! whatever is delivered twice, and wherever a host dies, the task ends once. A delivery is acknowledged last. Whatever
//! fails before that, the message stays the broker's and comes back, and is then answered from what was recorded.

mod attempt;
mod ending;
mod gate;
mod in_hand;
mod metrics;
mod prefetch;
mod settle;
mod settlement;
mod slot;
mod suspect;
mod traced;

use attempt::Attempt;
use in_hand::Hold;
pub use in_hand::InHand;
use metrics::AgentMetrics;
pub use metrics::DispatchMetrics;
pub use prefetch::prefetch;
pub use settlement::{Policy, Settlement, settlement};
use slot::Admission;
pub use slot::{AgentSlot, Shelf};
pub use suspect::Quarantine;
use traced::trace_id;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Recorded, Revision, Run, Runner, Stops};
use crate::delivery::envelope::Malformed;
use crate::delivery::{Broker, Consumer, Delivery, Message, Receipt, envelope};
use crate::records::{Inbox, TaskRecord};
use crate::relay::Relay;
use crate::task::{AgentName, Completion, Outcome, Task, UnixMs, unix_ms_now};
use crate::trace::{Kind, Span, Traces};

/// Runs deliveries of all agents of this host.
pub struct Dispatcher {
    /// Name of this host in dead letters.
    pub host: Arc<str>,
    /// What runs an attempt.
    pub runner: Runner,
    /// Where retries and results go.
    pub broker: Arc<dyn Broker>,
    /// Where the state of tasks is written.
    pub records: Arc<dyn Inbox>,
    /// Sends what leaves with the end of a task.
    pub relay: Relay,
    /// What is counted.
    pub metrics: DispatchMetrics,
    /// Stops running guests, to hand their tasks back.
    pub interrupt: CancellationToken,
    /// Deliveries under way; a drain waits for them.
    pub under_way: TaskTracker,
    /// The tasks of those deliveries.
    pub in_hand: Arc<InHand>,
    /// Where those are run alone that may be what kills hosts.
    pub quarantine: Quarantine,
    /// Largest body of a task, in bytes, however it came.
    pub payload_bytes_max: usize,
    /// Where what becomes of deliveries is told of.
    pub traces: Traces,
}

/// How often a host asks which of its tasks are cancelled: four times within the second that a cancelled task may go on.
const CANCELLED_EVERY: Duration = Duration::from_millis(250);
/// Tasks that have run for less are not asked about: most are over by then.
const CANCELLED_FROM: Duration = Duration::from_millis(200);

/// How often a host looks which of its tasks have yet to be noted as running.
const RUNNING_EVERY: Duration = Duration::from_millis(50);
/// Tasks that have run for less are not noted: most are over by then, and nobody would have seen it.
const RUNNING_FROM: Duration = Duration::from_millis(50);

/// What is known of a task before it is run.
enum Standing {
    /// Nothing speaks against running it.
    Open,
    /// It has ended before.
    Ended(Box<TaskRecord>),
    /// Another agent's task has its id, and has ended.
    Foreign(AgentName),
    /// It is not to be run now, or not at all.
    Decided(Outcome),
}

impl Dispatcher {
    /// Runs an agent's deliveries until its consumer is stopped.
    pub async fn serve(self: Arc<Self>, slot: Arc<AgentSlot>, mut consumer: Consumer) {
        let metrics = self.metrics.of(slot.name());
        while let Some(delivery) = consumer.deliveries.recv().await {
            let processing = metrics.processing();
            let Delivery { message, redelivered, receipt } = delivery;
            let dispatcher = Arc::clone(&self);
            let mut task = match self.read(slot.name(), &message) {
                Ok(task) => task,
                Err(malformed) => {
                    let (agent, running) = (slot.name().clone(), slot.count_running());
                    let (span, traceparent) = self.processing_malformed(&agent, &message);
                    self.under_way.spawn(Box::pin(async move {
                        dispatcher.settle_malformed((&message, traceparent), receipt, &agent, malformed).await;
                        processing.observe_duration();
                        drop((running, span));
                    }));
                    continue;
                }
            };
            slot.took(&task);
            let mut span = self.processing(&mut task, redelivered);
            // Admission before the run: a delivery that cannot run yet stays unsettled, and the prefetch holds the rest back.
            let (revision, entered, started_at_ms) = match slot.admit(&task).await {
                Admission::Entered(revision, entered, started_at_ms) => (revision, entered, started_at_ms),
                Admission::Pinned(number) => {
                    let (slot, metrics) = (Arc::clone(&slot), Arc::clone(&metrics));
                    // Loading it holds nobody else up.
                    self.under_way.spawn(Box::pin(async move {
                        let delivery = Delivery { message, redelivered, receipt };
                        dispatcher.handle_pinned(&slot, delivery, (task, &mut span), number, metrics).await;
                        processing.observe_duration();
                    }));
                    continue;
                }
                // Nothing is served any more: whoever serves it gets it.
                Admission::Nowhere => {
                    receipt.hand_back();
                    continue;
                }
            };
            let admission = (entered, slot.count_running());
            // Made before it is spawned, and boxed: the runtime moves what it is given several times, to its end.
            let attempt =
                self.attempt(message, redelivered, (task, &mut span), (revision, started_at_ms), &slot, &metrics);
            self.under_way.spawn(Box::pin(async move {
                dispatcher.handle(&attempt, receipt, admission, &mut span).await;
                processing.observe_duration();
            }));
        }
    }

    /// Runs a task on a revision that no new task goes to.
    async fn handle_pinned(
        &self,
        slot: &Arc<AgentSlot>,
        delivery: Delivery,
        (task, span): (Task, &mut Span),
        number: u64,
        metrics: Arc<AgentMetrics>,
    ) {
        let Delivery { message, redelivered, receipt } = delivery;
        let (revision, refused) = match slot.pinned(number).await {
            Ok(Some(revision)) => (Some(revision), None),
            Ok(None) => {
                let agent = slot.name();
                let message = format!("x-revision pins it to revision {number}, and {agent} has none of that number");
                (None, Some(Outcome::Rejected { message }))
            }
            Err(why) => {
                let message = format!("revision {number}, to which it is pinned, cannot be had just now: {why}");
                (None, Some(Outcome::HostError { message }))
            }
        };
        let Some(revision) = revision.or_else(|| slot.active()) else { return receipt.hand_back() };
        let admission = (if refused.is_none() { slot.enter().await } else { None }, slot.count_running());
        let mut attempt =
            self.attempt(message, redelivered, (task, &mut *span), (revision, unix_ms_now()), slot, &metrics);
        if let Some(attempt) = Arc::get_mut(&mut attempt) {
            attempt.refused = refused;
        }
        self.handle(&attempt, receipt, admission, span).await;
    }

    /// Notes those tasks as running that have been for a while, until it is told to end.
    pub async fn note_running(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(RUNNING_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.in_hand.note_running(RUNNING_FROM);
        }
    }

    /// Stops tasks that somebody cancelled, on whichever host, until it is told to end.
    pub async fn watch_cancelled(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(CANCELLED_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let running = self.in_hand.longer_than(CANCELLED_FROM);
            if running.is_empty() {
                continue;
            }
            match self.records.cancelled(running).await {
                Ok(cancelled) => self.in_hand.cancel(&cancelled),
                // A cancelled task ends as cancelled even so: no other end is recorded over that one.
                Err(error) => tracing::debug!(%error, "which tasks are cancelled cannot be seen just now"),
            }
        }
    }

    /// Reads a message as a task.
    fn read(&self, agent: &AgentName, message: &Message) -> Result<Task, Malformed> {
        let (bytes, max) = (message.body.len(), self.payload_bytes_max);
        if bytes > max {
            let reason = format!("its body has {bytes} bytes, expected at most {max} (payload_bytes_max)");
            return Err(envelope::malformed(message, &reason));
        }
        envelope::parse(agent, message, unix_ms_now())
    }

    fn attempt(
        &self,
        message: Message,
        redelivered: bool,
        (task, span): (Task, &mut Span),
        (revision, started_at_ms): (Arc<Revision>, UnixMs),
        slot: &Arc<AgentSlot>,
        metrics: &Arc<AgentMetrics>,
    ) -> Arc<Attempt> {
        traced::runs_on(span, &revision);
        Arc::new(Attempt {
            message,
            redelivered,
            task,
            revision,
            slot: Arc::clone(slot),
            refused: None,
            started_at_ms,
            host: Arc::clone(&self.host),
            records: Arc::clone(&self.records),
            metrics: Arc::clone(metrics),
            is_noted_as_running: AtomicBool::new(false),
            scope: span.scope().clone(),
        })
    }

    async fn handle(&self, attempt: &Arc<Attempt>, receipt: Receipt, admission: impl Send, span: &mut Span) {
        let mut admission = Some(admission);
        let hold = match self.in_hand.try_take(&attempt.task.id) {
            Some(hold) => hold,
            // A copy of a task that runs here takes no place from others while it waits. Boxed, here and below, where it is
            // rare: the future of every task would be as large as that of the worst.
            None => {
                drop(admission.take());
                Box::pin(self.in_hand.take(&attempt.task.id)).await
            }
        };
        let (completion, recorded) = match self.standing(attempt).await {
            Standing::Open => self.run(attempt, &hold).await,
            Standing::Ended(record) => {
                span.set("agent_host.outcome", "ended-before");
                return Box::pin(self.answer(attempt, receipt, &record)).await;
            }
            Standing::Foreign(agent) => {
                span.fail("malformed");
                let malformed = envelope::malformed(&attempt.message, &settle::taken(&agent));
                let message = (&attempt.message, attempt.task.traceparent.clone());
                let settled = self.settle_malformed(message, receipt, &attempt.task.agent, malformed);
                return Box::pin(settled).await;
            }
            Standing::Decided(outcome) => (Completion::without_a_run(outcome), Recorded::No),
        };
        // The instance is gone: the next task may start while this one's results are being confirmed.
        let _result = self.runner.account_for(&completion.outcome);
        drop(admission);
        let mut settling = span.scope().child(Kind::Internal, format_args!("settle"));
        let settlement = self.settle(attempt, receipt, &completion, recorded).await;
        settling.set("agent_host.settlement", settlement);
        span.ended(&completion.outcome);
        drop((hold, settling));
    }

    async fn run(&self, attempt: &Arc<Attempt>, hold: &Hold) -> (Completion, Recorded) {
        let suspect = if attempt.redelivered { suspect::suspect(&attempt.task, &attempt.message) } else { None };
        if let Some(suspect) = suspect {
            return Box::pin(self.run_suspect(attempt, hold, &suspect)).await;
        }
        let _beside = match self.quarantine.try_ordinary() {
            Some(beside) => Some(beside),
            None => Box::pin(self.quarantine.ordinary()).await,
        };
        self.run_now(attempt, hold).await
    }

    async fn run_suspect(&self, attempt: &Arc<Attempt>, hold: &Hold, suspect: &str) -> (Completion, Recorded) {
        let Some(_alone) = self.quarantine.alone().await else {
            // Beside others nothing could be learned of it.
            return self.run_now(attempt, hold).await;
        };
        match self.records.suspect_begins(suspect).await {
            Ok(deaths) if deaths >= suspect::DEATHS_MAX => {
                attempt.metrics.failed(&Outcome::HostKiller);
                self.cleared(attempt, suspect).await;
                return (Completion::without_a_run(Outcome::HostKiller), Recorded::No);
            }
            Ok(deaths) => {
                let task = &attempt.task;
                tracing::info!(task = %task.id, trace_id = trace_id(task), deaths, "running alone a task that was delivered often");
            }
            Err(error) => {
                let (task, error) = (&attempt.task, &error as &dyn std::error::Error);
                tracing::warn!(task = %task.id, trace_id = trace_id(task), error, "a task is put off");
                let message = "the database is away".to_owned();
                return (Completion::without_a_run(Outcome::HostError { message }), Recorded::No);
            }
        }
        let ran = self.run_now(attempt, hold).await;
        self.cleared(attempt, suspect).await;
        ran
    }

    async fn run_now(&self, attempt: &Arc<Attempt>, hold: &Hold) -> (Completion, Recorded) {
        let stops = Stops { interrupt: self.interrupt.clone(), cancel: hold.cancel().clone() };
        hold.runs(Arc::clone(attempt));
        let ran = self.runner.run(Arc::clone(attempt) as Arc<dyn Run>, stops).await;
        hold.ran();
        attempt.metrics.ran(&ran.0);
        attempt.slot.count_outcome(&attempt.task, attempt.revision.number, &ran.0);
        ran
    }

    /// Notes that this host outlived a suspect, or is done with it.
    async fn cleared(&self, attempt: &Attempt, suspect: &str) {
        if let Err(error) = self.records.suspect_ends(suspect).await {
            let task = &attempt.task;
            tracing::warn!(task = %task.id, trace_id = trace_id(task), %error, "that a run alone has ended is not recorded");
        }
    }

    async fn standing(&self, attempt: &Attempt) -> Standing {
        // One that its sender did not name has a new id at each delivery, and nobody can know it.
        if envelope::names_its_task(&attempt.message) {
            match self.records.ended(&attempt.task.id, attempt.task.generation).await {
                Ok(Some(record)) if record.agent != attempt.task.agent => return Standing::Foreign(record.agent),
                Ok(Some(record)) => return Standing::Ended(Box::new(record)),
                Ok(None) => {}
                // Its effects could not be committed either, so there is no use in running it now.
                Err(error) if !attempt.revision.manifest.grants.sql.is_empty() => {
                    let (task, error) = (&attempt.task, &error as &dyn std::error::Error);
                    tracing::warn!(task = %task.id, trace_id = trace_id(task), error, "a task is put off");
                    return Standing::Decided(Outcome::HostError { message: "the database is away".to_owned() });
                }
                // Without SQL it is run at least once, and its end will be recorded when the database is back.
                Err(error) => {
                    let task = &attempt.task;
                    tracing::debug!(task = %task.id, trace_id = trace_id(task), %error, "running a task without asking for its end");
                }
            }
        }
        attempt.not_to_be_run().map_or(Standing::Open, Standing::Decided)
    }
}
