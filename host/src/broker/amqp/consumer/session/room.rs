//! What waits for room: a consumer that has paused, and queues of one that keeps an order.
//!
//! What comes from a queue in its order cannot be handed back at once, so no more such queues are begun with than there is room
//! for what they hold: the next one only when what the one before sent has been seen, and has left room. What comes to them
//! later and finds no room is [parked](super::parked). Where the agent has nothing else in hand here, all get on in any case.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use tokio::time::Instant;

use super::parked::{Arrived, Back, One};
use super::{FLUSH_COUNT, Held, RESUME_EVERY, ROOM_SHARE, Session, Source, hand_back};
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
    fn in_hand(&self) -> u64 {
        self.outstanding.saturating_add(self.held.len() as u64)
    }

    /// Bytes of bodies that one consumer's prefetch is to fill.
    fn room_share(&self) -> u64 {
        self.memory.bodies_bytes_max() / ROOM_SHARE
    }

    /// Takes a delivery in, and sees to it that no more come than memory holds.
    pub(super) async fn arrive<T, F: Fn(Delivery, &str) -> Option<T>>(
        &mut self,
        queue: &Arc<str>,
        delivery: lapin::message::Delivery,
        source: &Source<T, F>,
    ) -> lapin::Result<()> {
        let bytes = delivery.data.len() as u64;
        let mut returns = 0;
        if source.order.is_some() {
            self.coming.saw();
            let has_room = source.hand.is_empty() || self.memory.room_for_bodies() > 0;
            let tag = delivery.delivery_tag;
            match self.parked.arrives(queue, tag, has_room, || One { tag, bytes, print: print(&delivery) }) {
                Arrived::InHand { returns: before } => returns = before,
                Arrived::Parked => {
                    tracing::debug!(%queue, bytes, "no room for a body; its task waits for its turn to come again");
                    return Ok(());
                }
            }
        } else {
            let in_hand = self.in_hand();
            self.prefetch.saw(bytes);
            if !source.hand.is_empty() && self.memory.room_for_bodies() <= 0 {
                if self.consumers.is_paused() {
                    // It was on its way when the consumer was cancelled.
                    self.marks.handed_back(delivery.delivery_tag);
                    return hand_back(&self.channel, delivery.delivery_tag).await;
                }
                self.pause(&source.name);
            } else if !self.consumers.is_changing()
                && !self.consumers.is_paused()
                && let Some(next) = self.prefetch.change(self.room_share(), in_hand)
            {
                tracing::debug!(
                    consumer = source.name,
                    prefetch = next,
                    "changing a prefetch after the bodies that come"
                );
                self.consume_anew(source, next);
            }
        }
        let (body, in_hand) = (self.memory.charge_body(bytes), source.hand.take());
        self.held.push_back(Held { delivery, returns, body, in_hand });
        Ok(())
    }

    /// Stops consuming until there is room.
    fn pause(&mut self, name: &str) {
        tracing::info!(consumer = name, "bodies take all the memory that they may; consuming no more for now");
        self.choose_acknowledging();
        self.consumers.pause();
    }

    fn consume_anew<T, F: Fn(Delivery, &str) -> Option<T>>(&mut self, source: &Source<T, F>, prefetch: u16) {
        self.choose_acknowledging();
        self.consumers.replace(source.queues.clone(), prefetch);
    }

    /// With few at a time, one long task would hold the acknowledgements of all others up.
    fn choose_acknowledging(&mut self) {
        self.each_at_once = usize::from(self.prefetch.current()) < FLUSH_COUNT;
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.consumers.is_paused() || !self.coming.is_over() || !self.parked.is_empty()
    }

    pub(super) async fn look_for_room<T, F: Fn(Delivery, &str) -> Option<T>>(
        &mut self,
        source: &Source<T, F>,
    ) -> lapin::Result<()> {
        if self.consumers.is_changing() {
            // What the last one sends comes behind the answer.
            self.coming.wait_anew();
        } else if self.consumers.is_paused() {
            self.resume_if_room(source);
        } else if self.parked.is_empty() {
            self.consume_next_if_room(source);
        } else {
            self.hand_back_if_room(source).await?;
        }
        Ok(())
    }

    async fn hand_back_if_room<T, F: Fn(Delivery, &str) -> Option<T>>(
        &mut self,
        source: &Source<T, F>,
    ) -> lapin::Result<()> {
        let room = u64::try_from(self.memory.room_for_bodies()).unwrap_or(0);
        let Some(Back { handed_back, finished }) = self.parked.next(room, source.hand.is_empty()) else {
            return Ok(());
        };
        for tag in handed_back {
            self.marks.handed_back(tag);
            hand_back(&self.channel, tag).await?;
        }
        finished.into_iter().for_each(|tag| self.marks.finished(tag));
        self.flush(true).await
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

/// Tells messages of a queue apart: by their ids, or by their bodies, which cost more. Duplicates are alike, and which of them
/// goes first is of no account.
fn print(delivery: &lapin::message::Delivery) -> u64 {
    let mut hasher = DefaultHasher::new();
    match delivery.properties.message_id() {
        Some(id) => id.as_str().hash(&mut hasher),
        None => delivery.data.hash(&mut hasher),
    }
    hasher.finish()
}
