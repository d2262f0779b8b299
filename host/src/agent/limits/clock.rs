//! The times of one run: what it computed, and what it waited for memory.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use wasmtime::CallHook;

use crate::agent::turns::Turn;

/// The times of one run.
///
/// *Processor time* is the time in which it computes itself: its future is being polled, and the host does not work for it. What
/// the host's functions do does not count, WASI's included: a guest that does nothing but call them comes to its wall-clock
/// limit. While it waits for a database, a timer or its turn (`turns`) it is not polled and pays nothing.
///
/// *Waiting time* is what it waits for memory in the middle of its run: it counts against no limit.
///
/// Written and read by the thread that polls; atomics only because the future may move between threads.
#[derive(Debug)]
pub(in crate::agent) struct Clock {
    began: Instant,
    spent_ns: AtomicU64,
    /// Since when it computes, as [`MeasuredBy::now`] has it; `u64::MAX` where it does not.
    computes_since: AtomicU64,
    waited_ns: AtomicU64,
    /// When the current wait began, likewise.
    waiting_since_ns: AtomicU64,
    /// By which clock the current poll is measured.
    by_thread: AtomicBool,
    is_polled: AtomicBool,
    /// Whether it is past a call into the guest, and not past one out of it.
    in_guest: AtomicBool,
    pub(in crate::agent) turn: Turn,
}

/// What a poll's time is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum MeasuredBy {
    /// The processor's counter, which costs next to nothing. Good where a poll is short, or has its core for itself.
    Wall,
    /// The processor time of the thread that polls, which takes a call of the system to tell.
    Thread,
}

const NEVER: u64 = u64::MAX;

/// The processor's own counter, and where it has none to rely on, the system's clock. An instance is entered and left dozens of times
/// for a task that takes microseconds: the system's clock at each is a twentieth of that, and takes more than twice as long to read.
static COUNTER: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

impl MeasuredBy {
    /// Now: in the counter's own unit, or in ns of the thread.
    fn now(self) -> u64 {
        match self {
            Self::Wall => COUNTER.raw(),
            Self::Thread => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                let seconds = Duration::from_secs(now.tv_sec.unsigned_abs());
                let now = seconds.saturating_add(Duration::from_nanos(now.tv_nsec.unsigned_abs()));
                u64::try_from(now.as_nanos()).unwrap_or(NEVER - 1)
            }
        }
    }

    /// Nanoseconds from one [`now`](Self::now) to another.
    fn between_ns(self, since: u64, now: u64) -> u64 {
        match self {
            Self::Wall => COUNTER.delta_as_nanos(since, now),
            Self::Thread => now.saturating_sub(since),
        }
    }
}

/// Has the counter's unit measured, which takes a millisecond, before a task waits for that.
pub(in crate::agent) fn make_ready() {
    LazyLock::force(&COUNTER);
}

