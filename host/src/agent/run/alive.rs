//! Instances that live.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts an instance as alive until it is dropped. A task that waits for its memory has a slot and no instance yet.
pub(super) struct Alive<'a>(&'a AtomicU64);

impl<'a> Alive<'a> {
    pub(super) fn start(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
