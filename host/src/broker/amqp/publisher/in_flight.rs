//! How many messages are published and not confirmed: to each queue, and to each kind of queue.
//!
//! Apart, because a queue that answers nothing (its node is away, or it lost its leader) keeps what was sent to it until the
//! confirm is given up. What goes elsewhere must not wait for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::broker::topology;

/// Messages in flight to each kind of queue. One confirm at a time gives 3 thousand messages a second, 256 in flight give
/// 40 thousand, and more gives no more (measured); four times that, so that a queue or two that answer nothing leave enough.
const KIND_MAX: u32 = 1_024;

/// Messages in flight to each queue.
const QUEUE_MAX: usize = 256;

/// Queues whose places are remembered when nothing is in flight to them; an agent can name any number.
const QUEUES_IDLE_MAX: usize = 1_024;

/// Places for messages in flight.
pub(super) struct InFlight {
    tasks: Semaphore,
    delays: Semaphore,
    dead_letters: Semaphore,
    replies: Semaphore,
    queues: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A place for a message, until it is dropped. In the order in which it was got: first the queue's own.
pub(super) struct Place<'a> {
    _of_queue: Option<OwnedSemaphorePermit>,
    _of_kind: Option<SemaphorePermit<'a>>,
}

impl Default for InFlight {
    fn default() -> Self {
        let places = || Semaphore::new(usize::try_from(KIND_MAX).unwrap_or(usize::MAX));
        let queues = Mutex::default();
        Self { tasks: places(), delays: places(), dead_letters: places(), replies: places(), queues }
    }
}

impl InFlight {
    /// A place for a message to this exchange. There is always one at last: the semaphores are never closed.
    pub(super) async fn enter(&self, exchange: &str, routing_key: &str) -> Place<'_> {
        let (kind, queue) = self.of(exchange, routing_key);
        let of_queue = match queue {
            Some(queue) => self.queue(queue).acquire_owned().await.ok(),
            None => None,
        };
        Place { _of_queue: of_queue, _of_kind: kind.acquire().await.ok() }
    }

    /// A place, where one is free.
    pub(super) fn try_enter(&self, exchange: &str, routing_key: &str) -> Option<Place<'_>> {
        let (kind, queue) = self.of(exchange, routing_key);
        let of_queue = match queue {
            Some(queue) => Some(self.queue(queue).try_acquire_owned().ok()?),
            None => None,
        };
        Some(Place { _of_queue: of_queue, _of_kind: Some(kind.try_acquire().ok()?) })
    }

    /// The places of its kind of queue, and the queue that has places of its own.
    fn of<'a>(&self, exchange: &'a str, routing_key: &'a str) -> (&Semaphore, Option<&'a str>) {
        match exchange {
            topology::TASKS_EXCHANGE => (&self.tasks, Some(routing_key)),
            "" if topology::is_a_dead_letter_queue(routing_key) => (&self.dead_letters, Some(routing_key)),
            // Strangers' queues: as many as there are senders.
            "" => (&self.replies, None),
            delay => (&self.delays, Some(delay)),
        }
    }

    fn queue(&self, name: &str) -> Arc<Semaphore> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = queues.get(name) {
            return Arc::clone(places);
        }
        if queues.len() >= QUEUES_IDLE_MAX {
            queues.retain(|_, places| Arc::strong_count(places) > 1);
        }
        Arc::clone(queues.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(QUEUE_MAX))))
    }

    /// Waits until nothing is in flight.
    pub(super) async fn drain(&self) {
        for places in [&self.tasks, &self.delays, &self.dead_letters, &self.replies] {
            drop(places.acquire_many(KIND_MAX).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_that_answers_nothing_leaves_places_to_others() {
        let in_flight = InFlight::default();
        let mut stuck = Vec::new();
        for _ in 0..QUEUE_MAX {
            stuck.push(in_flight.enter(topology::TASKS_EXCHANGE, "stuck").await);
        }
        let mut one_more = Box::pin(in_flight.enter(topology::TASKS_EXCHANGE, "stuck"));
        assert!(futures::poll!(one_more.as_mut()).is_pending());
        for n in 0..2 * QUEUES_IDLE_MAX {
            drop(in_flight.enter(topology::TASKS_EXCHANGE, &n.to_string()).await);
        }
        assert!(in_flight.queues.lock().unwrap().len() <= QUEUES_IDLE_MAX + 1);
        assert!(futures::poll!(one_more.as_mut()).is_pending());
        stuck.clear();
        drop(one_more.await);
        in_flight.drain().await;
    }
}
