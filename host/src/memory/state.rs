//! Who has what, who waits for what, and who gets it: pure, with the time as an argument.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{ALONE_MAX, Leave, Need, PAGE_BYTES, PROMISE, STUCK_MAX, whole_pages};

/// How much of what there is the tasks of one agent may take, in percent: a backlog of one agent leaves room for the next
/// task of another.
const SHARE_PERCENT: u64 = 75;
/// Below this many bytes of first memories nothing is concluded from what the process keeps resident.
const DENSITY_FROM_BYTES: u64 = 32 << 20;
/// The least of its first memory that an instance is promised, in percent, however little others touch.
const DENSITY_PERCENT_MIN: u64 = 10;

/// A task that was admitted.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) number: u64,
    pub(super) leave: Arc<Leave>,
    /// What it may grow by without asking.
    pub(super) reserved_bytes: u64,
}

/// What somebody waited for.
#[derive(Debug)]
pub(super) enum Grant {
    Admitted(Task, oneshot::Sender<Task>),
    /// Whether it may grow.
    Grown(bool, oneshot::Sender<bool>),
}

/// A running task.
#[derive(Debug)]
struct Entry {
    share: u64,
    reserved: u64,
    promised: u64,
    initial: u64,
    since: Instant,
    leave: Arc<Leave>,
    is_leaving: bool,
}

#[derive(Debug)]
struct Growing {
    bytes: u64,
    answer: oneshot::Sender<bool>,
}

#[derive(Debug, Default)]
struct Share {
    taken: u64,
    queue: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    ticket: u64,
    need: Need,
    answer: oneshot::Sender<Task>,
}

/// The books. Bytes throughout, in whole pages.
#[derive(Debug)]
pub(super) struct State {
    capacity: u64,
    instances_max: usize,
    baseline: u64,
    /// How much of their first memory instances have resident, in percent.
    density_percent: u64,
    reserved: u64,
    promised: u64,
    /// First memories of all running tasks.
    initial: u64,
    /// By age: the smallest number is the oldest.
    running: BTreeMap<u64, Entry>,
    growing: BTreeMap<u64, Growing>,
    shares: BTreeMap<u64, Share>,
    next_number: u64,
    /// Since when all have waited for each other.
    stuck_since: Option<Instant>,
    /// When a task was last asked to leave.
    asked_at: Option<Instant>,
}