impl Clock {
    pub(in crate::agent) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            spent_ns: AtomicU64::new(0),
            computes_since: AtomicU64::new(NEVER),
            waited_ns: AtomicU64::new(0),
            waiting_since_ns: AtomicU64::new(NEVER),
            by_thread: AtomicBool::new(false),
            is_polled: AtomicBool::new(false),
            in_guest: AtomicBool::new(false),
            turn: Turn::default(),
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }

    /// When the run began.
    pub(in crate::agent) fn began(&self) -> Instant {
        self.began
    }

    /// How long it has waited for memory.
    pub(in crate::agent) fn waited(&self) -> Duration {
        so_far(&self.waited_ns, &self.waiting_since_ns, |since_ns| self.now_ns().saturating_sub(since_ns))
    }

    /// It waits for memory until this is dropped.
    pub(super) fn waiting(&self) -> WaitingForMemory<'_> {
        self.waiting_since_ns.store(self.now_ns(), Ordering::Relaxed);
        WaitingForMemory(self)
    }

    fn measured_by(&self) -> MeasuredBy {
        if self.by_thread.load(Ordering::Relaxed) { MeasuredBy::Thread } else { MeasuredBy::Wall }
    }

    /// Processor time so far, the current poll included where the thread that polls asks.
    pub(in crate::agent) fn spent(&self) -> Duration {
        let by = self.measured_by();
        so_far(&self.spent_ns, &self.computes_since, |since| by.between_ns(since, by.now()))
    }

    /// Counts the time of a poll.
    pub(in crate::agent) fn count<T>(&self, by: MeasuredBy, poll: impl FnOnce() -> T) -> T {
        self.by_thread.store(by == MeasuredBy::Thread, Ordering::Relaxed);
        self.is_polled.store(true, Ordering::Relaxed);
        self.go_on();
        let polled = poll();
        self.halt();
        self.is_polled.store(false, Ordering::Relaxed);
        polled
    }

    /// It goes from the host to the guest or back: for wasmtime's call hook.
    pub(in crate::agent) fn crossed(&self, hook: CallHook) {
        self.in_guest.store(hook.exiting_host(), Ordering::Relaxed);
        if hook.exiting_host() {
            self.go_on();
        } else {
            self.halt();
        }
    }

    /// It computes from now on, unless it is not polled or the host works for it.
    fn go_on(&self) {
        if self.is_polled.load(Ordering::Relaxed) && self.in_guest.load(Ordering::Relaxed) {
            self.computes_since.store(self.measured_by().now(), Ordering::Relaxed);
        }
    }

    /// It does not, from now on.
    fn halt(&self) {
        let since = self.computes_since.load(Ordering::Relaxed);
        if since != NEVER {
            self.computes_since.store(NEVER, Ordering::Relaxed);
            let by = self.measured_by();
            let took_ns = by.between_ns(since, by.now());
            // Nobody else writes it: no locked addition at each crossing.
            let spent_ns = self.spent_ns.load(Ordering::Relaxed).saturating_add(took_ns);
            self.spent_ns.store(spent_ns, Ordering::Relaxed);
        }
    }

    /// Waits for a future no longer than this, apart from the time in which it waits for memory. Nothing if it takes longer.
    pub(in crate::agent) async fn within<F: Future>(
        &self,
        timeout: Duration,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
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
fn so_far(total_ns: &AtomicU64, since: &AtomicU64, until_now_ns: impl FnOnce(u64) -> u64) -> Duration {
    let since = since.load(Ordering::Relaxed);
    let current_ns = if since == NEVER { 0 } else { until_now_ns(since) };
    Duration::from_nanos(total_ns.load(Ordering::Relaxed).saturating_add(current_ns))
}

/// The shortest wait for memory that moves a time limit.
const WAIT_MIN: Duration = Duration::from_millis(1);

pub(super) struct WaitingForMemory<'a>(&'a Clock);

impl Drop for WaitingForMemory<'_> {
    fn drop(&mut self) {
        let since_ns = self.0.waiting_since_ns.swap(NEVER, Ordering::Relaxed);
        if since_ns != NEVER {
            self.0.waited_ns.fetch_add(self.0.now_ns().saturating_sub(since_ns), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock whose guest has been called.
    fn in_guest() -> Arc<Clock> {
        let clock = Clock::new();
        clock.crossed(CallHook::CallingWasm);
        clock
    }

    #[test]
    fn only_polling_counts_as_processor_time() {
        let clock = in_guest();
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
    fn what_the_host_does_meanwhile_does_not_count() {
        let clock = in_guest();
        for by in [MeasuredBy::Wall, MeasuredBy::Thread] {
            let computes = || {
                let before = clock.spent();
                while clock.spent() == before {
                    std::hint::spin_loop();
                }
            };
            clock.count(by, || {
                computes();
                clock.crossed(CallHook::CallingHost);
                let before = clock.spent();
                let (works_since, counted) = (Instant::now(), before);
                while works_since.elapsed() < counted * 10 {
                    std::hint::spin_loop();
                }
                assert_eq!(clock.spent(), before, "the host works, {by:?}");
                // The host asks the guest's allocator for room.
                clock.crossed(CallHook::CallingWasm);
                computes();
                clock.crossed(CallHook::ReturningFromWasm);
                let before = clock.spent();
                while by.now() == by.now() {}
                assert_eq!(clock.spent(), before, "and works on, {by:?}");
                clock.crossed(CallHook::ReturningFromHost);
                computes();
            });
        }
    }

    #[test]
    fn a_call_that_waits_counts_in_none_of_its_polls() {
        let clock = in_guest();
        clock.count(MeasuredBy::Wall, || clock.crossed(CallHook::CallingHost));
        let before = clock.spent();
        clock.count(MeasuredBy::Wall, std::thread::yield_now);
        assert_eq!(clock.spent(), before);
        // The guest is dropped, while nobody polls it.
        clock.crossed(CallHook::ReturningFromHost);
        assert_eq!((clock.spent(), clock.spent()), (before, before));
        clock.count(MeasuredBy::Wall, || while clock.spent() == before {});
    }

    #[test]
    fn a_thread_that_rests_has_no_processor_time() {
        let clock = in_guest();
        let rested = Duration::from_millis(10);
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
