//! What a delivery gets for the way its run ended. Pure: a table in code, tested as one.

use std::time::Duration;

use crate::manifest::{Backoff, Jitter, Retry};
use crate::task::Outcome;

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The task has ended as it should.
    Acknowledge,
    /// It runs again after the delay, as this attempt.
    RetryLater {
        /// At least this long.
        delay: Duration,
        /// The number that the next attempt gets: the same one where the failure was not the task's.
        attempt: u32,
    },
    /// It has failed for good.
    DeadLetter,
    /// It goes back to its place in the queue, as if it had never been delivered.
    HandBack {
        /// Not before that; until then those behind it that keep an order wait.
        delay: Duration,
    },
}

impl Settlement {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::RetryLater { .. } => "retry",
            Self::DeadLetter => "dead-letter",
            Self::HandBack { .. } => "hand-back",
        }
    }
}

/// What decides between another attempt and a dead letter.
#[derive(Clone, Debug)]
pub struct Policy<'a> {
    /// Attempts in all: the sender's own limit, or the manifest's.
    pub attempts_max: u32,
    /// The manifest's backoff.
    pub retry: &'a Retry,
    /// How often in a row the host failed the task, before this time.
    pub host_errors: u32,
    /// Whether it has a partition key: tasks behind it may not overtake it because the host failed it.
    pub keeps_order: bool,
}

/// Longest wait before a task that met a failing database or broker runs again, so that it goes on soon after their return;
/// the first waits are its manifest's.
const HOST_ERROR_DELAY_MAX: Duration = Duration::from_secs(5);

/// Shortest wait of one that keeps its place: those after the first are no longer, so that a manifest which asks for
/// milliseconds would have it run without end.
const KEPT_DELAY_MIN: Duration = Duration::from_secs(1);

/// Longest delay that an agent may ask for: that of a delayed task (contract, section 3).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Decides. `random` is asked, for a delay alone, for a number uniform in 0..1.
#[must_use]
pub fn settlement(outcome: &Outcome, attempt: u32, policy: &Policy<'_>, random: fn() -> f64) -> Settlement {
    match outcome {
        Outcome::Succeeded(_) | Outcome::Cancelled => Settlement::Acknowledge,
        Outcome::Interrupted => Settlement::HandBack { delay: Duration::ZERO },
        Outcome::Rejected { .. } | Outcome::Expired | Outcome::HostKiller => Settlement::DeadLetter,
        Outcome::HostError { .. } => {
            let delay = backoff(policy.retry, policy.host_errors.saturating_add(1), random());
            let delay = delay.min(HOST_ERROR_DELAY_MAX);
            if policy.keeps_order {
                Settlement::HandBack { delay: delay.max(KEPT_DELAY_MIN) }
            } else {
                Settlement::RetryLater { delay, attempt }
            }
        }
        Outcome::Retry { after_ms: Some(after_ms), .. } => {
            another(attempt, policy, Duration::from_millis(*after_ms).min(RETRY_AFTER_MAX))
        }
        Outcome::Retry { after_ms: None, .. }
        | Outcome::Trapped { .. }
        | Outcome::TimedOut(_)
        | Outcome::OutOfMemory(_)
        | Outcome::LimitExceeded(_) => another(attempt, policy, backoff(policy.retry, attempt, random())),
    }
}

fn another(attempt: u32, policy: &Policy<'_>, delay: Duration) -> Settlement {
    if attempt >= policy.attempts_max {
        Settlement::DeadLetter
    } else {
        Settlement::RetryLater { delay, attempt: attempt.saturating_add(1) }
    }
}

