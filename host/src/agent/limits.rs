//! What one instance may use: memory and tables through wasmtime's limiter, processor time through the epoch callback.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wasmtime::ResourceLimiterAsync;

use super::turns::Turn;
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

/// The times of one run.
///
/// *Processor time* is the time in which its future is being polled. While it waits for a database or a timer it is not
/// polled and pays nothing. What the host does for it between two waits counts, such as copying a key's value into its
/// memory: it has the guests' thread to itself for that time, at the guest's request, and a guest that does nothing but call
/// has to come to its limit too. wasmtime's call hooks could tell the two apart, at the price of two looks at the clock in
/// each call.
///
/// *Waiting time* is what it waits for memory in the middle of its run: it counts against no limit.
///
/// Written and read by the thread that polls; atomics only because the future may move between threads.
#[derive(Debug)]
pub(super) struct Clock {
    created: Instant,
    spent_ns: AtomicU64,
    /// When the current poll began, in ns since `created`; `u64::MAX` between polls.
    polled_since_ns: AtomicU64,
    waited_ns: AtomicU64,
    /// When the current wait began, likewise.
    waiting_since_ns: AtomicU64,
    /// By which clock the current poll is measured.
    by_thread: AtomicBool,
    pub(super) turn: Turn,
}

/// What a poll's time is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MeasuredBy {
    /// The wall clock, which costs next to nothing. Good where a poll is short, or has its core for itself.
    Wall,
    /// The processor time of the thread that polls, which takes a call of the system to tell.
    Thread,
}

const NEVER: u64 = u64::MAX;

impl Clock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            created: Instant::now(),
            spent_ns: AtomicU64::new(0),
            polled_since_ns: AtomicU64::new(NEVER),
            waited_ns: AtomicU64::new(0),
            waiting_since_ns: AtomicU64::new(NEVER),
            by_thread: AtomicBool::new(false),
            turn: Turn::default(),
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }

    /// Now, as polls are measured.
    fn now_by_ns(&self, by: MeasuredBy) -> u64 {
        match by {
            MeasuredBy::Wall => self.now_ns(),
            MeasuredBy::Thread => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                let seconds = Duration::from_secs(now.tv_sec.unsigned_abs());
                let now = seconds.saturating_add(Duration::from_nanos(now.tv_nsec.unsigned_abs()));
                u64::try_from(now.as_nanos()).unwrap_or(NEVER - 1)
            }
        }
    }

    /// How long it has waited for memory.
    pub(super) fn waited(&self) -> Duration {
        so_far(&self.waited_ns, &self.waiting_since_ns, || self.now_ns())
    }

    /// It waits for memory until this is dropped.
    fn waiting(&self) -> WaitingForMemory<'_> {
        self.waiting_since_ns.store(self.now_ns(), Ordering::Relaxed);
        WaitingForMemory(self)
    }

    /// Processor time so far, the current poll included where the thread that polls asks.
    pub(super) fn spent(&self) -> Duration {
        let by = if self.by_thread.load(Ordering::Relaxed) { MeasuredBy::Thread } else { MeasuredBy::Wall };
        so_far(&self.spent_ns, &self.polled_since_ns, || self.now_by_ns(by))
    }

    /// Counts the time of a poll.
    pub(super) fn count<T>(&self, by: MeasuredBy, poll: impl FnOnce() -> T) -> T {
        let began_ns = self.now_by_ns(by);
        self.by_thread.store(by == MeasuredBy::Thread, Ordering::Relaxed);
        self.polled_since_ns.store(began_ns, Ordering::Relaxed);
        let polled = poll();
        let took_ns = self.now_by_ns(by).saturating_sub(began_ns);
        self.polled_since_ns.store(NEVER, Ordering::Relaxed);
        self.spent_ns.fetch_add(took_ns, Ordering::Relaxed);
        polled
    }

    /// Waits for a future no longer than this, apart from the time in which it waits for memory. Nothing if it takes longer.
    pub(super) async fn within<F: Future>(&self, timeout: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
        let began = tokio::time::Instant::now();
        let mut until = began + timeout;
        loop {
            if let Ok(output) = tokio::time::timeout_at(until, future.as_mut()).await {
                return Some(output);
            }
            let later = began + timeout.saturating_add(self.waited());
            // A wait that has just begun is not worth another look at once.
            if later <= until + WAIT_MIN {
                return None;
            }
            until = later;
        }
    }
}

/// The time so far, the current stretch included.
fn so_far(total_ns: &AtomicU64, since_ns: &AtomicU64, now_ns: impl FnOnce() -> u64) -> Duration {
    let since_ns = since_ns.load(Ordering::Relaxed);
    let current_ns = if since_ns == NEVER { 0 } else { now_ns().saturating_sub(since_ns) };
    Duration::from_nanos(total_ns.load(Ordering::Relaxed).saturating_add(current_ns))
}

/// The shortest wait for memory that moves a time limit.
const WAIT_MIN: Duration = Duration::from_millis(1);

struct WaitingForMemory<'a>(&'a Clock);

impl Drop for WaitingForMemory<'_> {
    fn drop(&mut self) {
        let since_ns = self.0.waiting_since_ns.swap(NEVER, Ordering::Relaxed);
        if since_ns != NEVER {
            self.0.waited_ns.fetch_add(self.0.now_ns().saturating_sub(since_ns), Ordering::Relaxed);
        }
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

    #[test]
    fn only_polling_counts_as_processor_time() {
        let clock = Clock::new();
        for by in [MeasuredBy::Wall, MeasuredBy::Thread] {
            let before = clock.spent();
            clock.count(by, || {
                while clock.spent() == before {
                    std::hint::spin_loop();
                }
            });
            let after = clock.spent();
            assert!(after > before, "what it computes, {by:?}");
            // Longer than what was counted, by any clock.
            let (waits_since, counted) = (Instant::now(), after - before);
            while waits_since.elapsed() < counted * 10 {
                std::hint::spin_loop();
            }
            assert_eq!(clock.spent(), after, "waiting is free, {by:?}");
        }
    }

    #[test]
    fn a_thread_that_rests_has_no_processor_time() {
        let clock = Clock::new();
        let rested = Duration::from_millis(50);
        clock.count(MeasuredBy::Thread, || std::thread::sleep(rested));
        assert!(clock.spent() < rested, "{:?}", clock.spent());
    }

    #[tokio::test]
    async fn waiting_for_memory_uses_up_no_time() {
        let clock = Clock::new();
        let sleep = || tokio::time::sleep(Duration::from_millis(5));
        assert_eq!(clock.within(Duration::ZERO, std::pin::pin!(sleep())).await, None);
        drop(clock.waiting());
        assert!(clock.waited() < Duration::from_secs(60), "a wait that is over is not counted on");
        clock.waited_ns.fetch_add(3_600_000_000_000, Ordering::Relaxed);
        assert_eq!(
            clock.within(Duration::ZERO, std::pin::pin!(sleep())).await,
            Some(()),
            "an hour, and no time of its own"
        );
        assert!(clock.waited() >= Duration::from_secs(3_600));
    }
}
