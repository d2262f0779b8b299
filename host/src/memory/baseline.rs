//! What the process keeps resident beside what is accounted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back the measurements count. Memory that was accounted a moment ago may not have been touched yet, and makes
/// the rest look smaller than it is: of a few looks the largest is right.
const WINDOW: Duration = Duration::from_secs(2);

/// Measurements of the last moments.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    /// When, and how much, largest first: what is older and smaller than another is never the answer.
    samples: VecDeque<(Instant, u64)>,
    /// What was resident before anything ran: the least that the baseline can be.
    idle_bytes: Option<u64>,
}

impl Baseline {
    /// Adds a measurement. Answers the baseline, and how much of it came since the start, in bytes.
    pub(super) fn sample(&mut self, now: Instant, resident_bytes: u64, known_bytes: u64) -> (u64, u64) {
        let rest = resident_bytes.saturating_sub(known_bytes);
        let idle = *self.idle_bytes.get_or_insert(rest);
        while self.samples.back().is_some_and(|(_, smaller)| *smaller <= rest) {
            self.samples.pop_back();
        }
        self.samples.push_back((now, rest));
        while self.samples.front().is_some_and(|(when, _)| now.saturating_duration_since(*when) > WINDOW) {
            self.samples.pop_front();
        }
        let largest = self.samples.front().map_or(rest, |(_, bytes)| *bytes).max(idle);
        (largest, largest - idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_the_last_moments_counts() {
        let (mut baseline, start) = (Baseline::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(baseline.sample(start, 100, 0), (100, 0));
        assert_eq!(baseline.sample(after(100), 150, 0), (150, 50));
        // 80 were accounted and are not touched yet.
        assert_eq!(baseline.sample(after(200), 160, 80), (150, 50));
        assert_eq!(baseline.sample(after(300), 220, 80), (150, 50));
        assert_eq!(baseline.sample(after(2_200), 120, 0), (140, 40));
        assert_eq!(baseline.sample(after(4_500), 60, 0), (100, 0), "never below what was there at the start");
    }
}
