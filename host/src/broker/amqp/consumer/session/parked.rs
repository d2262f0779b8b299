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
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn queue(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    /// Whether it is parked.
    fn arrives(parked: &mut Parked, queue: &Arc<str>, (tag, print): (u64, u64), has_room: bool) -> bool {
        parked.arrives(queue, tag, has_room, || One { tag, bytes: 100, print }) == Arrived::Parked
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
    fn what_is_still_to_come_again_does_not_overtake_what_is_handed_back_once_more() {
        let (mut parked, name) = (Parked::default(), queue("1"));
        assert!(arrives(&mut parked, &name, (1, 11), false) && arrives(&mut parked, &name, (2, 12), false));
        assert_eq!(parked.next(100, false), back(&[1, 2], &[]));
        assert!(arrives(&mut parked, &name, (3, 11), false));
        assert_eq!(parked.next(100, false), back(&[3], &[]));
        assert!(arrives(&mut parked, &name, (4, 12), true), "the first is on its way behind it");
        assert!(!arrives(&mut parked, &name, (5, 11), true));
        parked.returning = None;
        assert_eq!(parked.next(100, false), back(&[4], &[]));
        assert!(!arrives(&mut parked, &name, (6, 12), true));
        assert!(parked.queues.is_empty());
    }

    #[test]
    fn how_often_one_was_handed_back_is_known_when_it_is_taken_in() {
        let (mut parked, name) = (Parked::default(), queue("1"));
        let arrived = |parked: &mut Parked, tag, has_room| {
            parked.arrives(&name, tag, has_room, || One { tag, bytes: 100, print: 11 })
        };
        assert_eq!(arrived(&mut parked, 1, false), Arrived::Parked);
        assert!(parked.next(100, false).is_some());
        assert_eq!(arrived(&mut parked, 2, false), Arrived::Parked);
        assert!(parked.next(100, false).is_some());
        assert_eq!(arrived(&mut parked, 3, true), Arrived::InHand { returns: 2 });
        assert_eq!(arrived(&mut parked, 4, true), Arrived::InHand { returns: 0 });
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

    /// A quorum queue with one consumer: what was handed back goes first, in the order in which it was.
    struct Broker {
        returned: VecDeque<u64>,
        queue: VecDeque<u64>,
        unsettled: BTreeMap<u64, u64>,
        /// Sent, and not here yet.
        coming: VecDeque<(u64, u64)>,
        tags: u64,
    }

    impl Broker {
        const PREFETCH: usize = 3;

        fn deliver(&mut self) {
            while self.unsettled.len() < Self::PREFETCH
                && let Some(message) = self.returned.pop_front().or_else(|| self.queue.pop_front())
            {
                self.tags += 1;
                self.unsettled.insert(self.tags, message);
                self.coming.push_back((self.tags, message));
            }
        }

        fn hand_back(&mut self, tag: u64) {
            self.returned.extend(self.unsettled.remove(&tag));
            self.deliver();
        }

        fn acknowledge(&mut self, tag: u64) {
            self.unsettled.remove(&tag);
            self.deliver();
        }

        /// The last of those that wait expires.
        fn expire(&mut self) -> Option<u64> {
            self.queue.pop_back().or_else(|| self.returned.pop_back())
        }
    }

    proptest! {
        /// Whatever room there is when, however late what is on its way arrives and whatever expires: all others are taken
        /// in, in their order.
        #[test]
        fn nothing_overtakes_and_nothing_is_left(
            count in 1..30_u64,
            rooms in proptest::collection::vec(any::<bool>(), 200),
            arrivals in proptest::collection::vec(any::<bool>(), 200),
            ends in proptest::collection::vec(any::<bool>(), 200),
            expiries in proptest::collection::vec(proptest::bool::weighted(0.05), 200),
        ) {
            let (returned, coming) = (VecDeque::new(), VecDeque::new());
            let mut broker = Broker { returned, queue: (0..count).collect(), unsettled: BTreeMap::new(), coming, tags: 0 };
            let (mut parked, name) = (Parked::default(), queue("1"));
            let (mut running, mut taken, mut expired) = (VecDeque::new(), Vec::new(), Vec::new());
            broker.deliver();
            for step in 0..5_000 {
                let at = |given: &[bool]| given.get(step).copied().unwrap_or(true);
                // Others take room too, and leave some.
                let has_room = at(&rooms);
                if at(&arrivals)
                    && let Some((tag, message)) = broker.coming.pop_front()
                    && !arrives(&mut parked, &name, (tag, message), has_room)
                {
                    taken.push(message);
                    running.push_back(tag);
                }
                if at(&ends) && let Some(tag) = running.pop_front() && parked.finished(tag) {
                    broker.acknowledge(tag);
                }
                if expiries.get(step) == Some(&true) {
                    expired.extend(broker.expire());
                }
                // As if the time for it had passed.
                parked.returning = None;
                let room_next = rooms.get(step + 1).copied().unwrap_or(true);
                if let Some(Back { handed_back, finished }) = parked.next(if room_next { 100 } else { 0 }, false) {
                    handed_back.into_iter().for_each(|tag| broker.hand_back(tag));
                    finished.into_iter().for_each(|tag| broker.acknowledge(tag));
                }
            }
            prop_assert!(broker.queue.is_empty() && broker.returned.is_empty() && broker.unsettled.is_empty(), "it is stuck");
            prop_assert!(taken.is_sorted(), "{taken:?}");
            taken.extend(expired);
            taken.sort_unstable();
            prop_assert_eq!(taken, (0..count).collect::<Vec<_>>());
        }
    }
}
