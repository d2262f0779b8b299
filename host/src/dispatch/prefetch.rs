//! How many deliveries of an agent a host has in hand at a time.

use std::time::Duration;

/// Deliveries that may be between their run and their acknowledgement, per agent, beyond those that run. Results and
/// records are confirmed in batches of milliseconds; measured from a full queue, 512 ran a fifth more tasks than 128.
const SETTLING_MAX: u32 = 512;

/// In how long the deliveries that wait for a place surely come to one. RabbitMQ gives a consumer 30 minutes to settle a
/// delivery, and closes its channel after that, which has all that it had in hand delivered again: a third is for the wait,
/// the rest for the longest run, of 20 minutes.
const WAITS_MAX: Duration = Duration::from_secs(10 * 60);

/// Unsettled deliveries that an agent with this many concurrent instances can use, each of which may run for so long: as
/// many as run, and as many more as come to an end within `WAITS_MAX`, whatever they do.
#[must_use]
pub fn prefetch(concurrency: u32, timeout: Duration) -> u16 {
    let rounds = WAITS_MAX.as_millis() / timeout.as_millis().max(1);
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    let waiting = concurrency.saturating_mul(rounds).min(SETTLING_MAX);
    u16::try_from(concurrency.saturating_add(waiting)).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
    const TIMEOUT_MAX: Duration = Duration::from_secs(20 * 60);

    #[test]
    fn slow_agents_have_few_in_hand_and_fast_ones_many() {
        let seconds = Duration::from_secs;
        for (concurrency, timeout, expected) in [
            (256, seconds(30), 768),
            (1, seconds(30), 21),
            (1, seconds(5), 121),
            (4, seconds(300), 12),
            (4, seconds(600), 8),
            // Those beside the ones that run would wait for too long.
            (4, seconds(601), 4),
            (1, TIMEOUT_MAX, 1),
            (1, Duration::from_millis(1), 513),
            (1, Duration::ZERO, 513),
            (u32::MAX, seconds(30), u16::MAX),
        ] {
            assert_eq!(prefetch(concurrency, timeout), expected, "{concurrency} at a time, {timeout:?}");
        }
    }

    proptest! {
        /// Where every run takes all of its time, the last one in hand has ended with a margin of eight minutes or more: one
        /// is RabbitMQ's own, between two looks.
        #[test]
        fn nothing_waits_near_the_consumer_timeout(concurrency in 1_u32..5_000, timeout_ms in 1_u64..=20 * 60 * 1000) {
            let timeout = Duration::from_millis(timeout_ms);
            let in_hand = u32::from(prefetch(concurrency, timeout));
            prop_assert!(in_hand >= concurrency);
            let rounds = in_hand.div_ceil(concurrency);
            prop_assert!(timeout * rounds <= CONSUMER_TIMEOUT - Duration::from_secs(8 * 60), "{rounds} rounds");
        }
    }
}
