//! Whether everything that an agent's consumer consists of is registered at the broker.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The parts together.
pub(in crate::broker::amqp) struct Live {
    parts: Mutex<Parts>,
    all: watch::Sender<bool>,
}

struct Parts {
    queue: bool,
    partitions: bool,
}

/// One part, to be set by whoever keeps it.
pub(in crate::broker::amqp) struct Part {
    live: Arc<Live>,
    field: fn(&mut Parts) -> &mut bool,
}

impl Live {
    pub(in crate::broker::amqp) fn new() -> (Arc<Self>, watch::Receiver<bool>) {
        let (all, receiver) = watch::channel(false);
        // Partitions count from the moment when they are consumed: an agent without any misses nothing.
        (Arc::new(Self { parts: Mutex::new(Parts { queue: false, partitions: true }), all }), receiver)
    }

    /// The consumer of a queue.
    pub(in crate::broker::amqp) fn queue(self: &Arc<Self>) -> Part {
        Part { live: Arc::clone(self), field: |parts| &mut parts.queue }
    }

    /// The consumers of the agent's partitions.
    pub(in crate::broker::amqp) fn partitions(self: &Arc<Self>) -> Part {
        Part { live: Arc::clone(self), field: |parts| &mut parts.partitions }
    }
}

impl Part {
    pub(super) fn set(&self, live: bool) {
        let mut parts = self.live.parts.lock().unwrap_or_else(PoisonError::into_inner);
        *(self.field)(&mut parts) = live;
        self.live.all.send_replace(parts.queue && parts.partitions);
    }
}
