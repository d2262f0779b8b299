//! What a running task holds of the ledger.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::held::{Account, Holder};
use super::state::Task;
use super::{Inner, Leave, Need, Waiting, whole_pages};

/// A place among the running tasks, and their memory; both go back when it is dropped. It must outlive the instance.
#[derive(Debug)]
pub struct Admitted {
    inner: Arc<Inner>,
    number: u64,
    leave: Arc<Leave>,
    initial_bytes: u64,
    reserved_bytes: u64,
}

impl Admitted {
    pub(super) fn new(inner: Arc<Inner>, task: Task, need: Need) -> Self {
        let initial_bytes = whole_pages(need.initial_bytes);
        Self { inner, number: task.number, leave: task.leave, initial_bytes, reserved_bytes: task.reserved_bytes }
    }

    /// Says when the task is to be handed back for its memory.
    #[must_use]
    pub fn leave(&self) -> &Leave {
        &self.leave
    }

    /// The memory of the task's instance, to be grown while it runs.
    #[must_use]
    pub fn growth(&self) -> Growth {
        Growth { account: Account::open(Arc::clone(&self.inner), self.number, self.initial_bytes, self.reserved_bytes) }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.inner.end(self.number);
    }
}

/// How far the memory of an instance may grow without asking.
#[derive(Debug)]
pub struct Growth {
    account: Arc<Account>,
}

impl Growth {
    /// What the host is to hold for the same task.
    #[must_use]
    pub fn holder(&self) -> Holder {
        Holder::of(&self.account)
    }

    /// Whether the instance may have this many bytes in all without waiting; if so, it has them.
    pub fn try_grow_to(&mut self, bytes: u64) -> bool {
        self.account.try_grow_to(bytes)
    }

    /// Takes memory so that the instance may have this many bytes in all, waiting for other tasks to finish where there is
    /// no more. False where all that there is would not do.
    pub async fn grow_to(&mut self, bytes: u64) -> bool {
        if self.try_grow_to(bytes) {
            return true;
        }
        let (inner, number) = (&self.account.inner, self.account.number);
        let more = self.account.missing(bytes);
        let (answer, granted) = oneshot::channel();
        let waiting = Waiting::start(inner);
        inner.state().wait_to_grow(number, more, answer);
        // Stops waiting when the task is stopped.
        let waits = Growing { inner, number };
        inner.share_out();
        let granted = granted.await.unwrap_or(false);
        drop((waits, waiting));
        if granted {
            self.account.was_granted(more, bytes);
        }
        granted
    }

    /// What the process may have resident, in bytes.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.account.inner.budget_bytes
    }

    /// Whether the host was refused to hold something for the task while no other task ran.
    #[must_use]
    pub fn was_refused_alone(&self) -> bool {
        self.account.was_refused_alone()
    }

    /// The most that instance and host have held for the task at a time, in bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.account.peak_bytes()
    }

    /// The most that they have held or asked for.
    #[must_use]
    pub fn asked_bytes(&self) -> u64 {
        self.account.asked_bytes()
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.account.instance_is_gone();
    }
}

/// Waits to grow until it is dropped.
struct Growing<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        let granted = {
            let mut state = self.inner.state();
            if !state.stop_growing(self.number) {
                return;
            }
            state.share_out(self.inner.charged(), Instant::now())
        };
        self.inner.tell(granted);
    }
}