/// The delay after an attempt.
fn backoff(retry: &Retry, attempt: u32, random: f64) -> Duration {
    let factor = match retry.backoff {
        Backoff::Fixed => 1,
        Backoff::Linear => attempt.max(1),
        Backoff::Exponential => 1_u32.checked_shl(attempt.max(1) - 1).unwrap_or(u32::MAX),
    };
    let delay = retry.initial.saturating_mul(factor).min(retry.max);
    let random = random.clamp(0.0, 1.0);
    match retry.jitter {
        Jitter::None => delay,
        Jitter::Equal => delay.mul_f64(0.5 + random / 2.0),
        Jitter::Full => delay.mul_f64(random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Limit;
    use proptest::prelude::*;

    fn limit() -> Limit {
        Limit { name: "limits.memory", allowed: "64MiB".into() }
    }

    fn without_jitter() -> Retry {
        Retry { jitter: Jitter::None, ..Retry::default() }
    }

    #[test]
    fn the_table() {
        use Settlement::{Acknowledge, DeadLetter};
        let retry = without_jitter();
        let back = Settlement::HandBack { delay: Duration::ZERO };
        let again = |seconds, attempt| Settlement::RetryLater { delay: Duration::from_secs(seconds), attempt };
        let message = String::new;
        let table = [
            // outcome, after attempt 1 of 3, after attempt 3 of 3
            (Outcome::Succeeded(None), Acknowledge, Acknowledge),
            (Outcome::Cancelled, Acknowledge, Acknowledge),
            (Outcome::Retry { message: message(), after_ms: None }, again(1, 2), DeadLetter),
            (Outcome::Retry { message: message(), after_ms: Some(90_000) }, again(90, 2), DeadLetter),
            (Outcome::Retry { message: message(), after_ms: Some(u64::MAX) }, again(30 * 86_400, 2), DeadLetter),
            (Outcome::Rejected { message: message() }, DeadLetter, DeadLetter),
            (Outcome::Trapped { message: message() }, again(1, 2), DeadLetter),
            (Outcome::TimedOut(limit()), again(1, 2), DeadLetter),
            (Outcome::OutOfMemory(limit()), again(1, 2), DeadLetter),
            (Outcome::LimitExceeded(limit()), again(1, 2), DeadLetter),
            (Outcome::Expired, DeadLetter, DeadLetter),
            (Outcome::HostKiller, DeadLetter, DeadLetter),
            (Outcome::Interrupted, back, back),
            (Outcome::HostError { message: message() }, again(1, 1), again(1, 3)),
        ];
        for (outcome, after_first, after_last) in table {
            let policy = Policy { attempts_max: 3, retry: &retry, host_errors: 0, keeps_order: false };
            assert_eq!(settlement(&outcome, 1, &policy, || 0.5), after_first, "{outcome:?}, first attempt");
            assert_eq!(settlement(&outcome, 3, &policy, || 0.5), after_last, "{outcome:?}, last attempt");
            let keyed = Policy { keeps_order: true, ..policy };
            for (attempt, unkeyed) in [(1, after_first), (3, after_last)] {
                let expected = match outcome {
                    Outcome::HostError { .. } => Settlement::HandBack { delay: Duration::from_secs(1) },
                    _ => unkeyed,
                };
                assert_eq!(settlement(&outcome, attempt, &keyed, || 0.5), expected, "{outcome:?}, in order");
            }
        }
    }

    #[test]
    fn what_the_host_fails_again_and_again_waits_longer_and_not_long() {
        let retry = without_jitter();
        let delays = [0, 1, 2, 3, 1_000].map(|host_errors| {
            let policy = Policy { attempts_max: 1, retry: &retry, host_errors, keeps_order: false };
            match settlement(&Outcome::HostError { message: String::new() }, 1, &policy, || 0.5) {
                Settlement::RetryLater { delay, attempt: 1 } => delay.as_secs(),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(delays, [1, 2, 4, 5, 5]);
    }

    #[test]
    fn delays_grow_as_the_manifest_says() {
        let delays = |backoff| {
            let retry = Retry { backoff, max: Duration::from_secs(5), ..without_jitter() };
            [1, 2, 3, 4].map(|attempt| super::backoff(&retry, attempt, 0.0).as_secs())
        };
        assert_eq!(delays(Backoff::Fixed), [1, 1, 1, 1]);
        assert_eq!(delays(Backoff::Linear), [1, 2, 3, 4]);
        assert_eq!(delays(Backoff::Exponential), [1, 2, 4, 5]);
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let message = String::new;
        prop_oneof![
            Just(Outcome::Succeeded(None)),
            Just(Outcome::Cancelled),
            any::<Option<u64>>().prop_map(move |after_ms| Outcome::Retry { message: message(), after_ms }),
            Just(Outcome::Rejected { message: message() }),
            Just(Outcome::Trapped { message: message() }),
            Just(Outcome::TimedOut(limit())),
            Just(Outcome::OutOfMemory(limit())),
            Just(Outcome::LimitExceeded(limit())),
            Just(Outcome::Expired),
            Just(Outcome::HostKiller),
            Just(Outcome::Interrupted),
            Just(Outcome::HostError { message: message() }),
        ]
    }

    proptest! {
        /// Whatever the outcome, the attempt and the policy: attempts are used up by the task's own failures alone, one at a
        /// time, and end.
        #[test]
        fn attempts_end(
            outcome in outcomes(),
            attempt in 1_u32..,
            attempts_max in 1_u32..,
            host_errors in any::<u32>(),
            keeps_order in any::<bool>(),
            jitter in prop_oneof![Just(Jitter::None), Just(Jitter::Equal), Just(Jitter::Full)],
        ) {
            let retry = Retry { jitter, ..Retry::default() };
            let policy = Policy { attempts_max, retry: &retry, host_errors, keeps_order };
            let settled = settlement(&outcome, attempt, &policy, || 0.5);
            match (&outcome, settled) {
                (Outcome::HostError { .. }, Settlement::RetryLater { delay, attempt: next }) => {
                    prop_assert!(!keeps_order && next == attempt && delay <= HOST_ERROR_DELAY_MAX);
                }
                (Outcome::HostError { .. }, Settlement::HandBack { delay }) => {
                    prop_assert!(keeps_order && (KEPT_DELAY_MIN..=HOST_ERROR_DELAY_MAX).contains(&delay));
                }
                (_, Settlement::RetryLater { delay, attempt: next }) => {
                    prop_assert!(attempt < attempts_max && next == attempt + 1);
                    prop_assert!(delay <= retry.max.max(RETRY_AFTER_MAX));
                }
                (Outcome::Interrupted, settled) => {
                    prop_assert_eq!(settled, Settlement::HandBack { delay: Duration::ZERO });
                }
                (Outcome::Succeeded(_) | Outcome::Cancelled, settled) => prop_assert_eq!(settled, Settlement::Acknowledge),
                (Outcome::Rejected { .. } | Outcome::Expired | Outcome::HostKiller, settled) => {
                    prop_assert_eq!(settled, Settlement::DeadLetter);
                }
                (_, settled) => prop_assert!(settled == Settlement::DeadLetter && attempt >= attempts_max),
            }
        }

        #[test]
        fn no_delay_passes_the_maximum(attempt in 0_u32.., random in 0.0..1.0_f64, max_s in 1_u64..100_000) {
            for jitter in [Jitter::None, Jitter::Equal, Jitter::Full] {
                let retry = Retry { jitter, max: Duration::from_secs(max_s), ..Retry::default() };
                prop_assert!(backoff(&retry, attempt, random) <= retry.max);
            }
        }
    }
}
