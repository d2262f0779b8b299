//! The embedded broker's queues.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::delivery::Message;
use crate::delivery::envelope::headers;
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
    pub(super) ready: BTreeMap<u64, Item>,
    pub(super) dead: VecDeque<Item>,
    dead_bytes: usize,
    arrivals: Arc<Notify>,
}

/// A message in a queue.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) message: Message,
    pub(super) bytes: usize,
    pub(super) redelivered: bool,
    pub(super) enqueued_at: Instant,
}

/// What a message takes besides its body and headers: its properties, and a place in a map.
const ITEM_OVERHEAD_BYTES: usize = 256;

impl Item {
    pub(super) fn new(message: Message) -> Self {
        let bytes = message.body.len() + headers::size(&message.headers) + ITEM_OVERHEAD_BYTES;
        Self { message, bytes, redelivered: false, enqueued_at: Instant::now() }
    }
}

impl Queue {
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
        self.put(agent, None, item);
    }

    /// Puts an unsettled message back where it was.
    pub(super) fn put_back(&mut self, agent: &AgentName, sequence: u64, item: Item) {
        self.put(agent, Some(sequence), Item { redelivered: true, ..item });
    }

    fn put(&mut self, agent: &AgentName, sequence: Option<u64>, item: Item) {
        let sequence = sequence.unwrap_or_else(|| self.sequence());
        let queue = self.queues.entry(agent.clone()).or_default();
        queue.ready.insert(sequence, item);
        // A waiter that is told and then goes away passes it on: `Notify` hands the permit to the next.
        queue.arrivals.notify_one();
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
            self.put(&agent, None, Item { enqueued_at: now, ..item });
        }
        None
    }

    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }
}
