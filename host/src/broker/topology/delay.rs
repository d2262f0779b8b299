//! The ladder of delay queues.
//!
//! A quorum queue expires messages only at its head, so messages with different delays in one queue would wait for each
//! other. Every bucket is therefore a queue with one TTL of its own, where messages expire in the order of their arrival
//! and none waits for another. The ladder is laid in steps of 250 ms at first, and of 10 % from 2.5 s on, up to 30 days. That
//! is 161 buckets, of which a host declares the first ones when it starts, and others as it comes to use them.
//!
//! A delay may be late by 10 % or 250 ms, whichever is more, and that is for the way to a host as well. So a delay that is
//! longer than a bucket by no more than [`DELAY_REST_MAX`] goes there, and the host that receives it keeps it for
//! the rest: by its own clock from then on, so it is never early, whatever clocks say. Any other goes to the next bucket
//! above it. Either way the ladder takes half of the 250 ms at most, and the way has the other half.
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

/// How much longer than its bucket a delay may be: half of a step, so that as much is left where it is shorter. A delivery that
/// a host keeps takes room in its prefetch, so it is not to be long.
pub const DELAY_REST_MAX: Duration = Duration::from_millis(STEP_MS / 2);

/// The first bucket and the smallest step between buckets: what a retry's delay can be rounded by without anybody
/// noticing.
const STEP_MS: u64 = 250;

impl Bucket {
    /// The longest delay: 30 days.
    pub const LONGEST: Self = Self { delay_ms: 30 * 24 * 60 * 60 * 1000 };

    /// The bucket of a delay: the first that is not shorter, or the longest that there is.
    #[must_use]
    pub fn for_delay(delay: Duration) -> Self {
        Self::all().find(|bucket| bucket.delay_ms >= whole_ms(delay)).unwrap_or(Self::LONGEST)
    }

    /// How much longer than this bucket a delay is: nothing where it is not.
    #[must_use]
    pub fn rest_of(self, delay: Duration) -> Duration {
        Duration::from_millis(whole_ms(delay).saturating_sub(self.delay_ms))
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

/// A delay in milliseconds, rounded up.
fn whole_ms(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
