//! One task of a key at a time, in order, on this host.
//!
//! ```text
//!  partition queues ──► Turns: one line per key ──its turn──► Consumer::deliveries ──► the task runs
//!                         ▲                                                                │
//!                         └──────────── the receipt is spent: the next of the key ─────────┘
//! ```
//!
//! [`Turns`] is the pure part; [`Order`] adds the receipts. A delivery that is handed back while its consumer lives is
//! not given to the broker, behind whose back later ones of the key are waiting here already: it gets the next turn of
//! its key again. Whatever waits when the channel ends is the broker's again, in its old order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, Message, Receipt, Settle};

/// Lines by key. The first of each may go; the others wait until it is done.
struct Turns<T> {
    lines: HashMap<String, Line<T>>,
    /// Whose turn it is, in the order in which it came.
    ready: VecDeque<(String, T)>,
}

/// A key with an item that may go, is out or is back again.
struct Line<T> {
    /// Whether an item of the key is out.
    out: bool,
    waiting: VecDeque<T>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), ready: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    fn arrive(&mut self, key: String, item: T) {
        match self.lines.get_mut(&key) {
            Some(line) => line.waiting.push_back(item),
            None => {
                self.lines.insert(key.clone(), Line { out: false, waiting: VecDeque::new() });
                self.ready.push_back((key, item));
            }
        }
    }

    /// Lets an item out whose turn it is.
    fn next(&mut self) -> Option<(String, T)> {
        let (key, item) = self.ready.pop_front()?;
        if let Some(line) = self.lines.get_mut(&key) {
            line.out = true;
        }
        Some((key, item))
    }

    /// The key's item that was out is done with.
    fn done(&mut self, key: &str) {
        let Some(line) = self.lines.get_mut(key) else { return };
        line.out = false;
        match line.waiting.pop_front() {
            Some(next) => self.ready.push_back((key.to_owned(), next)),
            None => drop(self.lines.remove(key)),
        }
    }

    /// The key's item that was out comes back, to go again before all others of its key.
    fn again(&mut self, key: String, item: T) {
        if let Some(line) = self.lines.get_mut(&key) {
            line.out = false;
            self.ready.push_back((key, item));
        }
    }

    /// Forgets everything that is not out. Keys with an item that is out stay taken.
    fn forget_all_inside(&mut self) {
        self.ready.clear();
        self.lines.retain(|_, line| {
            line.waiting.clear();
            line.out
        });
    }
}

/// Hands an agent's keyed deliveries over in turn.
#[derive(Default)]
pub(super) struct Order {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    turns: Turns<Held>,
    /// Counts the channels that were lost: a delivery is worth nothing once its channel is.
    channel: u64,
    closed: bool,
}

/// A delivery whose turn has not come.
struct Held {
    message: Message,
    redelivered: bool,
    settle: Box<dyn Settle>,
    channel: u64,
}

impl Order {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves plain collections, still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a delivery in.
    pub(super) fn arrive(&self, key: String, delivery: Delivery) {
        let Delivery { message, redelivered, receipt } = delivery;
        let Some(settle) = receipt.into_settle() else { return };
        let mut state = self.state();
        if !state.closed {
            let channel = state.channel;
            state.turns.arrive(key, Held { message, redelivered, settle, channel });
            drop(state);
            self.ready.notify_one();
        }
    }

