//! Whether a canary is clearly worse than the revision beside it: a stated statistical rule, and a pure function.
//!
//! Fisher's exact test, one-sided: if both revisions failed equally often, how probable would it be that the canary has at
//! least so many of all failures? Below [`PROBABILITY_MAX`], and from [`TASKS_MIN`] tasks of the canary on, it is rolled back.
//! Only first attempts count, so that one task that fails five times is one failure; and as tasks are split by their ids,
//! bad input meets both revisions alike.
//!
//! The rule is looked at again and again while results come in, which makes a false alarm likelier than the probability of
//! one look. It is therefore far below the usual 5 %: over 1,000 tasks, looked at after every one, fewer than 1 in 100 sound
//! canaries is rolled back (`equal_revisions_are_seldom_told_apart` holds it to that).

use super::Tally;

/// Most probable that a result may be by chance for a canary to be rolled back.
pub const PROBABILITY_MAX: f64 = 0.000_1;
/// Tasks that a canary must have ended before it is judged.
pub const TASKS_MIN: u64 = 10;

/// Why a canary is rolled back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Worse {
    /// How probable it would be that a revision as good as the other one does so badly.
    pub probability: f64,
}

/// Judges a canary by what ended on it and on the active revision meanwhile.
#[must_use]
pub fn verdict(active: Tally, canary: Tally) -> Option<Worse> {
    if canary.tasks() < TASKS_MIN {
        return None;
    }
    let probability = probability_of_at_least(active, canary);
    (probability < PROBABILITY_MAX).then_some(Worse { probability })
}

/// The upper tail of the hypergeometric distribution: of all tasks, as many as the canary had are drawn; at least as many
/// failures as it had are among them.
fn probability_of_at_least(active: Tally, canary: Tally) -> f64 {
    let (drawn, other) = (float(canary.tasks()), float(active.tasks()));
    let (failed, failures) = (float(canary.failed), float(active.failed) + float(canary.failed));
    let of = |k: f64| {
        let ln = ln_choose(drawn, k) + ln_choose(other, failures - k) - ln_choose(drawn + other, failures);
        ln.exp()
    };
    // From the peak on terms fall, each by the ratio to its neighbour, so the tail that lies beyond it is summed.
    if failed * (drawn + other) > drawn * failures {
        let next = |k: f64| (drawn - k) * (failures - k) / ((k + 1.0) * (other - failures + k + 1.0));
        sum_of(of(failed), failed, 1.0, drawn.min(failures), next)
    } else if failed > 0.0 {
        let next = |k: f64| k * (other - failures + k) / ((drawn - k + 1.0) * (failures - k + 1.0));
        1.0 - sum_of(of(failed - 1.0), failed - 1.0, -1.0, (failures - other).max(0.0), next)
    } else {
        1.0
    }
}

