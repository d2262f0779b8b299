//! One deployed agent on this host: which revisions new tasks run on, and how many run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::gate::{Entered, Gate};
use crate::agent::Revision;
use crate::catalog::{Tally, Traffic};
use crate::task::{AgentName, Completion, Outcome, Task, UnixMs, unix_ms_now};

/// Revisions that no new task goes to and that pinned tasks asked for, kept loaded per agent; of more, the oldest goes.
const PINNED_MAX: usize = 4;

/// Where revisions come from that pinned tasks ask for.
#[async_trait::async_trait]
pub trait Shelf: Send + Sync + 'static {
    /// A revision, ready to run; nothing where the agent has none of this number.
    ///
    /// # Errors
    /// Why it cannot be had just now, for people.
    async fn revision(&self, agent: &AgentName, number: u64) -> Result<Option<Arc<Revision>>, String>;
}

/// The place of an agent on this host; operators change what is in it while tasks run.
pub struct AgentSlot {
    name: AgentName,
    serving: RwLock<Arc<Serving>>,
    shelf: Arc<dyn Shelf>,
    pinned: tokio::sync::Mutex<BTreeMap<u64, Arc<Revision>>>,
    /// Places for its tasks: as many as the active revision's `limits.concurrency` says.
    gate: Arc<Gate>,
    concurrency_max: u32,
    running: Arc<AtomicU64>,
    /// When the youngest task was enqueued that came here so far; 0 before the first.
    newest_enqueued_ms: AtomicU64,
    /// How first attempts ended since the split began.
    counted: Mutex<Counted>,
}

/// What new tasks run on. Replaced as one.
struct Serving {
    traffic: Traffic,
    change: u64,
    revisions: BTreeMap<u64, Arc<Revision>>,
}

impl Serving {
    fn new(traffic: Traffic, change: u64, revisions: Vec<Arc<Revision>>) -> Self {
        let revisions = revisions.into_iter().map(|revision| (revision.number, revision)).collect();
        Self { traffic, change, revisions }
    }

    /// How many tasks of the agent may run at once: what the active revision says.
    fn concurrency(&self, concurrency_max: u32) -> u32 {
        let active = self.revisions.get(&self.traffic.active);
        active.map_or(concurrency_max, |active| active.manifest.limits.concurrency.min(concurrency_max))
    }
}

#[derive(Default)]
struct Counted {
    change: u64,
    tallies: BTreeMap<u64, Tally>,
}

/// Where a task runs.
pub(super) enum Admission {
    /// On this revision, and it starts at this moment, at which new tasks went there.
    Entered(Arc<Revision>, Option<Entered>, UnixMs),
    /// On a revision that is not loaded.
    Pinned(u64),
    /// Nowhere on this host.
    Nowhere,
}

impl AgentSlot {
    /// A slot on a host that lets one agent run at most so many instances at once.
    #[must_use]
    pub fn new(
        name: AgentName,
        traffic: Traffic,
        change: u64,
        revisions: Vec<Arc<Revision>>,
        shelf: Arc<dyn Shelf>,
        concurrency_max: u32,
    ) -> Self {
        let serving = Serving::new(traffic, change, revisions);
        Self {
            name,
            gate: Arc::new(Gate::new(serving.concurrency(concurrency_max))),
            serving: RwLock::new(Arc::new(serving)),
            shelf,
            pinned: tokio::sync::Mutex::default(),
            concurrency_max,
            running: Arc::default(),
            newest_enqueued_ms: AtomicU64::new(0),
            counted: Mutex::default(),
        }
    }

    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// Where new tasks go, and of which change of the agent that is.
    #[must_use]
    pub fn traffic(&self) -> (Traffic, u64) {
        let serving = self.serving();
        (serving.traffic, serving.change)
    }

    /// The active revision.
    #[must_use]
    pub fn active(&self) -> Option<Arc<Revision>> {
        let serving = self.serving();
        serving.revisions.get(&serving.traffic.active).cloned()
    }

    /// A revision that new tasks go to.
    #[must_use]
    pub fn serves(&self, number: u64) -> Option<Arc<Revision>> {
        self.serving().revisions.get(&number).cloned()
    }

