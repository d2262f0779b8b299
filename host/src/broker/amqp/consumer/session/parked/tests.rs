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
