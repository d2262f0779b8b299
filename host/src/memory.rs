//! The accountant of the process's memory: what is resident stays within the budget, whatever agents run.
//!
//! ```text
//!  budget ─┬─ headroom   what is touched between two looks at the process
//!          ├─ baseline   measured: what is resident and accounted nowhere, such as code, drivers, pools, caches
//!          ├─ charges    bodies and results in flight, known to the byte
//!          ├─ promises   memories as instances start with them, until they have shown what they use of them
//!          └─ reserved   memories as instances grow and what the host holds for them, or as their agent was seen to need
//! ```
//!
//! - An instance starts with far more memory than it touches (a Rust guest's stack alone is 1 MiB). That part is promised
//!   in full for a second only; what of it is resident by then is in the baseline. So a thousand tasks that wait take
//!   what they use, and not what they may use.
//! - Growth is taken to be used, and stays accounted. A task reserves what its agent was seen to need, takes more as it
//!   grows, and waits where there is no more: the oldest task first, before any new one is admitted.
//! - Where all wait for each other, the youngest is asked to leave; likewise where the process comes to be larger than its
//!   budget all the same, or has no room for what the host is to hold for a task: that one leaves. A task that is alone and
//!   still has not enough is refused the growth.
//! - New tasks are admitted in their order, those of one agent up to its share, so that its backlog holds nobody else up.
//!   A task that needs more than there is runs alone.
//!
//! `state` is the pure part; this file adds the lock and the waiting.

mod baseline;
mod held;
mod lease;
mod state;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use baseline::Baseline;
pub use held::{HELD_FROM_BYTES, Held, Holder, NoRoom};
pub use lease::{Admitted, Growth};
use state::{Grant, State, Task};

/// The unit of rationing: a wasm page. Finer would cost more than it saves.
const PAGE_BYTES: u64 = 64 << 10;
/// What of the budget is never given away, in percent: guests touch memory between two looks at the process, at up to a few
/// gigabytes a second, and drivers and the allocator hold some for moments.
const HEADROOM_PERCENT: u64 = 8;
/// From how much of the budget on running tasks are handed back, in percent: the headroom is nearly gone.
const OVERFULL_PERCENT: u64 = 97;
/// How much of the budget bodies that wait for their run may take, in percent. Past that, prefetch is lowered and what
/// comes even so goes back: what waits must leave room for what runs.
const BODIES_PERCENT: u64 = 20;
/// How long an instance's first memory counts in full. By then it has touched what it starts with; what it touches later is
/// measured.
const PROMISE: Duration = Duration::from_secs(1);
/// How long all tasks wait for each other before one has to leave: no longer than anybody would notice.
const STUCK_MAX: Duration = Duration::from_millis(100);
/// How long a task that is alone waits for memory to come back to the system before its growth is refused.
const ALONE_MAX: Duration = Duration::from_secs(3);

/// What a task is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of memory that its instance starts with, and need not touch.
    pub initial_bytes: u64,
    /// Bytes that it grows by.
    pub growth_bytes: u64,
}

/// What is accounted and measured now, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Reserved, promised and charged.
    pub reserved_bytes: u64,
    /// Measured, and accounted nowhere.
    pub baseline_bytes: u64,
    /// Tasks that wait to start or to grow.
    pub waiting: u64,
}

/// The memory and the instances that tasks share.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    budget_bytes: u64,
    state: Mutex<State>,
    /// Bodies and results.
    charged_bytes: AtomicU64,
    /// Those of them that wait for their run or are in it.
    bodies_bytes: AtomicU64,
    /// What instances grew by, and what the host holds for their tasks.
    grown_bytes: AtomicU64,
    /// Tasks that wait. Nobody has to look for what to do with memory that came free where there are none.
    waiting: AtomicUsize,
    baseline: Mutex<Baseline>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves plain numbers and collections, still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More than this is not to be resident.
    fn full_bytes(&self) -> u64 {
        self.budget_bytes / 100 * OVERFULL_PERCENT
    }

    fn charged(&self) -> u64 {
        self.charged_bytes.load(Ordering::Relaxed)
    }

    /// Gives what came free to whoever waits for it.
    fn share_out(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            let granted = self.state().share_out(self.charged(), Instant::now());
            self.tell(granted);
        }
    }

    /// Without the lock: a task that is gone by now gives back what it was granted.
    fn tell(&self, granted: Vec<Grant>) {
        for grant in granted {
            match grant {
                Grant::Admitted(task, answer) => {
                    if let Err(gone) = answer.send(task) {
                        self.end(gone.number);
                    }
                }
                // Its task is about to end, and gives everything back.
                Grant::Grown(grown, answer) => drop(answer.send(grown)),
            }
        }
    }

    fn end(&self, number: u64) {
        let granted = {
            let mut state = self.state();
            state.end(number);
            if self.waiting.load(Ordering::Acquire) == 0 {
                return;
            }
            state.share_out(self.charged(), Instant::now())
        };
        self.tell(granted);
    }
}