impl State {
    pub(super) fn new(capacity: u64, instances_max: u32) -> Self {
        Self {
            capacity,
            instances_max: instances_max as usize,
            baseline: 0,
            density_percent: 100,
            reserved: 0,
            promised: 0,
            initial: 0,
            running: BTreeMap::new(),
            growing: BTreeMap::new(),
            shares: BTreeMap::new(),
            next_number: 0,
            stuck_since: None,
            asked_at: None,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn open_share(&mut self) -> u64 {
        let number = self.number();
        self.shares.insert(number, Share::default());
        number
    }

    pub(super) fn close_share(&mut self, number: u64) {
        self.shares.remove(&number);
    }

    pub(super) fn reserved_bytes(&self) -> u64 {
        self.reserved.saturating_add(self.promised)
    }

    pub(super) fn baseline_bytes(&self) -> u64 {
        self.baseline
    }

    #[cfg(test)]
    pub(super) fn running_count(&self) -> usize {
        self.running.len()
    }

    /// What tasks may have together.
    fn for_tasks(&self) -> u64 {
        self.capacity.saturating_sub(self.baseline)
    }

    fn free(&self, charged: u64) -> u64 {
        self.for_tasks().saturating_sub(self.reserved_bytes().saturating_add(charged))
    }

    fn promise(&self, need: Need) -> u64 {
        whole_pages(need.initial_bytes.saturating_mul(self.density_percent) / 100)
    }

    fn cost(&self, need: Need) -> u64 {
        whole_pages(need.growth_bytes).saturating_add(self.promise(need))
    }

    /// Whether the agent's share has room for one more. The first one always has.
    fn share_has_room(&self, share: &Share, need: Need) -> bool {
        let max = self.for_tasks() / 100 * SHARE_PERCENT;
        share.taken == 0 || share.taken.saturating_add(self.cost(need)) <= max
    }

    /// Whether there is room for a task: what is larger than everything runs alone.
    fn has_room(&self, need: Need, charged: u64) -> bool {
        self.running.is_empty() || (self.running.len() < self.instances_max && self.cost(need) <= self.free(charged))
    }

    /// Admits a task at once where there is room; for whoever has seen that nobody waits.
    pub(super) fn try_admit(&mut self, share: u64, need: Need, charged: u64, now: Instant) -> Option<Task> {
        let has_share = self.shares.get(&share).is_some_and(|share| self.share_has_room(share, need));
        (has_share && self.growing.is_empty() && self.has_room(need, charged))
            .then(|| self.start(share, need, charged, now))
    }

    fn start(&mut self, share: u64, need: Need, charged: u64, now: Instant) -> Task {
        let (number, leave) = (self.number(), Arc::new(Leave::default()));
        let promised = self.promise(need);
        // Less for one only that is larger than everything.
        let free_pages = self.free(charged).saturating_sub(promised) / PAGE_BYTES;
        let reserved = whole_pages(need.growth_bytes).min(free_pages * PAGE_BYTES);
        let initial = whole_pages(need.initial_bytes);
        let entry =
            Entry { share, reserved, promised, initial, since: now, leave: Arc::clone(&leave), is_leaving: false };
        self.take(share, reserved.saturating_add(promised));
        self.reserved = self.reserved.saturating_add(reserved);
        self.promised = self.promised.saturating_add(promised);
        self.initial = self.initial.saturating_add(initial);
        self.running.insert(number, entry);
        self.stuck_since = None;
        Task { number, leave, reserved_bytes: reserved }
    }

    fn take(&mut self, share: u64, bytes: u64) {
        if let Some(share) = self.shares.get_mut(&share) {
            share.taken = share.taken.saturating_add(bytes);
        }
    }

    fn give(&mut self, share: u64, bytes: u64) {
        if let Some(share) = self.shares.get_mut(&share) {
            share.taken = share.taken.saturating_sub(bytes);
        }
    }

    /// A task has ended, and its memory is free.
    pub(super) fn end(&mut self, number: u64) {
        let Some(entry) = self.running.remove(&number) else { return };
        self.growing.remove(&number);
        self.reserved = self.reserved.saturating_sub(entry.reserved);
        self.promised = self.promised.saturating_sub(entry.promised);
        self.initial = self.initial.saturating_sub(entry.initial);
        self.give(entry.share, entry.reserved.saturating_add(entry.promised));
        self.stuck_since = None;
    }

    /// Puts a task into its agent's queue, and answers its place there.
    pub(super) fn queue(&mut self, share: u64, need: Need, answer: oneshot::Sender<Task>) -> u64 {
        let ticket = self.number();
        if let Some(share) = self.shares.get_mut(&share) {
            share.queue.push_back(Queued { ticket, need, answer });
        }
        ticket
    }

    pub(super) fn leave_queue(&mut self, share: u64, ticket: u64) {
        if let Some(share) = self.shares.get_mut(&share) {
            share.queue.retain(|queued| queued.ticket != ticket);
        }
    }

    /// Lets a task grow where there is room and no older one waits for it.
    pub(super) fn try_grow(&mut self, number: u64, bytes: u64, charged: u64) -> bool {
        let is_first = self.growing.first_key_value().is_none_or(|(oldest, _)| number < *oldest);
        let may = is_first && bytes <= self.free(charged);
        if may {
            self.grow(number, bytes);
        }
        may
    }

    /// Whether nobody else could leave to make room for a task.
    pub(super) fn is_alone(&self, number: u64) -> bool {
        self.running.len() == 1 && self.running.contains_key(&number)
    }

    /// Lets a task that is alone grow into the headroom, up to so many bytes for everything.
    pub(super) fn try_grow_alone(&mut self, number: u64, bytes: u64, charged: u64, max: u64) -> bool {
        let taken = self.baseline.saturating_add(self.reserved_bytes()).saturating_add(charged);
        let may = self.is_alone(number) && taken.saturating_add(bytes) <= max;
        if may {
            self.grow(number, bytes);
        }
        may
    }

    fn grow(&mut self, number: u64, bytes: u64) {
        let Some(entry) = self.running.get_mut(&number) else { return };
        entry.reserved = entry.reserved.saturating_add(bytes);
        let share = entry.share;
        self.reserved = self.reserved.saturating_add(bytes);
        self.take(share, bytes);
    }

    pub(super) fn wait_to_grow(&mut self, number: u64, bytes: u64, answer: oneshot::Sender<bool>) {
        self.growing.insert(number, Growing { bytes, answer });
    }

    /// The task does not wait any more; answers whether it did.
    pub(super) fn stop_growing(&mut self, number: u64) -> bool {
        self.growing.remove(&number).is_some()
    }

    /// Gives what is free to those who wait: first to those who run, the oldest first, then to new ones in their order.
    pub(super) fn share_out(&mut self, charged: u64, now: Instant) -> Vec<Grant> {
        let mut granted = Vec::new();
        while let Some((number, bytes)) = self.growing.first_key_value().map(|(number, one)| (*number, one.bytes)) {
            if bytes > self.free(charged) {
                return granted;
            }
            if let Some(Growing { answer, .. }) = self.growing.remove(&number) {
                self.grow(number, bytes);
                granted.push(Grant::Grown(true, answer));
            }
        }
        while let Some((number, need)) = self.next_in_line() {
            if !self.has_room(need, charged) {
                break;
            }
            let queued = self.shares.get_mut(&number).and_then(|share| share.queue.pop_front());
            let Some(Queued { need, answer, .. }) = queued else { break };
            granted.push(Grant::Admitted(self.start(number, need, charged, now), answer));
        }
        granted
    }

    /// The first in line whose agent's share has room.
    fn next_in_line(&self) -> Option<(u64, Need)> {
        let first = |(number, share): (&u64, &Share)| {
            let first = share.queue.front()?;
            self.share_has_room(share, first.need).then_some((first.ticket, *number, first.need))
        };
        let next = self.shares.iter().filter_map(|(number, share)| first((number, share)));
        next.min_by_key(|(ticket, ..)| *ticket).map(|(_, number, need)| (number, need))
    }

    /// Takes note of the baseline, and of how much of it came with the instances.
    pub(super) fn measured(&mut self, baseline: u64, above_idle: u64) {
        self.baseline = baseline;
        self.density_percent = if self.initial < DENSITY_FROM_BYTES {
            100
        } else {
            (above_idle.saturating_mul(100) / self.initial).clamp(DENSITY_PERCENT_MIN, 100)
        };
    }

    /// What only the passing of time decides.
    pub(super) fn tick(&mut self, charged: u64, now: Instant) -> Vec<Grant> {
        self.keep_promises(now);
        let mut granted = self.share_out(charged, now);
        // Promises come free by themselves.
        if self.growing.is_empty() || !self.all_wait() || self.promised > 0 {
            self.stuck_since = None;
            return granted;
        }
        let stuck = now.saturating_duration_since(*self.stuck_since.get_or_insert(now));
        if self.running.len() > 1 {
            if stuck >= STUCK_MAX {
                self.ask_one_to_leave(now);
            }
        } else if stuck >= ALONE_MAX
            && let Some((_, Growing { answer, .. })) = self.growing.pop_first()
        {
            granted.push(Grant::Grown(false, answer));
        }
        granted
    }

    /// Instances that have been there for a while have touched of their first memory what they do.
    fn keep_promises(&mut self, now: Instant) {
        if self.promised == 0 {
            return;
        }
        for entry in self.running.values_mut() {
            if entry.promised > 0 && now.saturating_duration_since(entry.since) >= PROMISE {
                self.promised = self.promised.saturating_sub(entry.promised);
                if let Some(share) = self.shares.get_mut(&entry.share) {
                    share.taken = share.taken.saturating_sub(entry.promised);
                }
                entry.promised = 0;
            }
        }
    }

    /// Whether nobody is left who could free anything.
    fn all_wait(&self) -> bool {
        self.running.len() == self.growing.len() && !self.running.values().any(|entry| entry.is_leaving)
    }

    /// Asks the youngest to leave, unless it is the only one, or what the last one leaves may not be free yet.
    pub(super) fn ask_one_to_leave(&mut self, now: Instant) {
        let asked_lately = self.asked_at.is_some_and(|asked| now.saturating_duration_since(asked) < STUCK_MAX);
        if asked_lately || self.running.len() < 2 || self.running.values().any(|entry| entry.is_leaving) {
            return;
        }
        if let Some(youngest) = self.running.values_mut().next_back() {
            youngest.is_leaving = true;
            youngest.leave.ask();
            self.asked_at = Some(now);
        }
        self.stuck_since = None;
    }
}
