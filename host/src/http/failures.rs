//! A bound on guessing tokens: an address that sent too many wrong ones is refused for a while, right ones included, so that
//! a guess that hits does not tell.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use super::problem::{Kind, Problem};

/// Wrong or missing tokens that an address may send in [`WINDOW`]: a person mistypes, and a script of one that was rotated
/// goes on for a moment. At 30 a minute a token of 128 bits is safe for longer than there is time.
pub(super) const FAILURES_MAX: u32 = 30;
/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered. Of more the oldest are forgotten.
const ADDRESSES_MAX: usize = 4_096;

/// Failures by address.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_address: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    failures: u32,
    since: Instant,
}

/// Those of one address.
pub(super) struct OfAddress<'a> {
    all: &'a Failures,
    address: Option<IpAddr>,
}

impl Failures {
    pub(super) fn of(&self, address: Option<IpAddr>) -> OfAddress<'_> {
        OfAddress { all: self, address }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, Count>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfAddress<'_> {
    /// Refuses an address that failed too often.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let Some(address) = self.address else { return Ok(()) };
        let counts = self.all.counts();
        let is_over =
            counts.get(&address).is_some_and(|count| count.failures >= FAILURES_MAX && count.since.elapsed() < WINDOW);
        if !is_over {
            return Ok(());
        }
        Err(Problem::new(
            Kind::Busy,
            format!(
                "{address} sent {FAILURES_MAX} requests without a good token within {} s; try again after that",
                WINDOW.as_secs()
            ),
        ))
    }

    /// Counts a request without a good token.
    pub(super) fn note(&self, problem: &Problem) {
        let Some(address) = self.address.filter(|_| problem.status() == StatusCode::UNAUTHORIZED) else { return };
        let mut counts = self.all.counts();
        if counts.len() >= ADDRESSES_MAX && !counts.contains_key(&address) {
            counts.retain(|_, count| count.since.elapsed() < WINDOW);
            let oldest = counts.iter().min_by_key(|(_, count)| count.since).map(|(address, _)| *address);
            if counts.len() >= ADDRESSES_MAX
                && let Some(oldest) = oldest
            {
                counts.remove(&oldest);
            }
        }
        let count = counts.entry(address).or_insert(Count { failures: 0, since: Instant::now() });
        if count.since.elapsed() >= WINDOW {
            *count = Count { failures: 0, since: Instant::now() };
        }
        count.failures = count.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_refused_and_the_others_are_not() {
        let failures = Failures::default();
        let guesser = failures.of(Some(IpAddr::from([10, 0, 0, 1])));
        for _ in 0..FAILURES_MAX {
            guesser.check().unwrap();
            guesser.note(&Problem::new(Kind::Unauthorized, "wrong"));
        }
        assert_eq!(guesser.check().unwrap_err().status(), StatusCode::TOO_MANY_REQUESTS);
        let other = failures.of(Some(IpAddr::from([10, 0, 0, 2])));
        for _ in 0..FAILURES_MAX * 2 {
            other.note(&Problem::new(Kind::Forbidden, "a good token for something else"));
        }
        other.check().unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let failures = Failures::default();
        for number in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 10 {
            failures.of(Some(IpAddr::from(number.to_be_bytes()))).note(&Problem::new(Kind::Unauthorized, "wrong"));
        }
        assert_eq!(failures.counts().len(), ADDRESSES_MAX);
    }
}
