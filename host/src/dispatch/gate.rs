//! How many tasks of an agent run at once on a host, whatever their revisions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The agent's places. A deploy may change how many there are, while tasks are in them.
pub(super) struct Gate {
    free: Arc<Semaphore>,
    size: Mutex<Size>,
}

struct Size {
    places: u32,
    /// Places too many, which go as tasks leave them.
    owed: u32,
}

impl Gate {
    pub(super) fn new(places: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(places as usize)), size: Mutex::new(Size { places, owed: 0 }) }
    }

    /// Changes how many places there are. Nobody is put out of one.
    pub(super) fn resize(&self, places: u32) {
        let mut size = self.size();
        let more = places.saturating_sub(size.places);
        let kept = more.min(size.owed);
        size.owed -= kept;
        self.free.add_permits((more - kept) as usize);
        let fewer = size.places.saturating_sub(places);
        let gone = u32::try_from(self.free.forget_permits(fewer as usize)).unwrap_or(fewer);
        size.owed += fewer.saturating_sub(gone);
        size.places = places;
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Entered> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(Entered { permit: Some(permit), gate: Arc::clone(self) })
    }

    /// The lock is held for a few sums, and nothing in there panics.
    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, until it is dropped.
pub(super) struct Entered {
    permit: Option<OwnedSemaphorePermit>,
    gate: Arc<Gate>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut size = self.gate.size();
        if let Some(permit) = self.permit.take()
            && size.owed > 0
        {
            size.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn enter(gate: &Arc<Gate>) -> Option<Entered> {
        gate.enter().now_or_never().flatten()
    }

    #[test]
    fn places_that_are_taken_away_go_as_tasks_leave_them() {
        let gate = Arc::new(Gate::new(2));
        let (first, second) = (enter(&gate).unwrap(), enter(&gate).unwrap());
        assert!(enter(&gate).is_none());
        gate.resize(1);
        drop(first);
        assert!(enter(&gate).is_none(), "one is in, and one may be");
        drop(second);
        let third = enter(&gate).unwrap();
        assert!(enter(&gate).is_none());
        gate.resize(3);
        let more = [enter(&gate).unwrap(), enter(&gate).unwrap()];
        assert!(enter(&gate).is_none());
        drop((third, more));
    }

    proptest! {
        #[test]
        fn as_many_enter_as_there_are_places(steps in prop::collection::vec((0_u8..3, 1_u32..5), 0..60)) {
            let gate = Arc::new(Gate::new(2));
            let (mut places, mut inside) = (2, Vec::new());
            for (step, number) in steps {
                match step {
                    0 => {
                        gate.resize(number);
                        places = number;
                    }
                    1 => drop(inside.pop()),
                    _ => {
                        let entered = enter(&gate);
                        prop_assert_eq!(entered.is_some(), inside.len() < places as usize);
                        inside.extend(entered);
                    }
                }
            }
        }
    }
}
