//! The account of one running task: what its instance grew by, and what the host holds for it.
//!
//! Rows, values, bodies and whatever else a guest has the host hold count like the instance's own memory: within what the
//! task has reserved they are free to take, beyond it there has to be room. Nobody waits with them in hand: a task that has
//! no room for what it asks leaves, as one that all others wait for would. It comes again and then has room for twice as much.
//! One that is alone may take of the headroom, and is out of memory where that does not do.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Inner, whole_pages};

/// What is smaller than this is not accounted for by itself. Of such even a thousand show in what is measured only.
pub const HELD_FROM_BYTES: u64 = 64 << 10;

/// There is no room for what a task wants the host to hold. It is to be handed back, and uses up no attempt, unless
/// [nobody else has the memory](super::Growth::was_refused_alone).
#[derive(Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("the memory budget has no room for what the host was to hold for the task")]
pub struct NoRoom;

/// A task's bytes.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) inner: Arc<Inner>,
    pub(super) number: u64,
    initial_bytes: u64,
    bytes: Mutex<Bytes>,
}

#[derive(Debug, Default)]
struct Bytes {
    /// What the instance has, beyond the initial.
    grown: u64,
    /// What the host holds.
    held: u64,
    /// What both may have together.
    reserved: u64,
    peak: u64,
    asked: u64,
    /// Whether something was refused while no other task ran.
    refused_alone: bool,
}

impl Account {
    pub(super) fn open(inner: Arc<Inner>, number: u64, initial_bytes: u64, reserved: u64) -> Arc<Self> {
        Arc::new(Self { inner, number, initial_bytes, bytes: Mutex::new(Bytes { reserved, ..Bytes::default() }) })
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        // A panic while holding the lock leaves plain numbers, still usable.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both may have so many bytes, without waiting.
    fn try_reserve(&self, bytes: &mut Bytes, wanted: u64, grow: impl FnOnce(u64) -> bool) -> bool {
        bytes.asked = bytes.asked.max(wanted);
        let more = whole_pages(wanted).saturating_sub(bytes.reserved);
        let granted = more == 0 || grow(more);
        if granted {
            bytes.reserved = bytes.reserved.saturating_add(more);
        }
        granted
    }

    fn has(&self, bytes: &mut Bytes, grown: u64, held: u64) {
        let (before, now) = (bytes.grown.saturating_add(bytes.held), grown.saturating_add(held));
        (bytes.grown, bytes.held) = (grown, held);
        bytes.peak = bytes.peak.max(now);
        match now.checked_sub(before) {
            Some(more) => self.inner.grown_bytes.fetch_add(more, Ordering::Relaxed),
            None => self.inner.grown_bytes.fetch_sub(before.saturating_sub(now), Ordering::Relaxed),
        };
    }

    pub(super) fn try_grow_to(&self, instance_bytes: u64) -> bool {
        let mut bytes = self.bytes();
        let (grown, held) = (instance_bytes.saturating_sub(self.initial_bytes).max(bytes.grown), bytes.held);
        let may = self.try_reserve(&mut bytes, grown.saturating_add(held), |more| {
            self.inner.state().try_grow(self.number, more, self.inner.charged())
        });
        if may {
            self.has(&mut bytes, grown, held);
        }
        may
    }

    /// What has to be reserved before the instance can have this much.
    pub(super) fn missing(&self, instance_bytes: u64) -> u64 {
        let bytes = self.bytes();
        let wanted = instance_bytes.saturating_sub(self.initial_bytes).saturating_add(bytes.held);
        whole_pages(wanted).saturating_sub(bytes.reserved)
    }

    /// More was reserved, and the instance has it.
    pub(super) fn was_granted(&self, more: u64, instance_bytes: u64) {
        let mut bytes = self.bytes();
        bytes.reserved = bytes.reserved.saturating_add(more);
        let (grown, held) = (instance_bytes.saturating_sub(self.initial_bytes), bytes.held);
        self.has(&mut bytes, grown, held);
    }

    pub(super) fn instance_is_gone(&self) {
        let mut bytes = self.bytes();
        let held = bytes.held;
        self.has(&mut bytes, 0, held);
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.initial_bytes.saturating_add(self.bytes().peak)
    }

    pub(super) fn asked_bytes(&self) -> u64 {
        self.initial_bytes.saturating_add(self.bytes().asked)
    }

    pub(super) fn was_refused_alone(&self) -> bool {
        self.bytes().refused_alone
    }

    /// The host holds so many bytes in place of so many.
    fn hold(&self, before: u64, now: u64) -> Result<(), NoRoom> {
        let mut bytes = self.bytes();
        let (grown, held) = (bytes.grown, bytes.held.saturating_sub(before).saturating_add(now));
        let mut is_alone = false;
        let may = now <= before
            || self.try_reserve(&mut bytes, grown.saturating_add(held), |more| {
                let (mut state, charged) = (self.inner.state(), self.inner.charged());
                is_alone = state.is_alone(self.number);
                state.try_grow(self.number, more, charged)
                    || state.try_grow_alone(self.number, more, charged, self.inner.full_bytes())
            });
        if !may {
            bytes.refused_alone |= is_alone;
            return Err(NoRoom);
        }
        self.has(&mut bytes, grown, held);
        Ok(())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let bytes = self.bytes.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.inner.grown_bytes.fetch_sub(bytes.grown.saturating_add(bytes.held), Ordering::Relaxed);
    }
}

/// What the host holds for one task is accounted here. One without a task accounts for nothing.
#[derive(Clone, Debug, Default)]
pub struct Holder {
    account: Option<Arc<Account>>,
}

impl Holder {
    pub(super) fn of(account: &Arc<Account>) -> Self {
        Self { account: Some(Arc::clone(account)) }
    }

    /// See [`Growth`](super::Growth::was_refused_alone).
    #[must_use]
    pub fn was_refused_alone(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.was_refused_alone())
    }

    /// Nothing yet.
    #[must_use]
    pub fn nothing(&self) -> Held {
        Held { holder: self.clone(), bytes: 0 }
    }

    /// Accounts for bytes that the host is about to hold, or that a call has just brought.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn hold(&self, bytes: usize) -> Result<Held, NoRoom> {
        let mut held = self.nothing();
        held.resize(bytes)?;
        Ok(held)
    }
}

/// Bytes that the host holds for a task until this is dropped.
#[derive(Debug, Default)]
pub struct Held {
    holder: Holder,
    bytes: u64,
}

impl Held {
    /// There are so many of them now.
    ///
    /// # Errors
    /// There is no room for them; they stay accounted for as before.
    pub fn resize(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let bytes = Some(bytes as u64).filter(|bytes| *bytes >= HELD_FROM_BYTES).unwrap_or(0);
        if let Some(account) = self.holder.account.as_ref().filter(|_| bytes != self.bytes) {
            account.hold(self.bytes, bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Giving back always succeeds.
        let _ = self.resize(0);
    }
}
