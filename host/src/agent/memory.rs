//! Rationing of the host's memory budget among running instances.
//!
//! A task is admitted with a *reservation* of what its agent has been seen to use, not of its declared maximum, so that a
//! thousand small agents with generous limits fit. An instance that grows past its reservation takes more from the
//! ledger; where nothing is left it waits for others to finish.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// The unit of rationing: a wasm page. Finer would cost more than it saves.
const PAGE_BYTES: u64 = 64 << 10;

/// How much of the ledger the waiting tasks of one agent may take, in percent: a backlog of one agent leaves room for the
/// next task of another.
const SHARE_PERCENT: u32 = 75;

/// What one agent may take of the ledger with the reservations of its tasks.
#[derive(Debug)]
pub struct MemoryShare {
    pages: Semaphore,
    pages_max: u32,
    /// The ledger's count.
    waiting: Arc<AtomicU64>,
}

impl MemoryShare {
    /// Waits until the agent may reserve this many bytes. More than the share counts as all of it, so that a larger agent
    /// runs alone instead of never.
    pub async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        if let Some(taken) = self.try_take(bytes) {
            return Some(taken);
        }
        let _waiting = Waiting::start(&self.waiting);
        // Never closed.
        self.pages.acquire_many(self.pages_for(bytes)).await.ok()
    }

    /// As [`take`](Self::take), where that may be now.
    #[must_use]
    pub fn try_take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        self.pages.try_acquire_many(self.pages_for(bytes)).ok()
    }

    fn pages_for(&self, bytes: u64) -> u32 {
        pages(bytes).clamp(1, self.pages_max)
    }
}

/// The memory that guests may use together.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    pages: Arc<Semaphore>,
    pages_total: u32,
    waiting: Arc<AtomicU64>,
}

impl MemoryLedger {
    /// A ledger of this many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let pages_total = pages(bytes);
        Self { pages: Arc::new(Semaphore::new(pages_total as usize)), pages_total, waiting: Arc::default() }
    }

    /// Waits until this many bytes are free and takes them. More than there is in all counts as all of it, so that an
    /// agent larger than the budget runs alone instead of never.
    pub async fn reserve(&self, bytes: u64) -> MemoryLease {
        if let Some(lease) = self.try_reserve(bytes) {
            return lease;
        }
        let _waiting = Waiting::start(&self.waiting);
        // The semaphore is never closed; if it were, running without a reservation is the lesser evil.
        let permit = Arc::clone(&self.pages).acquire_many_owned(self.pages_for(bytes)).await.ok();
        MemoryLease { permit, ledger: self.clone() }
    }

    /// As [`reserve`](Self::reserve), where the memory is free now and nobody waits for it.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<MemoryLease> {
        let permit = Arc::clone(&self.pages).try_acquire_many_owned(self.pages_for(bytes)).ok()?;
        Some(MemoryLease { permit: Some(permit), ledger: self.clone() })
    }

    /// One agent's share.
    #[must_use]
    pub fn share(&self) -> MemoryShare {
        let pages_max = (self.pages_total / 100 * SHARE_PERCENT).max(1);
        MemoryShare { pages: Semaphore::new(pages_max as usize), pages_max, waiting: Arc::clone(&self.waiting) }
    }

    fn pages_for(&self, bytes: u64) -> u32 {
        pages(bytes).clamp(1, self.pages_total.max(1))
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        u64::from(self.pages_total) * PAGE_BYTES
    }

    /// Bytes taken now.
    #[must_use]
    pub fn bytes_reserved(&self) -> u64 {
        self.bytes_total() - self.pages.available_permits() as u64 * PAGE_BYTES
    }

    /// Tasks that wait for memory now: for their agent's share of it, to start or to grow.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Memory taken from the ledger; it goes back when the lease is dropped.
#[derive(Debug)]
pub struct MemoryLease {
    permit: Option<OwnedSemaphorePermit>,
    ledger: MemoryLedger,
}

impl MemoryLease {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.permit.as_ref().map_or(0, |permit| permit.num_permits() as u64 * PAGE_BYTES)
    }

    /// Makes the lease at least this large, waiting for other tasks to finish where the ledger is empty. A lease that
    /// already holds everything there is counts as large enough: the instance's own limit bounds it.
    pub async fn grow_to(&mut self, bytes: u64) {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = (pages(bytes).min(self.ledger.pages_total) as usize).saturating_sub(held);
        if wanted == 0 {
            return;
        }
        let more = self.ledger.reserve(wanted as u64 * PAGE_BYTES).await;
        self.absorb(more);
    }

    fn absorb(&mut self, mut more: Self) {
        match (&mut self.permit, more.permit.take()) {
            (Some(held), Some(more)) => held.merge(more),
            (held @ None, more) => *held = more,
            (Some(_), None) => {}
        }
    }
}

struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn start(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn one_agents_share_leaves_room_for_others() {
        let ledger = MemoryLedger::new(100 * PAGE_BYTES);
        let (greedy, other) = (Arc::new(ledger.share()), ledger.share());
        let mut taken = Vec::new();
        while let Some(share) = greedy.try_take(10 * PAGE_BYTES) {
            taken.push((share, ledger.try_reserve(10 * PAGE_BYTES).unwrap()));
        }
        assert_eq!(taken.len(), 7);
        assert!(other.try_take(10 * PAGE_BYTES).is_some() && ledger.try_reserve(10 * PAGE_BYTES).is_some());
        let waiting = tokio::spawn({
            let greedy = Arc::clone(&greedy);
            async move { greedy.take(10 * PAGE_BYTES).await.is_some() }
        });
        while ledger.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        taken.pop();
        assert!(waiting.await.unwrap());
        assert_eq!(ledger.waiting(), 0);
        assert!(greedy.try_take(10 * PAGE_BYTES).is_some());
        drop(taken);
        assert!(greedy.try_take(u64::MAX).is_some(), "an agent larger than its share runs alone");
    }

    use super::*;

    #[tokio::test]
    async fn what_is_reserved_comes_back() {
        let ledger = MemoryLedger::new(10 * PAGE_BYTES);
        let mut lease = ledger.reserve(3 * PAGE_BYTES).await;
        assert_eq!(ledger.bytes_reserved(), 3 * PAGE_BYTES);
        lease.grow_to(5 * PAGE_BYTES + 1).await;
        assert_eq!((lease.bytes(), ledger.bytes_reserved()), (6 * PAGE_BYTES, 6 * PAGE_BYTES));
        lease.grow_to(PAGE_BYTES).await;
        assert_eq!(lease.bytes(), 6 * PAGE_BYTES, "a lease never shrinks while it is held");
        drop(lease);
        assert_eq!(ledger.bytes_reserved(), 0);
    }

    #[tokio::test]
    async fn an_agent_larger_than_the_budget_runs_alone() {
        let ledger = MemoryLedger::new(2 * PAGE_BYTES);
        let lease = ledger.reserve(100 * PAGE_BYTES).await;
        assert_eq!(lease.bytes(), 2 * PAGE_BYTES);
        let waiting = tokio::spawn({
            let ledger = ledger.clone();
            async move { ledger.reserve(1).await.bytes() }
        });
        while ledger.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        drop(lease);
        assert_eq!(waiting.await.unwrap(), PAGE_BYTES);
    }
}