    /// Hands deliveries over, each when its turn comes, until `stop`.
    pub(super) async fn hand_over(self: Arc<Self>, deliveries: mpsc::Sender<Delivery>, stop: CancellationToken) {
        loop {
            // Registered before the look, so that an arrival between the two is not missed.
            let ready = self.ready.notified();
            if self.state().turns.ready.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = ready => continue,
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                place = deliveries.reserve() => match place {
                    Ok(place) => if let Some(delivery) = Arc::clone(&self).next() {
                        place.send(delivery);
                    },
                    // The consumer is gone.
                    Err(_) => return,
                },
            }
        }
    }

    fn next(self: Arc<Self>) -> Option<Delivery> {
        let (key, held) = self.state().turns.next()?;
        let Held { message, redelivered, settle, channel } = held;
        let turn = Turn { order: self, key, message: message.clone(), settle, channel };
        Some(Delivery { message, redelivered, receipt: Receipt::new(turn) })
    }

    /// The channel is lost, and with it every delivery that came over it. A key whose task runs stays taken until that
    /// ends, though its receipt is void: the broker delivers the task again, and it should not run beside itself.
    pub(super) fn lost(&self) {
        let mut state = self.state();
        state.channel += 1;
        state.turns.forget_all_inside();
    }

    /// Hands nothing over any more. What is inside is left to the broker, to which it returns with the channel.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.turns.forget_all_inside();
    }

    fn done(&self, key: &str) {
        self.state().turns.done(key);
        self.ready.notify_one();
    }

    fn again(&self, key: String, held: Held) {
        let mut state = self.state();
        if state.closed || held.channel != state.channel {
            state.turns.done(&key);
        } else {
            state.turns.again(key, held);
        }
        drop(state);
        self.ready.notify_one();
    }
}

/// The permit for a delivery that is out.
struct Turn {
    order: Arc<Order>,
    key: String,
    /// For its next turn, if it is handed back.
    message: Message,
    settle: Box<dyn Settle>,
    channel: u64,
}

impl Settle for Turn {
    fn acknowledge(self: Box<Self>) {
        let Self { order, key, settle, .. } = *self;
        settle.acknowledge();
        order.done(&key);
    }