    /// Directs new tasks elsewhere, all at once. Running ones finish on their revision.
    pub fn cut_over(&self, traffic: Traffic, change: u64, revisions: Vec<Arc<Revision>>) {
        let serving = Serving::new(traffic, change, revisions);
        let places = serving.concurrency(self.concurrency_max);
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(serving);
        self.gate.resize(places);
    }

    /// Tasks of this agent that run on this host now.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// When the youngest task was enqueued that came here so far; nothing before the first.
    #[must_use]
    pub fn newest_enqueued_ms(&self) -> Option<UnixMs> {
        Some(self.newest_enqueued_ms.load(Ordering::Relaxed)).filter(|newest| *newest > 0)
    }

    /// Notes that a task came here.
    pub(super) fn took(&self, task: &Task) {
        self.newest_enqueued_ms.fetch_max(task.enqueued_at_ms, Ordering::Relaxed);
    }

    /// Waits until a task may run on the revision that it is pinned to, or on the one that its id goes to at that moment.
    pub(super) async fn admit(&self, task: &Task) -> Admission {
        loop {
            let number = self.revision_of(task);
            let Some(revision) = self.serves(number) else {
                return task.revision.map_or(Admission::Nowhere, Admission::Pinned);
            };
            let entered = self.enter().await;
            // While it waited, new tasks may have been directed elsewhere. The moment comes first: whatever is directed
            // elsewhere after the look, this task has started before.
            let started_at_ms = unix_ms_now();
            if task.revision.is_some() || self.revision_of(task) == number {
                return Admission::Entered(revision, entered, started_at_ms);
            }
        }
    }

    /// Waits until another task of the agent may run.
    pub(super) async fn enter(&self) -> Option<Entered> {
        self.gate.enter().await
    }

    fn revision_of(&self, task: &Task) -> u64 {
        task.revision.unwrap_or_else(|| self.serving().traffic.revision_of(&task.id))
    }

    /// A revision that is not among those that new tasks go to; nothing where the agent has no such one.
    pub(super) async fn pinned(&self, number: u64) -> Result<Option<Arc<Revision>>, String> {
        let mut pinned = self.pinned.lock().await;
        if let Some(revision) = pinned.get(&number) {
            return Ok(Some(Arc::clone(revision)));
        }
        let Some(revision) = self.shelf.revision(&self.name, number).await? else { return Ok(None) };
        pinned.insert(number, Arc::clone(&revision));
        if pinned.len() > PINNED_MAX {
            pinned.pop_first();
        }
        Ok(Some(revision))
    }

    pub(super) fn count_running(&self) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(&self.running))
    }

    /// Counts how a task's first attempt ended, while its agent's traffic is split: what a canary is judged by.
    pub(super) fn count_outcome(&self, task: &Task, revision: u64, completion: &Completion) {
        let serving = self.serving();
        if serving.traffic.canary.is_none() || task.attempt > 1 || task.revision.is_some() {
            return;
        }
        let failed = match completion.outcome {
            Outcome::Succeeded(_) => 0,
            Outcome::Retry { .. }
            | Outcome::Rejected { .. }
            | Outcome::Trapped { .. }
            | Outcome::TimedOut(_)
            | Outcome::OutOfMemory(_)
            | Outcome::LimitExceeded(_) => 1,
            // Not the revision's doing.
            Outcome::Expired
            | Outcome::Cancelled
            | Outcome::Interrupted
            | Outcome::HostError { .. }
            | Outcome::HostKiller => return,
        };
        if !serving.traffic.reaches(revision) {
            return;
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.change != serving.change {
            *counted = Counted { change: serving.change, tallies: BTreeMap::new() };
        }
        let tally = counted.tallies.entry(revision).or_default();
        *tally = tally.plus(Tally { succeeded: 1 - failed, failed });
    }

    /// What was counted since the last call, of the split that there is.
    #[must_use]
    pub fn take_counted(&self) -> Vec<(u64, Tally)> {
        let change = self.serving().change;
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *counted);
        if taken.change == change { taken.tallies.into_iter().collect() } else { Vec::new() }
    }

    fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts a task as running until it is dropped.
pub(super) struct Running(Arc<AtomicU64>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
