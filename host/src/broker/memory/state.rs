//! The embedded broker's queues.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::delivery::Message;
use crate::delivery::envelope::{self, headers};
use crate::task::AgentName;

/// Everything that the broker holds.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) queues: HashMap<AgentName, Queue>,
    pub(super) replies: HashMap<String, mpsc::Sender<Message>>,
    /// Size of all tasks that wait, are delivered or delayed.
    pub(super) bytes: usize,
    delayed: BTreeMap<(Instant, u64), (AgentName, Item)>,
    next_sequence: u64,
}

/// An agent's queue and its dead letters.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By order of arrival, which a message that is handed back keeps.
    ready: BTreeMap<u64, Item>,
    /// What waits behind the first task of its key, which is ready or delivered. A key is here for as long as it has one.
    behind: HashMap<String, BTreeMap<u64, Item>>,
    pub(super) dead: VecDeque<Item>,
    dead_bytes: usize,
    arrivals: Arc<Notify>,
}

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Message,
    /// Its partition key.
    key: Option<String>,
    pub(super) bytes: usize,
    pub(super) redelivered: bool,
    pub(super) enqueued_at: Instant,
}

/// What a message takes besides its body and headers: its properties, and a place in a map.
const ITEM_OVERHEAD_BYTES: usize = 256;

impl Item {
    pub(super) fn new(message: Message) -> Self {
        let bytes = message.body.len() + headers::size(&message.headers) + ITEM_OVERHEAD_BYTES;
        let key = envelope::partition_key(&message);
        Self { message, key, bytes, redelivered: false, enqueued_at: Instant::now() }
    }
}

impl Queue {
    /// How many tasks are not delivered.
    pub(super) fn waiting(&self) -> usize {
        self.ready.len() + self.behind.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Adds a task, ready where it is the first of its key.
    fn add(&mut self, sequence: u64, item: Item) {
        match item.key.as_ref().and_then(|key| self.behind.get_mut(key)) {
            Some(behind) => drop(behind.insert(sequence, item)),
            None => {
                if let Some(key) = &item.key {
                    self.behind.insert(key.clone(), BTreeMap::new());
                }
                self.make_ready(sequence, item);
            }
        }
    }

    fn make_ready(&mut self, sequence: u64, item: Item) {
        self.ready.insert(sequence, item);
        // A waiter that is told and then goes away passes it on: `Notify` hands the permit to the next.
        self.arrivals.notify_one();
    }

    /// The first task of a key has ended: the next one is ready.
    fn advance(&mut self, key: &str) {
        match self.behind.get_mut(key).and_then(BTreeMap::pop_first) {
            Some((sequence, item)) => self.make_ready(sequence, item),
            None => drop(self.behind.remove(key)),
        }
    }

    /// Takes dead letters out; answers them without their bodies.
    pub(super) fn exhume(&mut self, unwanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let (out, kept): (VecDeque<Item>, VecDeque<Item>) =
            std::mem::take(&mut self.dead).into_iter().partition(|item| unwanted(&item.message));
        self.dead = kept;
        self.dead_bytes -= out.iter().map(|item| item.bytes).sum::<usize>();
        out.into_iter().map(|item| Message { body: bytes::Bytes::new(), ..item.message }).collect()
    }

    /// Adds a dead letter, and drops the oldest where they take too much; tells how many. The new one always stays.
    pub(super) fn bury(&mut self, item: Item, bytes_max: usize) -> usize {
        self.dead_bytes += item.bytes;
        self.dead.push_back(item);
        let before = self.dead.len();
        while self.dead_bytes > bytes_max && self.dead.len() > 1 {
            self.dead_bytes -= self.dead.pop_front().map_or(0, |oldest| oldest.bytes);
        }
        before - self.dead.len()
    }
}

impl State {
    /// Wakes when a message comes to an agent's queue.
    pub(super) fn arrivals(&mut self, agent: &AgentName) -> Arc<Notify> {
        Arc::clone(&self.queues.entry(agent.clone()).or_default().arrivals)
    }

    /// Adds a message at the end of a queue.
    pub(super) fn push(&mut self, agent: &AgentName, item: Item) {
        self.bytes = self.bytes.saturating_add(item.bytes);
        let sequence = self.sequence();
        self.queues.entry(agent.clone()).or_default().add(sequence, item);
    }

    /// Puts an unsettled message back where it was: before those of its key that wait behind it.
    pub(super) fn put_back(&mut self, agent: &AgentName, sequence: u64, item: Item) {
        let queue = self.queues.entry(agent.clone()).or_default();
        queue.make_ready(sequence, Item { redelivered: true, ..item });
    }

    /// A delivered message is done with.
    pub(super) fn done(&mut self, agent: &AgentName, item: &Item) {
        self.bytes = self.bytes.saturating_sub(item.bytes);
        if let (Some(queue), Some(key)) = (self.queues.get_mut(agent), &item.key) {
            queue.advance(key);
        }
    }

    /// Takes the oldest message of a queue.
    pub(super) fn take(&mut self, agent: &AgentName) -> Option<(u64, Item)> {
        let queue = self.queues.get_mut(agent)?;
        let taken = queue.ready.pop_first();
        if !queue.ready.is_empty() {
            // One permit may stand for several arrivals: the next consumer need not wait for another.
            queue.arrivals.notify_one();
        }
        taken
    }

    /// Holds a message back until a moment.
    pub(super) fn delay(&mut self, until: Instant, agent: AgentName, item: Item) {
        self.bytes = self.bytes.saturating_add(item.bytes);
        let sequence = self.sequence();
        self.delayed.insert((until, sequence), (agent, item));
    }

    /// Moves the messages whose time has come to their queues; tells when the next one's comes.
    pub(super) fn end_delays(&mut self, now: Instant) -> Option<Instant> {
        while let Some(entry) = self.delayed.first_entry() {
            let (until, _) = *entry.key();
            if until > now {
                return Some(until);
            }
            let (agent, item) = entry.remove();
            let sequence = self.sequence();
            self.queues.entry(agent).or_default().add(sequence, Item { enqueued_at: now, ..item });
        }
        None
    }

    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }
}
