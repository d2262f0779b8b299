//! Clocks on a tape.

use std::sync::Arc;
use std::time::Duration;

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

use super::Tape;

/// Which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Monotonic,
    Wall,
}

/// A clock whose readings are written down, or come from there. Both clocks of the host go in whole milliseconds.
pub struct Taped<C> {
    tape: Arc<Tape>,
    inner: C,
}

impl<C> Taped<C> {
    /// This clock, on this tape.
    pub fn new(tape: &Arc<Tape>, inner: C) -> Self {
        Self { tape: Arc::clone(tape), inner }
    }
}

impl<C: HostMonotonicClock> HostMonotonicClock for Taped<C> {
    fn resolution(&self) -> u64 {
        self.inner.resolution()
    }

    fn now(&self) -> u64 {
        self.tape.read(Which::Monotonic, || self.inner.now())
    }
}

impl<C: HostWallClock> HostWallClock for Taped<C> {
    fn resolution(&self) -> Duration {
        self.inner.resolution()
    }

    fn now(&self) -> Duration {
        let millis = || u64::try_from(self.inner.now().as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.tape.read(Which::Wall, millis))
    }
}
