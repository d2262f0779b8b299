//! What waits for room: a consumer that has paused, and queues of one that keeps an order.
//!
//! What comes from a queue in its order cannot be handed back, so no more such queues are consumed than there is room for what
//! they hold: the next one only when what the one before sent has been seen, and has left room. Where the agent has nothing
//! else in hand here, both get on in any case.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{RESUME_EVERY, Session, Source};
use crate::delivery::Delivery;

/// Queues that are not consumed yet.
pub(super) struct Coming {
    queues: VecDeque<String>,
    /// Deliveries since the last one was.
    seen: u16,
    /// When it was, or sent something last.
    since: Instant,
}

impl Coming {
    pub(super) fn new(queues: VecDeque<String>) -> Self {
        Self { queues, seen: 0, since: Instant::now() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.queues.is_empty()
    }

    pub(super) fn saw(&mut self) {
        if !self.is_over() {
            self.seen = self.seen.saturating_add(1);
            self.since = Instant::now();
        }
    }

    fn wait_anew(&mut self) {
        self.since = Instant::now();
    }

    /// Whether the last one has sent all that it may, or has fallen silent.
    fn has_been_seen(&self, prefetch: u16) -> bool {
        self.seen >= prefetch || self.since.elapsed() >= RESUME_EVERY
    }

    fn next(&mut self) -> Option<String> {
        self.seen = 0;
        self.wait_anew();
        self.queues.pop_front()
    }
}

impl Session {
    pub(super) fn waits_for_room(&self) -> bool {
        self.consumers.is_paused() || !self.coming.is_over()
    }

    pub(super) fn look_for_room<T, F: Fn(Delivery, &str) -> Option<T>>(&mut self, source: &Source<T, F>) {
        if self.consumers.is_changing() {
            // What the last one sends comes behind the answer.
            return self.coming.wait_anew();
        }
        if self.consumers.is_paused() {
            self.resume_if_room(source);
        } else {
            self.consume_next_if_room(source);
        }
    }

    fn resume_if_room<T, F: Fn(Delivery, &str) -> Option<T>>(&mut self, source: &Source<T, F>) {
        let room = u64::try_from(self.memory.room_for_bodies()).unwrap_or(0);
        let enough = self.room_share().max(self.prefetch.body_bytes());
        if room >= enough || source.hand.is_empty() {
            let next = self.prefetch.resume(room.min(self.room_share()));
            self.consume_anew(source, next);
        }
    }

    fn consume_next_if_room<T, F: Fn(Delivery, &str) -> Option<T>>(&mut self, source: &Source<T, F>) {
        let has_room = self.memory.room_for_bodies() > 0 || source.hand.is_empty();
        if has_room
            && self.coming.has_been_seen(source.prefetch)
            && let Some(queue) = self.coming.next()
        {
            self.consumers.add(queue, source.prefetch);
        }
    }
}
