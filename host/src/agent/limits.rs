//! What one instance may use: memory and tables through wasmtime's limiter, processor time through the epoch callback.

mod clock;

use std::sync::Arc;

use wasmtime::ResourceLimiterAsync;

pub(super) use self::clock::{Clock, MeasuredBy, make_ready};
use crate::memory::Growth;

/// Bytes of one table element on a 64-bit host.
const TABLE_ELEMENT_BYTES: usize = 8;
/// Core instances, tables and memories of one store; see the engine's own limits per component.
const INSTANCES_MAX: usize = 30;
const TABLES_MAX: usize = 10;
const MEMORIES_MAX: usize = 4;

/// Sums an instance's memories and tables against its limit. wasmtime's own `StoreLimits` is per memory: two memories
/// would double it.
#[derive(Debug)]
pub(super) struct MemoryMeter {
    used_bytes: usize,
    peak_bytes: usize,
    /// What it asked for last, had or not.
    asked_bytes: usize,
    limit_bytes: usize,
    refused: Option<Refused>,
    growth: Growth,
    clock: Arc<Clock>,
}

/// Why an instance was refused memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It would have passed its own limit.
    Limit,
    /// All the memory that tasks may have together would not do.
    Budget,
}

impl MemoryMeter {
    pub(super) fn new(limit_bytes: usize, growth: Growth, clock: Arc<Clock>) -> Self {
        Self { used_bytes: 0, peak_bytes: 0, asked_bytes: 0, limit_bytes, refused: None, growth, clock }
    }

    /// The sum now.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes as u64
    }

    /// The most that it and the host for it had or asked for, within its limit and the host's caps.
    pub(super) fn asked_bytes(&self) -> u64 {
        self.growth.asked_bytes().max(self.asked_bytes as u64)
    }

    /// The most that it and the host for it had at a time.
    pub(super) fn peak_with_held_bytes(&self) -> u64 {
        self.growth.peak_bytes().max(self.peak_bytes())
    }

    /// Largest sum so far.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak_bytes as u64
    }

    /// Whether and why growth was refused: a trap after that is `out-of-memory`.
    pub(super) fn was_refused(&self) -> Option<Refused> {
        if self.growth.was_refused_alone() { Some(Refused::Budget) } else { self.refused }
    }

    /// What the process may have resident, in bytes.
    pub(super) fn budget_bytes(&self) -> u64 {
        self.growth.budget_bytes()
    }

    async fn grow(&mut self, more_bytes: usize) -> bool {
        let Some(used_bytes) = self.used_bytes.checked_add(more_bytes).filter(|used| *used <= self.limit_bytes) else {
            self.refused = Some(Refused::Limit);
            return false;
        };
        self.asked_bytes = self.asked_bytes.max(used_bytes);
        let may = self.growth.try_grow_to(used_bytes as u64) || {
            // Whatever becomes of it, the wait is not the agent's.
            let _waiting = self.clock.waiting();
            self.growth.grow_to(used_bytes as u64).await
        };
        if !may {
            self.refused = Some(Refused::Budget);
            return false;
        }
        self.used_bytes = used_bytes;
        self.peak_bytes = self.peak_bytes.max(used_bytes);
        true
    }
}

#[async_trait::async_trait]
impl ResourceLimiterAsync for MemoryMeter {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current)).await)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES)).await)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

/// Why the host stopped a guest, carried through wasmtime as the error of the call.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    #[error("the agent used up its processor time")]
    CpuTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Admitted, MemoryLedger, Need};

    async fn admitted(budget_bytes: u64) -> (MemoryLedger, Admitted) {
        let ledger = MemoryLedger::new(budget_bytes, 10);
        let admitted = ledger.admit(&ledger.share(), Need::default()).await.unwrap();
        (ledger, admitted)
    }

    #[tokio::test]
    async fn memories_and_tables_are_summed() {
        let (ledger, admitted) = admitted(10 << 20).await;
        let mut meter = MemoryMeter::new(1 << 20, admitted.growth(), Clock::new());
        assert!(meter.memory_growing(0, 512 << 10, None).await.unwrap());
        assert!(meter.memory_growing(0, 256 << 10, None).await.unwrap(), "a second memory");
        assert!(meter.table_growing(0, 32 << 10, None).await.unwrap(), "256 KiB of table");
        assert_eq!(meter.was_refused(), None);
        assert!(!meter.memory_growing(512 << 10, 576 << 10, None).await.unwrap());
        assert_eq!(meter.was_refused(), Some(Refused::Limit));
        assert_eq!(meter.peak_bytes(), 1 << 20);
        assert_eq!(ledger.accounts().reserved_bytes, 1 << 20);
    }

    #[tokio::test]
    async fn growth_past_the_modules_own_maximum_is_not_the_limits_fault() {
        let (_ledger, admitted) = admitted(10 << 20).await;
        let mut meter = MemoryMeter::new(1 << 20, admitted.growth(), Clock::new());
        assert!(!meter.memory_growing(0, 128 << 10, Some(64 << 10)).await.unwrap());
        assert_eq!(meter.was_refused(), None);
    }
}
