//! Which delay queues a host uses: those that are known to exist, and those that it leaves out for a while.
//!
//! RabbitMQ 3.10 that is killed right after it has made a quorum queue comes back without a leader for it, for good: whoever
//! publishes to it waits for a confirm that never comes. A delay is then made by a longer delay queue, so that no task waits
//! for an operator: late by a step of the ladder or two more than it should be, and never early.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::broker::topology::Bucket;

/// How long a delay queue that did not confirm is left out, before one message tries it again.
const LEFT_OUT_FOR: Duration = Duration::from_secs(30);

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

    /// Forgets what is known.
    pub(super) fn forget(&self) {
        locked(&self.known).clear();
        locked(&self.silent_since).clear();
    }

    /// Notes that a delay queue confirms nothing.
    pub(super) fn is_silent(&self, bucket: Bucket) {
        let before = locked(&self.silent_since).insert(bucket, Instant::now());
        if before.is_none() {
            let queue = bucket.name();
            tracing::warn!(queue, "a delay queue confirms nothing; longer ones stand in for it, see docs/delivery.md");
        }
    }

    /// Notes that a delay queue confirms.
    pub(super) fn answers(&self, bucket: Bucket) {
        let mut silent_since = locked(&self.silent_since);
        if !silent_since.is_empty() {
            silent_since.remove(&bucket);
        }
    }

    /// The delay queue for a delay: the first that is not shorter and not silent.
    pub(super) fn for_delay(&self, delay: Duration) -> Bucket {
        let first = Bucket::for_delay(delay);
        let mut silent_since = locked(&self.silent_since);
        if silent_since.is_empty() {
            return first;
        }
        let mut candidates = from(first).take(1 + PASSED_OVER_MAX);
        let answering = candidates.find(|bucket| match silent_since.get_mut(bucket) {
            None => true,
            Some(since) if since.elapsed() < LEFT_OUT_FOR => false,
            // One message tries it; the others go on leaving it out until it is known.
            Some(since) => {
                *since = Instant::now();
                true
            }
        });
        answering.unwrap_or(first)
    }

    /// The next longer one.
    pub(super) fn after(bucket: Bucket) -> Option<Bucket> {
        from(bucket).nth(1)
    }
}

fn from(first: Bucket) -> impl Iterator<Item = Bucket> {
    Bucket::all().skip_while(move |bucket| *bucket < first)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(600);

    #[test]
    fn a_silent_bucket_is_passed_over_and_two_at_most() {
        let buckets = Buckets::default();
        let chosen = || buckets.for_delay(DELAY).delay_ms();
        assert_eq!(chosen(), 750);
        buckets.is_silent(Bucket::for_delay(DELAY));
        assert_eq!(chosen(), 1_000);
        buckets.is_silent(buckets.for_delay(DELAY));
        assert_eq!(chosen(), 1_250);
        buckets.is_silent(buckets.for_delay(DELAY));
        assert_eq!(chosen(), 750, "what is that ill is the broker's own trouble");
        assert_eq!(buckets.for_delay(Duration::from_millis(1_300)).delay_ms(), 1_500);
        buckets.answers(Bucket::for_delay(Duration::from_millis(1_250)));
        assert_eq!(chosen(), 1_250);
        buckets.forget();
        assert_eq!(chosen(), 750);
    }

    #[test]
    fn after_a_while_one_message_tries_a_silent_bucket() {
        let buckets = Buckets::default();
        buckets.is_silent(Bucket::for_delay(DELAY));
        let long_ago = Instant::now().checked_sub(LEFT_OUT_FOR).unwrap();
        locked(&buckets.silent_since).insert(Bucket::for_delay(DELAY), long_ago);
        assert_eq!(buckets.for_delay(DELAY).delay_ms(), 750);
        assert_eq!(buckets.for_delay(DELAY).delay_ms(), 1_000, "only one");
        buckets.answers(Bucket::for_delay(DELAY));
        assert_eq!(buckets.for_delay(DELAY).delay_ms(), 750);
    }

    #[test]
    fn the_longest_has_no_longer_one() {
        let buckets = Buckets::default();
        buckets.is_silent(Bucket::LONGEST);
        assert_eq!(buckets.for_delay(Duration::from_secs(40 * 86_400)), Bucket::LONGEST);
        assert_eq!(Buckets::after(Bucket::LONGEST), None);
    }
}