    fn hand_back(self: Box<Self>) {
        let Self { order, key, message, settle, channel } = *self;
        order.again(key, Held { message, redelivered: true, settle, channel });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What happens to a partition's items, by key.
    #[derive(Clone, Debug)]
    enum Step {
        Arrive(u8),
        Next,
        Done(usize),
        Again(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..4u8).prop_map(Step::Arrive),
            3 => Just(Step::Next),
            2 => any::<usize>().prop_map(Step::Done),
            1 => any::<usize>().prop_map(Step::Again),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// One of a key at a time, in the order of arrival, each done once; keys do not wait for each other.
        #[test]
        fn each_key_goes_in_order_one_at_a_time(steps in steps()) {
            let mut turns = Turns::default();
            let (mut arrived, mut done): ([u32; 4], [u32; 4]) = Default::default();
            let mut out: Vec<(String, (u8, u32))> = Vec::new();
            for step in steps.into_iter().chain(std::iter::repeat_n([Step::Next, Step::Done(0)], 200).flatten()) {
                match step {
                    Step::Arrive(key) => {
                        turns.arrive(key.to_string(), (key, arrived[usize::from(key)]));
                        arrived[usize::from(key)] += 1;
                    }
                    Step::Next => {
                        let keys_out: BTreeSet<u8> = out.iter().map(|(_, (key, _))| *key).collect();
                        let possible = (0..4u8).any(|key| {
                            !keys_out.contains(&key) && done[usize::from(key)] < arrived[usize::from(key)]
                        });
                        let next = turns.next();
                        prop_assert_eq!(next.is_some(), possible);
                        if let Some((key, (number, sequence))) = next {
                            prop_assert!(!keys_out.contains(&number), "two of a key at once");
                            prop_assert_eq!(sequence, done[usize::from(number)], "out of order");
                            out.push((key, (number, sequence)));
                        }
                    }
                    Step::Done(which) if !out.is_empty() => {
                        let (key, (number, _)) = out.swap_remove(which % out.len());
                        done[usize::from(number)] += 1;
                        turns.done(&key);
                    }
                    Step::Again(which) if !out.is_empty() => {
                        let (key, item) = out.swap_remove(which % out.len());
                        turns.again(key, item);
                    }
                    Step::Done(_) | Step::Again(_) => {}
                }
            }
            prop_assert_eq!(arrived, done);
            prop_assert!(turns.lines.is_empty() && turns.ready.is_empty());
        }
    }

    /// Writes down what becomes of it.
    struct Recorder(&'static str, std::sync::mpsc::Sender<String>);
    impl Settle for Recorder {
        fn acknowledge(self: Box<Self>) {
            self.1.send(format!("{} acknowledged", self.0)).unwrap();
        }
        fn hand_back(self: Box<Self>) {
            self.1.send(format!("{} handed back", self.0)).unwrap();
        }
    }

    struct Fixture {
        order: Arc<Order>,
        deliveries: mpsc::Receiver<Delivery>,
        sender: std::sync::mpsc::Sender<String>,
        settled: std::sync::mpsc::Receiver<String>,
        stop: CancellationToken,
    }

    impl Fixture {
        fn start() -> Self {
            let (sender, settled) = std::sync::mpsc::channel();
            let (deliveries_sender, deliveries) = mpsc::channel(8);
            let (order, stop) = (Arc::new(Order::default()), CancellationToken::new());
            tokio::spawn(Arc::clone(&order).hand_over(deliveries_sender, stop.clone()));
            Self { order, deliveries, sender, settled, stop }
        }

        fn arrive(&self, key: &str, id: &'static str) {
            let message = Message { message_id: Some(id.to_owned()), ..Message::default() };
            let receipt = Receipt::new(Recorder(id, self.sender.clone()));
            self.order.arrive(key.to_owned(), Delivery { message, redelivered: false, receipt });
        }

        async fn next(&mut self) -> (String, bool, Receipt) {
            let Delivery { message, redelivered, receipt } = self.deliveries.recv().await.unwrap();
            (message.message_id.unwrap(), redelivered, receipt)
        }
    }

    #[tokio::test]
    async fn what_is_handed_back_has_the_next_turn_and_never_reaches_the_broker() {
        let mut fixture = Fixture::start();
        fixture.arrive("k", "first");
        fixture.arrive("k", "second");
        fixture.arrive("other", "beside");
        let (id, redelivered, receipt) = fixture.next().await;
        assert_eq!((id.as_str(), redelivered), ("first", false));
        let (id, _, beside) = fixture.next().await;
        assert_eq!(id, "beside");
        receipt.hand_back();
        let (id, redelivered, receipt) = fixture.next().await;
        assert_eq!((id.as_str(), redelivered), ("first", true));
        receipt.acknowledge();
        let (id, _, receipt) = fixture.next().await;
        assert_eq!(id, "second");
        receipt.acknowledge();
        beside.acknowledge();
        let settled: Vec<String> = fixture.settled.try_iter().collect();
        assert_eq!(settled, ["first acknowledged", "second acknowledged", "beside acknowledged"]);
    }

    #[tokio::test]
    async fn a_task_from_a_lost_channel_holds_its_key_until_it_ends() {
        let mut fixture = Fixture::start();
        fixture.arrive("k", "first");
        fixture.arrive("k", "second");
        let (_, _, running) = fixture.next().await;
        fixture.order.lost();
        // The broker delivers both again.
        fixture.arrive("k", "first again");
        fixture.arrive("k", "second again");
        fixture.arrive("other", "marker");
        let (id, _, marker) = fixture.next().await;
        assert_eq!(id, "marker", "nothing of the key runs beside its task");
        marker.acknowledge();
        running.hand_back();
        for expected in ["first again", "second again"] {
            let (id, _, receipt) = fixture.next().await;
            assert_eq!(id, expected);
            receipt.acknowledge();
        }
    }

    #[tokio::test]
    async fn a_closed_order_hands_nothing_over_and_settles_nothing_but_what_is_out() {
        let mut fixture = Fixture::start();
        for id in ["a1", "a2"] {
            fixture.arrive("a", id);
        }
        for id in ["b1", "b2"] {
            fixture.arrive("b", id);
        }
        let (_, _, a1) = fixture.next().await;
        let (_, _, b1) = fixture.next().await;
        fixture.order.close();
        fixture.stop.cancel();
        fixture.arrive("c", "late");
        a1.acknowledge();
        b1.hand_back();
        assert!(fixture.deliveries.recv().await.is_none());
        assert_eq!(fixture.settled.try_iter().collect::<Vec<_>>(), ["a1 acknowledged"]);
    }
}
