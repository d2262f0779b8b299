//! The clocks that guests read. They are coarse: whoever can measure a few nanoseconds can measure what other guests do to
//! the processor's caches. A guest that counts in a loop still measures finer, so this is a hurdle and no wall.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// The steps of both clocks.
const RESOLUTION: Duration = Duration::from_millis(1);

/// Time since the instance was made, in whole steps, from one: programs take 0 for a clock that does not work, and Go's
/// end over it.
pub(super) struct CoarseInstant(Instant);

impl CoarseInstant {
    pub(super) fn since(began: Instant) -> Self {
        Self(began)
    }
}

impl HostMonotonicClock for CoarseInstant {
    fn resolution(&self) -> u64 {
        nanoseconds(RESOLUTION)
    }

    fn now(&self) -> u64 {
        nanoseconds(coarse(self.0.elapsed().saturating_add(RESOLUTION)))
    }
}

/// Unix time, in whole steps.
pub(super) struct CoarseUnixTime;

impl HostWallClock for CoarseUnixTime {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        // A machine's clock that is set to before 1970 reads as 1970.
        coarse(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

fn coarse(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_show_whole_milliseconds() {
        let step = nanoseconds(RESOLUTION);
        let since = CoarseInstant::since(Instant::now());
        assert!(since.now() >= step, "never zero");
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 3 {
            seen.insert(since.now());
        }
        assert!(seen.iter().all(|now| now % step == 0), "{seen:?}");
        let now = CoarseUnixTime.now();
        assert_eq!(now.subsec_nanos() % 1_000_000, 0);
        assert!(now > Duration::from_secs(1_700_000_000));
        assert_eq!((since.resolution(), CoarseUnixTime.resolution()), (step, RESOLUTION));
    }
}
