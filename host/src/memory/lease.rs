//! What a running task holds of the ledger.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

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
        Growth {
            inner: Arc::clone(&self.inner),
            number: self.number,
            initial_bytes: self.initial_bytes,
            reserved_bytes: self.reserved_bytes,
            grown_bytes: 0,
        }
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
    inner: Arc<Inner>,
    number: u64,
    initial_bytes: u64,
    /// Beyond the initial.
    reserved_bytes: u64,
    grown_bytes: u64,
}

impl Growth {
    /// Whether the instance may have this many bytes in all without waiting; if so, it has them.
    pub fn try_grow_to(&mut self, bytes: u64) -> bool {
        let grown = bytes.saturating_sub(self.initial_bytes);
        if whole_pages(grown) <= self.reserved_bytes || self.try_reserve(whole_pages(grown) - self.reserved_bytes) {
            self.has_grown(grown);
            return true;
        }
        false
    }

    /// Takes memory so that the instance may have this many bytes in all, waiting for other tasks to finish where there is
    /// no more. False where all that there is would not do.
    pub async fn grow_to(&mut self, bytes: u64) -> bool {
        if self.try_grow_to(bytes) {
            return true;
        }
        let grown = bytes.saturating_sub(self.initial_bytes);
        let more = whole_pages(grown).saturating_sub(self.reserved_bytes);
        let (answer, granted) = oneshot::channel();
        let waiting = Waiting::start(&self.inner);
        self.inner.state().wait_to_grow(self.number, more, answer);
        // Stops waiting when the task is stopped.
        let waits = Growing { inner: &self.inner, number: self.number };
        self.inner.share_out();
        let granted = granted.await.unwrap_or(false);
        drop((waits, waiting));
        if granted {
            self.reserved_bytes = self.reserved_bytes.saturating_add(more);
            self.has_grown(grown);
        }
        granted
    }

    /// What the process may have resident, in bytes.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.inner.budget_bytes
    }

    fn try_reserve(&mut self, more: u64) -> bool {
        let granted = self.inner.state().try_grow(self.number, more, self.inner.charged());
        if granted {
            self.reserved_bytes = self.reserved_bytes.saturating_add(more);
        }
        granted
    }

    fn has_grown(&mut self, grown: u64) {
        if let Some(more) = grown.checked_sub(self.grown_bytes) {
            self.inner.grown_bytes.fetch_add(more, Ordering::Relaxed);
            self.grown_bytes = grown;
        }
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.inner.grown_bytes.fetch_sub(self.grown_bytes, Ordering::Relaxed);
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
