//! One deployed agent on this host: which revision new tasks run on, and how many run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::agent::Revision;
use crate::task::AgentName;

/// The place of an agent on this host; deploys change what is in it while tasks run.
#[derive(Debug)]
pub struct AgentSlot {
    active: RwLock<Active>,
    concurrency_max: u32,
    running: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
struct Active {
    revision: Arc<Revision>,
    /// The manifest's `limits.concurrency`. Each revision brings its own, so that a deploy can change it: until the old
    /// revision's tasks have ended both count apart.
    permits: Arc<Semaphore>,
}

impl Active {
    fn new(revision: Arc<Revision>, concurrency_max: u32) -> Self {
        let concurrency = revision.manifest.limits.concurrency.min(concurrency_max);
        Self { permits: Arc::new(Semaphore::new(concurrency as usize)), revision }
    }
}

impl AgentSlot {
    /// A slot with its first revision, on a host that lets one agent run at most so many instances at once.
    #[must_use]
    pub fn new(revision: Arc<Revision>, concurrency_max: u32) -> Self {
        Self { active: RwLock::new(Active::new(revision, concurrency_max)), concurrency_max, running: Arc::default() }
    }

    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> AgentName {
        self.read().revision.agent.clone()
    }

    /// The revision that new tasks run on.
    #[must_use]
    pub fn active(&self) -> Arc<Revision> {
        self.read().revision
    }

    /// Directs new tasks to another revision. Running ones finish on theirs.
    pub fn cut_over(&self, revision: Arc<Revision>) {
        // A writer cannot leave a half-made value behind: one assignment.
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Active::new(revision, self.concurrency_max);
    }

    /// Tasks of this agent that run on this host now.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Waits until another instance of the agent may run.
    pub(super) async fn admit(&self, revision: &Arc<Revision>) -> Option<OwnedSemaphorePermit> {
        let active = self.read();
        // A deploy in between: the old revision's permits are gone, and its last task need not wait for the new one's.
        let permits = Arc::ptr_eq(&active.revision, revision).then_some(active.permits)?;
        permits.acquire_owned().await.ok()
    }

    pub(super) fn count_running(&self) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(&self.running))
    }

    fn read(&self) -> Active {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts a task as running until it is dropped.
pub(super) struct Running(Arc<AtomicU64>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
