//! The ladder of delay queues.
//!
//! A quorum queue expires messages only at its head, so messages with different delays in one queue would wait for each
//! other. Every bucket is therefore a queue with one TTL of its own, where messages expire in the order of their arrival
//! and none waits for another. A delay goes to the next bucket above it, so it is never early, and the ladder is laid so
//! that it is late by at most 10 % or 250 ms, whichever is more: steps of 250 ms at first, of 10 % from 2.5 s on, up to
//! 30 days. That is 161 buckets, of which a host declares the first ones when it starts, and others as it comes to use them.
//!
//! The alternatives cost more where it counts. Doubling buckets, with the rest of a delay made by sending the message
//! round again, are fewer queues, but every delayed task then passes an agent's queue and a host several times, takes
//! room in its prefetch, and stops whenever no host runs. One hop through the broker alone needs neither. Only delays of
//! more than 30 days go round ([`headers::NOT_BEFORE`](crate::delivery::envelope::headers::NOT_BEFORE)).

use std::time::Duration;

/// A delay queue, known by its delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    delay_ms: u64,
}

/// The first bucket and the smallest step between buckets: what a retry's delay can be rounded by without anybody
/// noticing.
const STEP_MS: u64 = 250;

impl Bucket {
    /// The longest delay: 30 days.
    pub const LONGEST: Self = Self { delay_ms: 30 * 24 * 60 * 60 * 1000 };

    /// The bucket of a delay: the first that is not shorter, or the longest that there is.
    #[must_use]
    pub fn for_delay(delay: Duration) -> Self {
        Self::all()
            .find(|bucket| u128::from(bucket.delay_ms) >= delay.as_nanos().div_ceil(1_000_000))
            .unwrap_or(Self::LONGEST)
    }

    /// Every bucket, shortest first.
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self { delay_ms: STEP_MS }), |bucket| {
            (*bucket < Self::LONGEST).then(|| {
                let tenth_more_ms = bucket.delay_ms.saturating_add(bucket.delay_ms / 10);
                let whole_steps_ms = tenth_more_ms - tenth_more_ms % STEP_MS;
                Self { delay_ms: whole_steps_ms.max(bucket.delay_ms + STEP_MS).min(Self::LONGEST.delay_ms) }
            })
        })
    }

    /// How long a message stays in it, in milliseconds.
    #[must_use]
    pub fn delay_ms(self) -> u64 {
        self.delay_ms
    }

    /// The name of its exchange and its queue.
    #[must_use]
    pub fn name(self) -> String {
        format!("agents.delay.{}ms", self.delay_ms)
    }
}
