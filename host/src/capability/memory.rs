//! The in-process store behind the embedded key-value and the embedded cache.
//!
//! Volatile, bounded in bytes, with times to live. Keys carry a number that says when they were made: listings walk in
//! that order, which makes their cursors hold while keys come and go, and the cache forgets in that order when it is full.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// What each entry takes beyond its key and value: the maps' own nodes, counted so that many tiny entries stay bounded.
const ENTRY_BYTES: usize = 128;

pub(super) struct Entries {
    entries: HashMap<String, Entry>,
    order: BTreeMap<u64, String>,
    made: u64,
    bytes: usize,
    bytes_max: usize,
}

struct Entry {
    number: u64,
    value: Vec<u8>,
    expires_at: Option<Instant>,
}

impl Entry {
    fn is_live(&self, now: Instant) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

/// The store is full.
#[derive(Debug)]
pub(super) struct Full;

/// The value is no whole number, or the sum does not fit 64 bits.
#[derive(Debug)]
pub(super) struct NotANumber;

impl Entries {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), made: 0, bytes: 0, bytes_max }
    }

    /// The value of a live key.
    pub(super) fn get(&self, key: &str) -> Option<&Vec<u8>> {
        let entry = self.entries.get(key)?;
        entry.is_live(Instant::now()).then_some(&entry.value)
    }

    /// Whether these can be set without passing the bound, counted as if none of them were there.
    pub(super) fn has_room<'a>(&self, new: impl Iterator<Item = (&'a str, usize)>) -> bool {
        let bytes = new.fold(self.bytes, |sum, (key, value)| sum.saturating_add(cost(key, value)));
        bytes <= self.bytes_max
    }

    /// Sets a key. The caller has seen to the room.
    pub(super) fn set(&mut self, key: &str, value: Vec<u8>, expires_at: Option<Instant>) {
        // A key that is set again keeps its number, so that a listing under way neither misses nor repeats it.
        let number = match self.entries.get(key) {
            Some(entry) if entry.is_live(Instant::now()) => entry.number,
            _ => {
                self.remove(key);
                self.made = self.made.saturating_add(1);
                self.order.insert(self.made, key.to_owned());
                self.made
            }
        };
        self.bytes = self.bytes.saturating_add(cost(key, value.len()));
        if let Some(old) = self.entries.insert(key.to_owned(), Entry { number, value, expires_at }) {
            self.bytes = self.bytes.saturating_sub(cost(key, old.value.len()));
        }
    }

    /// Removes a key and says whether it was there and live.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.order.remove(&entry.number);
        self.bytes = self.bytes.saturating_sub(cost(key, entry.value.len()));
        entry.is_live(Instant::now())
    }

    /// Adds to the whole number of a key; its time to live stays.
    pub(super) fn increment(&mut self, key: &str, delta: i64) -> Result<Result<i64, NotANumber>, Full> {
        let (old, expires_at) = match self.entries.get(key) {
            Some(entry) if entry.is_live(Instant::now()) => (whole_number(&entry.value), entry.expires_at),
            _ => (Some(0), None),
        };
        let Some(sum) = old.and_then(|old| old.checked_add(delta)) else { return Ok(Err(NotANumber)) };
        let value = sum.to_string().into_bytes();
        if !self.has_room([(key, value.len())].into_iter()) {
            return Err(Full);
        }
        self.set(key, value, expires_at);
        Ok(Ok(sum))
    }

    /// Gives a live key a new time to live and says whether there was one.
    pub(super) fn expire(&mut self, key: &str, expires_at: Instant) -> bool {
        match self.entries.get_mut(key) {
            Some(entry) if entry.is_live(Instant::now()) => {
                entry.expires_at = Some(expires_at);
                true
            }
            _ => false,
        }
    }

    /// Live keys with this prefix made after `cursor`, at most `max`, and where to go on.
    pub(super) fn keys(&self, prefix: &str, cursor: u64, max: usize) -> (Vec<&str>, Option<u64>) {
        let now = Instant::now();
        let mut found = Vec::new();
        for (number, key) in self.order.range(cursor.saturating_add(1)..) {
            let live = self.entries.get(key).is_some_and(|entry| entry.is_live(now));
            let Some(own) = key.strip_prefix(prefix).filter(|_| live) else { continue };
            found.push(own);
            if found.len() >= max {
                return (found, Some(*number));
            }
        }
        (found, None)
    }

    /// Forgets the oldest keys until this entry fits.
    pub(super) fn make_room(&mut self, key: &str, value_bytes: usize) {
        while !self.has_room([(key, value_bytes)].into_iter()) {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(cost(&oldest, entry.value.len()));
            }
        }
    }
}

fn cost(key: &str, value_bytes: usize) -> usize {
    // The key is held twice: by the map and by the order.
    key.len().saturating_mul(2).saturating_add(value_bytes).saturating_add(ENTRY_BYTES)
}

/// A whole number as Redis reads it: decimal digits, no spaces, no plus sign, no leading zeros.
fn whole_number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