/// A term and those behind it, up to the last one or to where they add nothing.
fn sum_of(first: f64, from: f64, step: f64, last: f64, next: impl Fn(f64) -> f64) -> f64 {
    const NOTHING: f64 = 1e-15;
    let (mut term, mut sum, mut k) = (first, 0.0, from);
    while (last - k) * step >= 0.0 && term > sum * NOTHING {
        sum += term;
        term *= next(k);
        k += step;
    }
    sum.min(1.0)
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 tasks")]
fn float(count: u64) -> f64 {
    count as f64
}

fn ln_choose(n: f64, k: f64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// The logarithm of a factorial: exactly for small numbers, by Stirling's series (an error below 1e-9) beyond.
fn ln_factorial(n: f64) -> f64 {
    const EXACT_BELOW: f64 = 32.0;
    if n < EXACT_BELOW {
        let mut product = 1.0_f64;
        let mut factor = 2.0;
        while factor <= n {
            product *= factor;
            factor += 1.0;
        }
        return product.ln();
    }
    let n = n + 1.0;
    (n - 0.5) * n.ln() - n + 0.5 * std::f64::consts::TAU.ln() + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(failed: u64, tasks: u64) -> Tally {
        Tally { succeeded: tasks - failed, failed }
    }

    #[test]
    fn known_values() {
        // Fisher's tea: 4 of 4 right of 8 cups is 1 in 70; the others from R's fisher.test(alternative = "greater").
        for (active, canary, expected) in [
            (tally(0, 4), tally(4, 4), 1.0 / 70.0),
            (tally(1, 4), tally(3, 4), 17.0 / 70.0),
            (tally(0, 0), tally(50, 50), 1.0),
            (tally(7, 7), tally(9, 9), 1.0),
            (tally(0, 90), tally(0, 10), 1.0),
        ] {
            let found = probability_of_at_least(active, canary);
            assert!((found - expected).abs() < 1e-9, "{found} for {expected}");
        }
    }

    #[test]
    fn a_canary_that_fails_is_told_soon_and_one_that_does_not_is_left() {
        assert!(verdict(tally(0, 30), tally(10, 10)).is_some());
        assert!(verdict(tally(0, 30), tally(9, 9)).is_none(), "too few to judge");
        assert!(verdict(tally(10, 1_000), tally(40, 200)).is_some(), "20 % beside 1 %");
        assert!(verdict(tally(100, 1_000), tally(21, 200)).is_none(), "10 % beside 10.5 %");
        assert!(verdict(tally(900, 1_000), tally(1, 200)).is_none(), "a better one");
        assert!(verdict(tally(90_000, 100_000), tally(1, 20_000)).is_none(), "a far better one");
        assert!(verdict(Tally::default(), tally(50, 50)).is_none(), "nothing to compare it with");
        assert!(verdict(tally(1_000, 1_000_000), tally(600, 300_000)).is_some());
    }

    /// Numbers as random as this needs, the same at each run.
    struct Random(u64);

    impl Random {
        fn fraction(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            float(self.0 >> 11) / float(1 << 53)
        }
    }

    #[test]
    fn equal_revisions_are_seldom_told_apart() {
        const CANARIES: u32 = 400;
        let mut random = Random(7);
        for (ratio, share) in [(0.01, 0.1), (0.05, 0.5), (0.3, 0.1), (0.5, 0.5)] {
            let mut alarms = 0;
            for _ in 0..CANARIES {
                let (mut active, mut canary) = (Tally::default(), Tally::default());
                let is_alarm = (0..1_000).any(|_| {
                    let of = if random.fraction() < share { &mut canary } else { &mut active };
                    if random.fraction() < ratio {
                        of.failed += 1;
                    } else {
                        of.succeeded += 1;
                    }
                    verdict(active, canary).is_some()
                });
                alarms += u32::from(is_alarm);
            }
            assert!(alarms * 100 < CANARIES, "{alarms} of {CANARIES} at {ratio}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_probability_and_falls_with_each_failure(
            active_failed in 0_u64..300, active_succeeded in 0_u64..3_000,
            canary_failed in 0_u64..300, canary_succeeded in 1_u64..3_000,
        ) {
            let active = Tally { succeeded: active_succeeded, failed: active_failed };
            let canary = Tally { succeeded: canary_succeeded, failed: canary_failed };
            let one_more = Tally { succeeded: canary_succeeded - 1, failed: canary_failed + 1 };
            let (p, worse) = (probability_of_at_least(active, canary), probability_of_at_least(active, one_more));
            prop_assert!((0.0..=1.0).contains(&p) && p.is_finite(), "{p}");
            prop_assert!(worse <= p + 1e-9, "{worse} after {p}");
        }

        /// Against the definition, term by term.
        #[test]
        fn it_is_the_sum_of_its_terms(a in 0_u64..12, b in 0_u64..12, c in 0_u64..12, d in 0_u64..12) {
            let choose = |n: u64, k: u64| (0..k).fold(1.0, |product, i| product * float(n - i) / float(i + 1));
            let (active, canary) = (Tally { succeeded: a, failed: b }, Tally { succeeded: c, failed: d });
            let (drawn, other, failures) = (c + d, a + b, b + d);
            let terms = (d..=drawn.min(failures)).filter(|k| failures - k <= other);
            let sum: f64 = terms.map(|k| choose(drawn, k) * choose(other, failures - k)).sum();
            let expected = sum / choose(drawn + other, failures);
            prop_assert!((probability_of_at_least(active, canary) - expected).abs() < 1e-9);
        }
    }
}
