//! The tasks that this host has in hand, by their ids: a task is run once at a time here, and can be found to be stopped or
//! noted as running.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Attempt;
use crate::task::TaskId;

/// Tasks in hand.
#[derive(Debug, Default)]
pub struct InHand {
    tasks: Mutex<HashMap<TaskId, Arc<Held>>>,
}

#[derive(Debug)]
struct Held {
    cancel: CancellationToken,
    since: Instant,
    let_go: Notify,
    /// Its run, while it has one.
    run: Mutex<Option<Arc<Attempt>>>,
}

impl Held {
    fn run(&self) -> MutexGuard<'_, Option<Arc<Attempt>>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task in hand, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    of: Arc<InHand>,
    id: TaskId,
    held: Arc<Held>,
}

impl InHand {
    fn tasks(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<Held>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a task in hand, unless another delivery of it is.
    pub(super) fn try_take(self: &Arc<Self>, id: &TaskId) -> Option<Hold> {
        self.take_or_find(id).ok()
    }

    fn take_or_find(self: &Arc<Self>, id: &TaskId) -> Result<Hold, Arc<Held>> {
        match self.tasks().entry(id.clone()) {
            Entry::Vacant(entry) => {
                let held = Held {
                    cancel: CancellationToken::new(),
                    since: Instant::now(),
                    let_go: Notify::new(),
                    run: Mutex::default(),
                };
                let held = Arc::clone(entry.insert(Arc::new(held)));
                Ok(Hold { of: Arc::clone(self), id: id.clone(), held })
            }
            Entry::Occupied(entry) => Err(Arc::clone(entry.get())),
        }
    }

    /// Takes a task in hand, as soon as no other delivery of it is.
    pub(super) async fn take(self: &Arc<Self>, id: &TaskId) -> Hold {
        loop {
            let other = match self.take_or_find(id) {
                Ok(hold) => return hold,
                Err(other) => other,
            };
            let let_go = other.let_go.notified();
            tokio::pin!(let_go);
            // Listening from here on; whether it was let go before that, the map tells.
            let_go.as_mut().enable();
            let is_held = self.tasks().get(id).is_some_and(|held| Arc::ptr_eq(held, &other));
            if is_held {
                let_go.await;
            }
        }
    }

    /// Those that have been in hand for longer than this.
    pub(super) fn longer_than(&self, age: Duration) -> Vec<TaskId> {
        let tasks = self.tasks();
        tasks.iter().filter(|(_, held)| held.since.elapsed() > age).map(|(id, _)| id.clone()).collect()
    }

    /// Notes those as running that have been in hand for longer than this and run.
    pub(super) fn note_running(&self, age: Duration) {
        let old = |held: &&Arc<Held>| held.since.elapsed() > age;
        let held: Vec<Arc<Held>> = self.tasks().values().filter(old).cloned().collect();
        // Noted under the lock: nothing says of a run that is over that it goes on.
        held.iter().for_each(|held| held.run().iter().for_each(|run| run.note_running()));
    }

    /// Has these stopped for good, where they are in hand.
    pub(super) fn cancel(&self, ids: &[TaskId]) {
        let tasks = self.tasks();
        ids.iter().filter_map(|id| tasks.get(id)).for_each(|held| held.cancel.cancel());
    }
}

impl Hold {
    /// Says when the task is cancelled.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.held.cancel
    }

    /// Its run begins.
    pub(super) fn runs(&self, attempt: Arc<Attempt>) {
        *self.held.run() = Some(attempt);
    }

    /// Its run is over.
    pub(super) fn ran(&self) {
        *self.held.run() = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.of.tasks().remove(&self.id);
        self.held.let_go.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_delivery_waits_for_the_first() {
        let in_hand = Arc::new(InHand::default());
        let id = TaskId::generate();
        let first = in_hand.take(&id).await;
        assert!(in_hand.try_take(&id).is_none());
        let (mut second, mut third) = (Box::pin(in_hand.take(&id)), Box::pin(in_hand.take(&id)));
        assert!(futures::poll!(second.as_mut()).is_pending());
        assert!(futures::poll!(third.as_mut()).is_pending());
        in_hand.take(&TaskId::generate()).await;
        drop(first);
        let second = second.await;
        assert!(futures::poll!(third.as_mut()).is_pending());
        in_hand.cancel(&[TaskId::generate(), id.clone()]);
        assert!(second.cancel().is_cancelled());
        drop(second);
        drop(third.await);
        assert!(in_hand.longer_than(Duration::ZERO).is_empty());
    }
}
