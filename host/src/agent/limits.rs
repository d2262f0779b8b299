//! What one instance may use: memory and tables through wasmtime's limiter, processor time through the epoch callback.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiterAsync;

use super::memory::MemoryLease;

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
    limit_bytes: usize,
    refused: bool,
    lease: MemoryLease,
}

impl MemoryMeter {
    pub(super) fn new(limit_bytes: usize, lease: MemoryLease) -> Self {
        Self { used_bytes: 0, peak_bytes: 0, limit_bytes, refused: false, lease }
    }

    /// Largest sum so far.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak_bytes as u64
    }

    /// Whether growth was refused for the instance's own limit: a trap after that is `out-of-memory`.
    pub(super) fn was_refused(&self) -> bool {
        self.refused
    }

    async fn grow(&mut self, more_bytes: usize) -> bool {
        let Some(used_bytes) = self.used_bytes.checked_add(more_bytes).filter(|used| *used <= self.limit_bytes) else {
            self.refused = true;
            return false;
        };
        self.lease.grow_to(used_bytes as u64).await;
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

/// Processor time of one run: the time in which its future is being polled. While it waits for a database or a timer
/// it is not polled and pays nothing.
///
/// Written and read by the thread that polls; atomics only because the future may move between threads.
#[derive(Debug)]
pub(super) struct CpuMeter {
    created: Instant,
    spent_ns: AtomicU64,
    /// When the current poll began, in ns since `created`; `u64::MAX` between polls.
    polled_since_ns: AtomicU64,
}

const NOT_POLLED: u64 = u64::MAX;

impl CpuMeter {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            created: Instant::now(),
            spent_ns: AtomicU64::new(0),
            polled_since_ns: AtomicU64::new(NOT_POLLED),
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(NOT_POLLED - 1)
    }

    /// Processor time so far, the current poll included.
    pub(super) fn spent(&self) -> Duration {
        let since_ns = self.polled_since_ns.load(Ordering::Relaxed);
        let current_ns = if since_ns == NOT_POLLED { 0 } else { self.now_ns().saturating_sub(since_ns) };
        Duration::from_nanos(self.spent_ns.load(Ordering::Relaxed).saturating_add(current_ns))
    }

    /// Measures a future. By reference: this future would hold it twice, and it is large.
    pub(super) async fn measure<F: Future>(self: Arc<Self>, mut future: Pin<&mut F>) -> F::Output {
        std::future::poll_fn(move |context: &mut Context<'_>| -> Poll<F::Output> {
            let began_ns = self.now_ns();
            self.polled_since_ns.store(began_ns, Ordering::Relaxed);
            let poll = future.as_mut().poll(context);
            let took_ns = self.now_ns().saturating_sub(began_ns);
            self.polled_since_ns.store(NOT_POLLED, Ordering::Relaxed);
            self.spent_ns.fetch_add(took_ns, Ordering::Relaxed);
            poll
        })
        .await
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
    use super::super::memory::MemoryLedger;
    use super::*;

    #[tokio::test]
    async fn memories_and_tables_are_summed() {
        let ledger = MemoryLedger::new(10 << 20);
        let mut meter = MemoryMeter::new(1 << 20, ledger.reserve(0).await);
        assert!(meter.memory_growing(0, 512 << 10, None).await.unwrap());
        assert!(meter.memory_growing(0, 256 << 10, None).await.unwrap(), "a second memory");
        assert!(meter.table_growing(0, 32 << 10, None).await.unwrap(), "256 KiB of table");
        assert!(!meter.was_refused());
        assert!(!meter.memory_growing(512 << 10, 576 << 10, None).await.unwrap());
        assert!(meter.was_refused());
        assert_eq!(meter.peak_bytes(), 1 << 20);
        assert!(ledger.bytes_reserved() >= 1 << 20);
    }

    #[tokio::test]
    async fn growth_past_the_modules_own_maximum_is_not_the_limits_fault() {
        let ledger = MemoryLedger::new(10 << 20);
        let mut meter = MemoryMeter::new(1 << 20, ledger.reserve(0).await);
        assert!(!meter.memory_growing(0, 128 << 10, Some(64 << 10)).await.unwrap());
        assert!(!meter.was_refused());
    }

    #[tokio::test]
    async fn only_polling_counts_as_processor_time() {
        let meter = CpuMeter::new();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let measured = tokio::spawn({
            let meter = Arc::clone(&meter);
            async move { meter.measure(std::pin::pin!(async move { held.await.unwrap() })).await }
        });
        while meter.spent().is_zero() {
            tokio::task::yield_now().await;
        }
        let first_poll = meter.spent();
        // Long enough that counting the wait would show, whatever the machine's mood.
        let waited_since = Instant::now();
        while waited_since.elapsed() < first_poll * 10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(meter.spent(), first_poll, "waiting is free");
        release.send(()).unwrap();
        measured.await.unwrap();
        assert!(meter.spent() > first_poll);
    }
}
