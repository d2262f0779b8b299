//! From a delivery to its settlement: the loop that runs tasks.
//!
//! ```text
//! delivery ─► parse ─► admit ─► run ─► settlement ─► follow-ups ─► record ─► result ─► acknowledge
//!                │                          ├─► retry later (delay bucket) ─────────► acknowledge
//!                └─ malformed, expired ─────┴─► dead letter ─► record ─► result ────► acknowledge
//!                                           └─► hand back
//! ```
//!
//! A delivery is acknowledged last, when everything that the task leaves behind is safe. Whatever fails before that, the
//! message stays the broker's and comes back.

mod metrics;
mod settle;
mod settlement;
mod slot;

pub use metrics::DispatchMetrics;
pub use settlement::{Policy, Settlement, settlement};
pub use slot::AgentSlot;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Revision, Runner};
use crate::delivery::{Broker, Consumer, Delivery, envelope};
use crate::records::{Status, TaskRecords, Update};
use crate::task::{Completion, Outcome, Task, UnixMs, Usage, unix_ms_now};

/// Runs deliveries of all agents of this host.
pub struct Dispatcher {
    /// Name of this host in dead letters.
    pub host: String,
    /// What runs an attempt.
    pub runner: Runner,
    /// Where follow-ups, results, retries and dead letters go.
    pub broker: Arc<dyn Broker>,
    /// Where the state of tasks is written.
    pub records: Arc<dyn TaskRecords>,
    /// What is counted.
    pub metrics: DispatchMetrics,
    /// Stops running guests, to hand their tasks back.
    pub interrupt: CancellationToken,
    /// Deliveries under way; a drain waits for them.
    pub under_way: TaskTracker,
}

/// Deliveries that may be between their run and their acknowledgement, per agent, beyond those that run. Results and
/// records are confirmed in batches of milliseconds; measured from a full queue, 512 ran a fifth more tasks than 128.
const SETTLING_MAX: u16 = 512;

/// What follows from a delivery before anything runs.
struct Attempt {
    delivery: Delivery,
    task: Arc<Task>,
    revision: Arc<Revision>,
    started_at_ms: UnixMs,
}

impl Dispatcher {
    /// Unsettled deliveries that an agent with this many concurrent instances can use.
    #[must_use]
    pub fn prefetch(concurrency: u32) -> u16 {
        u16::try_from(concurrency).unwrap_or(u16::MAX).saturating_add(SETTLING_MAX)
    }

    /// Runs an agent's deliveries until its consumer is stopped.
    pub async fn serve(self: Arc<Self>, slot: Arc<AgentSlot>, mut consumer: Consumer) {
        let process_duration = self.metrics.appeared(&slot.name());
        while let Some(delivery) = consumer.deliveries.recv().await {
            let processing = process_duration.start_timer();
            // Admission first: a delivery that cannot run yet stays unsettled, and the prefetch holds the rest back.
            let revision = slot.active();
            let permit = slot.admit(&revision).await;
            let dispatcher = Arc::clone(&self);
            let slot = Arc::clone(&slot);
            self.under_way.spawn(async move {
                let running = slot.count_running();
                dispatcher.handle(delivery, revision, (permit, running)).await;
                processing.observe_duration();
            });
        }
    }

    async fn handle(&self, delivery: Delivery, active: Arc<Revision>, admission: impl Send) {
        let now_ms = unix_ms_now();
        let task = match envelope::parse(&active.agent, &delivery.message, now_ms) {
            Ok(task) => Arc::new(task),
            Err(malformed) => return self.settle_malformed(delivery, &active.agent, malformed).await,
        };
        let attempt = Attempt { delivery, task, revision: active, started_at_ms: now_ms };
        let completion = match attempt.not_to_be_run(now_ms) {
            Some(outcome) => Completion { outcome, usage: Usage::default(), init: None, follow_ups: Vec::new() },
            None => {
                self.records.note(attempt.update(Status::Running, None));
                let interrupt = self.interrupt.clone();
                let completion =
                    self.runner.run(Arc::clone(&attempt.revision), Arc::clone(&attempt.task), interrupt).await;
                self.metrics.ran(&attempt.task.agent, &completion);
                completion
            }
        };
        // The instance is gone: the next task may start while this one's results are being confirmed.
        drop(admission);
        self.settle(attempt, completion).await;
    }
}

impl Attempt {
    /// How a task ends that is not worth an instance.
    fn not_to_be_run(&self, now_ms: UnixMs) -> Option<Outcome> {
        if self.task.is_expired(now_ms) {
            return Some(Outcome::Expired);
        }
        let (pinned, active) = (self.task.revision?, self.revision.number);
        // On another revision than its sender asked for it might do anything; a dead letter tells.
        (pinned != active).then(|| Outcome::Rejected {
            message: format!("x-revision pins it to revision {pinned}, but revision {active} is the active one"),
        })
    }

    fn update(&self, status: Status, completion: Option<&Completion>) -> Update {
        let output = match completion.map(|completion| &completion.outcome) {
            Some(Outcome::Succeeded(output)) => output.clone(),
            _ => None,
        };
        Update {
            id: self.task.id.clone(),
            agent: self.task.agent.clone(),
            revision: Some(self.revision.number),
            status,
            attempt: self.task.attempt,
            output,
            failure: completion.and_then(|completion| completion.outcome.failure()),
            usage: completion.map(|completion| completion.usage),
            enqueued_at_ms: self.task.enqueued_at_ms,
            started_at_ms: Some(self.started_at_ms),
            finished_at_ms: status.is_terminal().then(unix_ms_now),
        }
    }
}
