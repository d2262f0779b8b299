//! Deliveries of queues whose order is kept, which came when there was no room for their bodies.
//!
//! Handed back, they would come again at once, or others of their queue before them. So a body is let go and its tag kept
//! until there is room. Then the queue's are handed back, in their order: the broker sends those before anything behind
//! them. Acknowledgements of the queue wait for that, and follow: before it, they would have the broker send what is behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// How long a queue's are kept back without having come again. RabbitMQ gives a consumer 30 minutes to settle a delivery,
/// and closes its channel after that.
const PARKED_MAX: Duration = Duration::from_secs(10 * 60);
/// How long the next queue waits for what the one before was to send again. It sends nothing where it was deleted or emptied.
const RETURN_MAX: Duration = Duration::from_secs(1);

/// What is parked of one channel, and which of its queues every delivery in hand came from.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// Those with something parked or on its way back.
    queues: Vec<Queue>,
    /// By tag.
    in_hand: HashMap<u64, Arc<str>>,
    /// The queue whose deliveries were handed back last, until one of them is here again.
    returning: Option<(Arc<str>, Instant)>,
    /// Once nothing is taken in any more: those that are finished.
    closing: Option<Vec<u64>>,
}

#[derive(Debug)]
struct Queue {
    name: Arc<str>,
    /// In the order of the queue. Whatever else comes of it stands behind them.
    line: Vec<Place>,
    /// How often some were handed back.
    rounds: u64,
    /// Finished while something is parked.
    finished: Vec<u64>,
    /// When the first of them was, or the last were handed back.
    since: Instant,
}

/// The place of a delivery in its queue's line, and how often it was handed back.
#[derive(Debug)]
enum Place {
    Parked {
        one: One,
        returns: u64,
    },
    /// Handed back in this round, and not here again yet.
    Expected {
        print: u64,
        round: u64,
        returns: u64,
    },
}

/// What becomes of a delivery that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Its body is to be let go.
    Parked,
    /// It is in hand, and was handed back so often before.
    InHand { returns: u64 },
}

/// A delivery without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct One {
    pub(super) tag: u64,
    pub(super) bytes: u64,
    /// Tells messages apart.
    pub(super) print: u64,
}

/// What to tell the broker of one queue, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Back {
    pub(super) handed_back: Vec<u64>,
    pub(super) finished: Vec<u64>,
}

impl Parked {
    /// Whether nothing waits for room.
    pub(super) fn is_empty(&self) -> bool {
        !self.queues.iter().any(Queue::has_parked)
    }

    /// A delivery came. `one` is asked for where it may be parked.
    pub(super) fn arrives(&mut self, name: &Arc<str>, tag: u64, has_room: bool, one: impl FnOnce() -> One) -> Arrived {
        let arrived = match self.queues.iter_mut().find(|queue| queue.name == *name) {
            Some(queue) => queue.arrives(one(), has_room),
            None if has_room => Arrived::InHand { returns: 0 },
            None => {
                self.queues.push(Queue {
                    name: Arc::clone(name),
                    line: vec![Place::Parked { one: one(), returns: 0 }],
                    rounds: 0,
                    finished: Vec::new(),
                    since: Instant::now(),
                });
                Arrived::Parked
            }
        };
        if self.returning.as_ref().is_some_and(|(returning, _)| returning == name) {
            self.returning = None;
        }
        self.queues.retain(|queue| !queue.line.is_empty());
        if arrived != Arrived::Parked {
            self.in_hand.insert(tag, Arc::clone(name));
        }
        arrived
    }

    /// A delivery in hand is finished. Whether the broker is to be told of it now.
    pub(super) fn finished(&mut self, tag: u64) -> bool {
        let Some(name) = self.in_hand.remove(&tag) else { return true };
        let waiting = match &mut self.closing {
            Some(finished) => Some(finished),
            None => {
                let queue = self.queues.iter_mut().find(|queue| queue.name == name && queue.has_parked());
                queue.map(|queue| &mut queue.finished)
            }
        };
        match waiting {
            Some(finished) => {
                finished.push(tag);
                false
            }
            None => true,
        }
    }

    /// A delivery in hand is settled otherwise.
    pub(super) fn gone(&mut self, tag: u64) {
        self.in_hand.remove(&tag);
    }

    /// What is to be handed back now, if anything, with so many bytes free for bodies. `nothing_in_hand`: then one gets on
    /// in any case.
    pub(super) fn next(&mut self, room_bytes: u64, nothing_in_hand: bool) -> Option<Back> {
        if self.returning.as_ref().is_some_and(|(_, since)| since.elapsed() < RETURN_MAX) {
            return None;
        }
        let waiting = self.queues.iter_mut().filter(|queue| queue.has_parked());
        let queue = waiting.min_by_key(|queue| queue.since)?;
        let bytes = queue.parked().next().map_or(0, |first| first.bytes.max(1));
        if room_bytes < bytes && !nothing_in_hand && queue.since.elapsed() < PARKED_MAX {
            return None;
        }
        self.returning = Some((Arc::clone(&queue.name), Instant::now()));
        Some(queue.hand_back())
    }

    /// Nothing is taken in any more: what the broker heard of from now on would have it send more, which nobody runs.
    pub(super) fn close(&mut self) {
        self.closing.get_or_insert_default();
    }

    /// The finished ones that the broker has not been told of, at the end of the channel. The parked go back with that.
    pub(super) fn end(&mut self) -> Vec<u64> {
        let mut finished = self.closing.take().unwrap_or_default();
        finished.extend(self.queues.drain(..).flat_map(|queue| queue.finished));
        finished
    }
}

impl Queue {
    fn parked(&self) -> impl Iterator<Item = One> {
        self.line.iter().filter_map(|place| match place {
            Place::Parked { one, .. } => Some(*one),
            Place::Expected { .. } => None,
        })
    }

    fn has_parked(&self) -> bool {
        self.parked().next().is_some()
    }

    fn arrives(&mut self, one: One, has_room: bool) -> Arrived {
        let is_it = |place: &Place| matches!(place, Place::Expected { print, .. } if *print == one.print);
        let known = self.line.iter().find(|place| is_it(place));
        let Some(&Place::Expected { round, returns, .. }) = known else {
            // New. It was on its way when those before it were handed back.
            self.line.push(Place::Parked { one, returns: 0 });
            return Arrived::Parked;
        };
        // What was handed back before this one was, and stood before it, would have come first: it has expired, or somebody
        // removed it. What was handed back later comes yet, for this one may have been on its way by then.
        let mut is_before = true;
        self.line.retain(|place| {
            is_before &= !is_it(place);
            !is_before || !matches!(place, Place::Expected { round: earlier, .. } if *earlier <= round)
        });
        if has_room && self.line.first().is_some_and(is_it) {
            self.line.remove(0);
            return Arrived::InHand { returns };
        }
        if let Some(place) = self.line.iter_mut().find(|place| is_it(place)) {
            *place = Place::Parked { one, returns };
        }
        Arrived::Parked
    }

    /// Everything that is parked.
    fn hand_back(&mut self) -> Back {
        let handed_back = self.parked().map(|one| one.tag).collect();
        self.rounds += 1;
        self.since = Instant::now();
        for place in &mut self.line {
            if let Place::Parked { one, returns } = place {
                *place = Place::Expected { print: one.print, round: self.rounds, returns: *returns + 1 };
            }
        }
        Back { handed_back, finished: std::mem::take(&mut self.finished) }
    }
}

#[cfg(test)]
mod tests;
