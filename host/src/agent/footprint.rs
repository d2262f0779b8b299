//! What the tasks of a revision need of the host's memory, as earlier ones showed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::memory::Need;
use crate::task::TaskId;

/// Bytes of the memory that an instance starts with which need not be used: above it, all of it counts from the start. A
/// toolchain's empty stack and heap are 1 to 2 MiB; what is larger is mostly there to be used.
const INITIAL_UNUSED_BYTES_MAX: u64 = 4 << 20;
/// How fast the expectation follows a task that needed more, and one that needed less: a fraction of the difference. Of needs
/// that are spread evenly it comes to rest at the 92nd percentile.
const RISE: u64 = 2;
const FALL: u64 = 256;
/// Tasks whose own need is remembered.
const RETURNED_MAX: usize = 4_096;

/// What tasks of a revision were seen to need.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    /// Memory that an instance starts with.
    initial_bytes: AtomicU64,
    /// High percentile of what is used beyond what may stay unused.
    growth_bytes: AtomicU64,
}

impl Footprint {
    /// What the next task is expected to need.
    pub(super) fn need(&self) -> Need {
        Need {
            initial_bytes: self.initial_bytes.load(Ordering::Relaxed).min(INITIAL_UNUSED_BYTES_MAX),
            growth_bytes: self.growth_bytes.load(Ordering::Relaxed),
        }
    }

    /// An instance has started with this much memory.
    pub(super) fn started_with(&self, bytes: u64) {
        if self.initial_bytes.load(Ordering::Relaxed) != bytes {
            self.initial_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// An instance has ended that had this much memory. Two that end at the same time may overlook each other: the next
    /// ones do not.
    pub(super) fn used(&self, bytes: u64) {
        let need = self.need();
        let (seen, used) = (need.growth_bytes, bytes.saturating_sub(need.initial_bytes));
        let expected = if used > seen { seen + (used - seen).div_ceil(RISE) } else { seen - (seen - used) / FALL };
        // A plain load first: it rarely moves, and then no cache line has to.
        if expected != seen {
            self.growth_bytes.store(expected, Ordering::Relaxed);
        }
    }
}

/// What tasks need that were handed back for their memory: when they come again, they wait until they can have it.
#[derive(Debug, Default)]
pub(super) struct Returned {
    count: AtomicUsize,
    bytes: Mutex<HashMap<TaskId, u64>>,
}

impl Returned {
    /// A task is handed back that had asked for this many bytes in all. It will be given twice as many, so that it is handed
    /// back a few times at most, whatever it needs.
    pub(super) fn note(&self, task: &TaskId, asked_bytes: u64, limit_bytes: u64) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() >= RETURNED_MAX {
            // They run on another host by now, or will be handed back once more.
            bytes.clear();
        }
        bytes.insert(task.clone(), asked_bytes.saturating_mul(2).min(limit_bytes));
        self.count.store(bytes.len(), Ordering::Relaxed);
    }

    /// What a task needs of which its agent's others need this much.
    pub(super) fn need(&self, task: &TaskId, others: Need) -> Need {
        if self.count.load(Ordering::Relaxed) == 0 {
            return others;
        }
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let own = bytes.get(task).map_or(0, |bytes| bytes.saturating_sub(others.initial_bytes));
        Need { growth_bytes: others.growth_bytes.max(own), ..others }
    }

    /// A task has ended.
    pub(super) fn forget(&self, task: &TaskId) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            bytes.remove(task);
            self.count.store(bytes.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_expected_is_a_high_percentile() {
        let footprint = Footprint::default();
        footprint.started_with(MIB);
        for task in 0..10_000_u64 {
            footprint.used(MIB + (task * 7_919 % 100) * MIB);
        }
        let growth = footprint.need().growth_bytes / MIB;
        assert!((85..=99).contains(&growth), "{growth} MiB, of up to 99");
        assert_eq!(footprint.need().initial_bytes, MIB);
    }

    #[test]
    fn a_large_first_memory_counts_as_used() {
        let footprint = Footprint::default();
        footprint.started_with(100 * MIB);
        footprint.used(100 * MIB);
        footprint.used(100 * MIB);
        let need = footprint.need();
        assert_eq!(need.initial_bytes, INITIAL_UNUSED_BYTES_MAX);
        assert!(need.growth_bytes >= 72 * MIB, "{need:?}");
    }

    #[test]
    fn a_task_that_was_handed_back_is_known_to_need_more_until_it_has_ended() {
        let (returned, task, other) = (Returned::default(), TaskId::generate(), TaskId::generate());
        let others = Need { initial_bytes: MIB, growth_bytes: 2 * MIB };
        assert_eq!(returned.need(&task, others), others);
        returned.note(&task, 11 * MIB, 100 * MIB);
        assert_eq!(returned.need(&task, others), Need { growth_bytes: 21 * MIB, ..others });
        assert_eq!(returned.need(&other, others), others);
        returned.note(&task, 80 * MIB, 100 * MIB);
        assert_eq!(returned.need(&task, others), Need { growth_bytes: 99 * MIB, ..others }, "no more than it may");
        returned.forget(&task);
        assert_eq!(returned.need(&task, others), others);
    }

    proptest! {
        #[test]
        fn what_is_expected_lies_among_what_was_seen(used in proptest::collection::vec(0..1_000 * MIB, 1..50)) {
            let footprint = Footprint::default();
            used.iter().for_each(|bytes| footprint.used(*bytes));
            prop_assert!(footprint.need().growth_bytes <= *used.iter().max().unwrap());
        }
    }
}
