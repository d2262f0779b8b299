//! Deliveries of queues whose order is kept, which came when there was no room for their bodies.
//!
//! Handed back, they would come again at once, or others of their queue before them. So a body is let go and its tag kept
//! until there is room. Then the queue's are handed back, in their order: the broker sends those before anything behind
//! them. Acknowledgements of the queue wait for that, and follow: before it, they would have the broker send what is behind.

use std::collections::{HashMap, VecDeque};
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
    /// Let go, in the order of the queue.
    parked: Vec<One>,
    /// So many of them, the first ones, had been handed back and came again.
    again: usize,
    /// Handed back, and not here again yet.
    expected: VecDeque<u64>,
    /// Finished while something is parked.
    finished: Vec<u64>,
    /// When the first of them was, or the last were handed back.
    since: Instant,
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
        self.queues.iter().all(|queue| queue.parked.is_empty())
    }

    /// A delivery came. Whether it is parked: its body is to be let go. `one` is asked for where it may be.
    pub(super) fn arrives(&mut self, name: &Arc<str>, tag: u64, has_room: bool, one: impl FnOnce() -> One) -> bool {
        let is_parked = match self.queues.iter_mut().find(|queue| queue.name == *name) {
            Some(queue) => queue.arrives(one(), has_room),
            None if has_room => false,
            None => {
                self.queues.push(Queue {
                    name: Arc::clone(name),
                    parked: vec![one()],
                    again: 0,
                    expected: VecDeque::new(),
                    finished: Vec::new(),
                    since: Instant::now(),
                });
                true
            }
        };
        if self.returning.as_ref().is_some_and(|(returning, _)| returning == name) {
            self.returning = None;
        }
        self.queues.retain(|queue| !(queue.parked.is_empty() && queue.expected.is_empty()));
        if !is_parked {
            self.in_hand.insert(tag, Arc::clone(name));
        }
        is_parked
    }

    /// A delivery in hand is finished. Whether the broker is to be told of it now.
    pub(super) fn finished(&mut self, tag: u64) -> bool {
        let Some(name) = self.in_hand.remove(&tag) else { return true };
        let waiting = match &mut self.closing {
            Some(finished) => Some(finished),
            None => {
                let queue = self.queues.iter_mut().find(|queue| queue.name == name && !queue.parked.is_empty());
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
        let waiting = self.queues.iter_mut().filter(|queue| !queue.parked.is_empty());
        let queue = waiting.min_by_key(|queue| queue.since)?;
        let bytes = queue.parked.first().map_or(0, |first| first.bytes.max(1));
        if room_bytes < bytes && !nothing_in_hand && queue.since.elapsed() < PARKED_MAX {
            return None;
        }
        let parked = std::mem::take(&mut queue.parked);
        (queue.again, queue.since) = (0, Instant::now());
        queue.expected.extend(parked.iter().map(|one| one.print));
        self.returning = Some((Arc::clone(&queue.name), Instant::now()));
        let handed_back = parked.into_iter().map(|one| one.tag).collect();
        Some(Back { handed_back, finished: std::mem::take(&mut queue.finished) })
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
    /// Whether it is parked.
    fn arrives(&mut self, one: One, has_room: bool) -> bool {
        let Some(place) = self.expected.iter().position(|print| *print == one.print) else {
            // Behind what is parked, and behind what is expected: it was on its way when that was handed back.
            self.parked.push(one);
            return true;
        };
        // Those expected before it come no more: they have expired, or somebody removed them.
        self.expected.drain(..=place);
        if has_room && self.again == 0 {
            return false;
        }
        self.parked.insert(self.again, one);
        self.again += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn queue(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn arrives(parked: &mut Parked, queue: &Arc<str>, (tag, print): (u64, u64), has_room: bool) -> bool {
        parked.arrives(queue, tag, has_room, || One { tag, bytes: 100, print })
    }

    fn back(handed_back: &[u64], finished: &[u64]) -> Option<Back> {
        Some(Back { handed_back: handed_back.to_vec(), finished: finished.to_vec() })
    }

    #[test]
    fn what_comes_behind_one_that_is_parked_is_parked_and_told_of_behind_it() {
        let (mut parked, first, second) = (Parked::default(), queue("1"), queue("2"));
        assert!(!arrives(&mut parked, &first, (1, 1), true));
        assert!(arrives(&mut parked, &first, (2, 2), false));
        assert!(arrives(&mut parked, &first, (3, 3), true), "room does not let it overtake");
        assert!(!arrives(&mut parked, &second, (4, 4), true));
        assert!(!parked.finished(1), "it would have the broker send what is behind");
        assert!(parked.finished(4));
        assert_eq!(parked.next(99, false), None);
        assert_eq!(parked.next(100, false), back(&[2, 3], &[1]));
        assert!(parked.is_empty());
    }

    #[test]
    fn what_was_on_its_way_does_not_overtake_what_is_to_come_again() {
        let (mut parked, name) = (Parked::default(), queue("1"));
        assert!(arrives(&mut parked, &name, (1, 11), false));
        assert_eq!(parked.next(100, false), back(&[1], &[]));
        assert!(arrives(&mut parked, &name, (2, 12), true));
        assert!(arrives(&mut parked, &name, (3, 11), false));
        assert_eq!(parked.next(100, false), back(&[3, 2], &[]), "in the order of the queue");
        // The first has expired meanwhile.
        assert!(!arrives(&mut parked, &name, (4, 12), true));
        assert!(parked.queues.is_empty());
    }

    #[test]
    fn one_queue_is_sent_for_at_a_time_and_one_gets_on_in_any_case() {
        let (mut parked, first, second) = (Parked::default(), queue("1"), queue("2"));
        assert!(arrives(&mut parked, &first, (1, 1), false) && arrives(&mut parked, &second, (2, 2), false));
        assert_eq!(parked.next(0, true), back(&[1], &[]));
        assert_eq!(parked.next(1_000, true), None, "the first has not come again");
        assert!(!arrives(&mut parked, &first, (3, 1), true));
        assert_eq!(parked.next(1_000, false), back(&[2], &[]));
    }

    #[test]
    fn a_channel_that_ends_tells_of_all_that_is_finished() {
        let (mut parked, first, second) = (Parked::default(), queue("1"), queue("2"));
        assert!(!arrives(&mut parked, &first, (1, 1), true) && !arrives(&mut parked, &first, (2, 2), true));
        assert!(!arrives(&mut parked, &second, (3, 3), true));
        assert!(arrives(&mut parked, &first, (4, 4), false));
        assert!(!parked.finished(1));
        parked.close();
        parked.gone(2);
        assert!(!parked.finished(3));
        let mut told = parked.end();
        told.sort_unstable();
        assert_eq!(told, [1, 3]);
    }

    /// A quorum queue with one consumer: what was handed back goes first.
    struct Broker {
        queue: VecDeque<u64>,
        unsettled: BTreeMap<u64, u64>,
        tags: u64,
    }

    impl Broker {
        const PREFETCH: usize = 2;

        fn deliver(&mut self) -> Option<(u64, u64)> {
            if self.unsettled.len() >= Self::PREFETCH {
                return None;
            }
            let message = self.queue.pop_front()?;
            self.tags += 1;
            self.unsettled.insert(self.tags, message);
            Some((self.tags, message))
        }

        fn hand_back(&mut self, tag: u64) {
            let message = self.unsettled.remove(&tag).unwrap();
            self.queue.push_front(message);
        }
    }

    proptest! {
        /// Whatever room there is when, and however late what is on its way arrives: all are taken in, in their order.
        #[test]
        fn nothing_overtakes_and_nothing_is_left(
            count in 1..30_u64,
            rooms in proptest::collection::vec(any::<bool>(), 100),
            arrivals in proptest::collection::vec(any::<bool>(), 100),
            ends in proptest::collection::vec(any::<bool>(), 100),
        ) {
            let mut broker = Broker { queue: (0..count).collect(), unsettled: BTreeMap::new(), tags: 0 };
            let (mut parked, name) = (Parked::default(), queue("1"));
            let (mut running, mut taken, mut coming) = (VecDeque::new(), Vec::new(), VecDeque::new());
            for step in 0..5_000 {
                let at = |given: &[bool]| given.get(step).copied().unwrap_or(true);
                coming.extend(std::iter::from_fn(|| broker.deliver()));
                let has_room = at(&rooms) || running.is_empty();
                if at(&arrivals)
                    && let Some((tag, message)) = coming.pop_front()
                    && !arrives(&mut parked, &name, (tag, message), has_room)
                {
                    taken.push(message);
                    running.push_back(tag);
                }
                if at(&ends) && let Some(tag) = running.pop_front() && parked.finished(tag) {
                    broker.unsettled.remove(&tag);
                }
                // As if the time for it had passed.
                parked.returning = None;
                if let Some(Back { handed_back, finished }) = parked.next(if has_room { 100 } else { 0 }, running.is_empty()) {
                    // The newest first: this broker puts each in front of everything.
                    handed_back.iter().rev().for_each(|tag| broker.hand_back(*tag));
                    coming.extend(std::iter::from_fn(|| broker.deliver()));
                    broker.unsettled.retain(|tag, _| !finished.contains(tag));
                }
            }
            prop_assert!(broker.queue.is_empty() && broker.unsettled.is_empty(), "it does not get on");
            prop_assert_eq!(taken, (0..count).collect::<Vec<_>>());
        }
    }
}
