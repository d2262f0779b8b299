//! Which delay queues a host uses: those that are known to exist, and those that it leaves out for a while.
//!
//! RabbitMQ 3.10 that is killed right after it has made a quorum queue comes back without a leader for it, for good: whoever
//! publishes to it waits for a confirm that never comes. A delay is then made by a longer delay queue, so that no task waits
//! for an operator: late by a step of the ladder more than it should be, and never early.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::broker::topology::Bucket;

/// How long a delay queue that did not confirm is left out, before a message tries it again.
const LEFT_OUT_FOR: Duration = Duration::from_secs(60);

/// How many delay queues in a row are passed over. More would make delays that nobody asked for; and where so many answer
/// nothing, the broker as a whole is what is ill.
const PASSED_OVER_MAX: usize = 2;

/// What this host knows of the delay queues.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    known: Mutex<HashSet<Bucket>>,
    silent_since: Mutex<HashMap<Bucket, Instant>>,
}

impl Buckets {
    /// Whether a delay queue is known to exist.
    pub(super) fn knows(&self, bucket: Bucket) -> bool {
        locked(&self.known).contains(&bucket)
    }

    /// Notes that a delay queue exists.
    pub(super) fn add(&self, bucket: Bucket) {
        locked(&self.known).insert(bucket);
    }

    /// Forgets which exist.
    pub(super) fn forget(&self) {
        locked(&self.known).clear();
    }

    /// Notes that a delay queue confirms nothing.
    pub(super) fn is_silent(&self, bucket: Bucket) {
        let before = locked(&self.silent_since).insert(bucket, Instant::now());
        if before.is_none() {
            let queue = bucket.name();
            tracing::warn!(queue, "a delay queue confirms nothing; longer ones stand in for it, see docs/delivery.md");
        }
    }

    /// The delay queue for a delay: the first that is not shorter and not silent.
    pub(super) fn for_delay(&self, delay: Duration) -> Bucket {
        let first = Bucket::for_delay(delay);
        let mut silent_since = locked(&self.silent_since);
        if silent_since.is_empty() {
            return first;
        }
        silent_since.retain(|_, since| since.elapsed() < LEFT_OUT_FOR);
        let mut candidates = Bucket::all().skip_while(|bucket| *bucket < first).take(1 + PASSED_OVER_MAX);
        candidates.find(|bucket| !silent_since.contains_key(bucket)).unwrap_or(first)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_bucket_is_passed_over_and_two_at_most() {
        let buckets = Buckets::default();
        let delay = Duration::from_millis(600);
        let chosen = || buckets.for_delay(delay).delay_ms();
        assert_eq!(chosen(), 750);
        buckets.is_silent(Bucket::for_delay(delay));
        assert_eq!(chosen(), 1_000);
        buckets.is_silent(buckets.for_delay(delay));
        assert_eq!(chosen(), 1_250);
        buckets.is_silent(buckets.for_delay(delay));
        assert_eq!(chosen(), 750, "what is that ill is the broker's own trouble");
        assert_eq!(buckets.for_delay(Duration::from_millis(1_300)).delay_ms(), 1_500);
    }

    #[test]
    fn the_longest_has_no_longer_one() {
        let buckets = Buckets::default();
        buckets.is_silent(Bucket::LONGEST);
        assert_eq!(buckets.for_delay(Duration::from_secs(40 * 86_400)), Bucket::LONGEST);
    }
}
