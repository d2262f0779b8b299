//! What an agent has in hand on this host, from its queue and from its partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts deliveries that came and are not settled.
#[derive(Clone, Default)]
pub(in crate::broker::amqp) struct Hand(Arc<AtomicUsize>);

/// One of them, until this is dropped.
pub(super) struct InHand(Arc<AtomicUsize>);

impl Hand {
    pub(super) fn take(&self) -> InHand {
        self.0.fetch_add(1, Ordering::Relaxed);
        InHand(Arc::clone(&self.0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