impl MemoryLedger {
    /// Accounts for a process that may have this many bytes resident and this many instances alive.
    #[must_use]
    pub fn new(budget_bytes: u64, instances_max: u32) -> Self {
        let capacity_bytes = budget_bytes / 100 * (100 - HEADROOM_PERCENT);
        let inner = Inner {
            budget_bytes,
            state: Mutex::new(State::new(capacity_bytes, instances_max)),
            charged_bytes: AtomicU64::new(0),
            bodies_bytes: AtomicU64::new(0),
            grown_bytes: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            baseline: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// One agent's share.
    #[must_use]
    pub fn share(&self) -> MemoryShare {
        MemoryShare { number: self.inner.state().open_share(), inner: Arc::clone(&self.inner) }
    }

    /// Waits until a task may start.
    pub async fn admit(&self, share: &MemoryShare, need: Need) -> Option<Admitted> {
        if let Some(admitted) = self.try_admit(share, need) {
            return Some(admitted);
        }
        let (answer, admitted) = oneshot::channel();
        // Counted before it stands in the queue: whoever frees memory after that looks there.
        let waiting = Waiting::start(&self.inner);
        let ticket = self.inner.state().queue(share.number, need, answer);
        let mut queued = Queued { inner: &self.inner, share: share.number, ticket, admitted, is_done: false };
        self.inner.share_out();
        // The sender is dropped with the share only, when nobody can wait for it any more.
        let admitted = (&mut queued.admitted).await.ok();
        queued.is_done = true;
        drop((queued, waiting));
        admitted.map(|task| Admitted::new(Arc::clone(&self.inner), task, need))
    }

    /// As [`admit`](Self::admit), where nobody waits and there is room.
    #[must_use]
    pub fn try_admit(&self, share: &MemoryShare, need: Need) -> Option<Admitted> {
        if self.inner.waiting.load(Ordering::Acquire) > 0 {
            return None;
        }
        let task = self.inner.state().try_admit(share.number, need, self.inner.charged(), Instant::now())?;
        Some(Admitted::new(Arc::clone(&self.inner), task, need))
    }

    /// Accounts for bytes that are there: of results that wait to be sent, for example.
    #[must_use]
    pub fn charge(&self, bytes: u64) -> Charge {
        Charge::new(&self.inner, bytes, false)
    }

    /// As [`charge`](Self::charge), for the body of a task that waits for its run.
    #[must_use]
    pub fn charge_body(&self, bytes: u64) -> Charge {
        Charge::new(&self.inner, bytes, true)
    }

    /// Bytes that bodies may take beside those that are there: below zero they are too many.
    #[must_use]
    pub fn room_for_bodies(&self) -> i64 {
        let (max, held) = (self.bodies_bytes_max(), self.inner.bodies_bytes.load(Ordering::Relaxed));
        i64::try_from(max).unwrap_or(i64::MAX).saturating_sub_unsigned(held)
    }

    /// Bytes that bodies may take together.
    #[must_use]
    pub fn bodies_bytes_max(&self) -> u64 {
        self.inner.budget_bytes / 100 * BODIES_PERCENT
    }

    /// Bytes that the process may keep resident.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.inner.budget_bytes
    }

    /// Takes note of what the process keeps resident, and decides what only the passing of time decides. Answers whether
    /// the process is about to be larger than its budget.
    pub fn measured(&self, resident_bytes: u64, now: Instant) -> bool {
        let known = self.inner.charged().saturating_add(self.inner.grown_bytes.load(Ordering::Relaxed));
        let (baseline, above_idle) = {
            let mut baseline = self.inner.baseline.lock().unwrap_or_else(PoisonError::into_inner);
            baseline.sample(now, resident_bytes, known)
        };
        let is_overfull = resident_bytes > self.inner.full_bytes();
        let granted = {
            let mut state = self.inner.state();
            state.measured(baseline, above_idle);
            if is_overfull {
                state.ask_one_to_leave(now);
            }
            state.tick(self.inner.charged(), now)
        };
        self.inner.tell(granted);
        is_overfull
    }

    /// What is accounted and measured now.
    #[must_use]
    pub fn accounts(&self) -> Accounts {
        let state = self.inner.state();
        Accounts {
            reserved_bytes: state.reserved_bytes().saturating_add(self.inner.charged()),
            baseline_bytes: state.baseline_bytes(),
            waiting: self.inner.waiting.load(Ordering::Relaxed) as u64,
        }
    }
}

/// What one agent may take of the ledger with its tasks.
#[derive(Debug)]
pub struct MemoryShare {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.inner.state().close_share(self.number);
    }
}

/// Bytes that are accounted for until this is dropped.
#[derive(Debug)]
pub struct Charge {
    inner: Arc<Inner>,
    bytes: u64,
    is_body: bool,
}

impl Charge {
    fn new(inner: &Arc<Inner>, bytes: u64, is_body: bool) -> Self {
        inner.charged_bytes.fetch_add(bytes, Ordering::Relaxed);
        if is_body {
            inner.bodies_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Self { inner: Arc::clone(inner), bytes, is_body }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        self.inner.charged_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.is_body {
            self.inner.bodies_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        self.inner.share_out();
    }
}

/// Says that a task is to be handed back for its memory.
#[derive(Debug, Default)]
pub struct Leave {
    asked: Notify,
}

impl Leave {
    fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until the task is asked to leave.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }
}

/// Counts a task as waiting until it is dropped.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn start(inner: &'a Inner) -> Self {
        inner.waiting.fetch_add(1, Ordering::AcqRel);
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Leaves the queue when a task stops waiting in it.
struct Queued<'a> {
    inner: &'a Inner,
    share: u64,
    ticket: u64,
    admitted: oneshot::Receiver<Task>,
    is_done: bool,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        self.admitted.close();
        // It may have been admitted just now, and nobody else knows.
        if let Ok(task) = self.admitted.try_recv() {
            return self.inner.end(task.number);
        }
        self.inner.state().leave_queue(self.share, self.ticket);
        // Others may have been waiting behind it.
        self.inner.share_out();
    }
}

fn whole_pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES)
}
