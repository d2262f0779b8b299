//! Recordings: what one run was given, call by call, so that it can be run again elsewhere with the same answers.
//!
//! A [`Tape`] stands before the backends of one run's session, as those that measure them do, before its clocks and its
//! generator of random numbers, and before its waiting for several things at once. Where it records it writes down what was asked and what was answered. Where it plays back it
//! answers from a [`Recording`] and asks nobody; the first question that is another than the recorded one ends the run, and
//! is what is told of it. The same decorators do both, so that they cannot differ in what they look at.
//!
//! What the host answers by itself (the log, the configuration, progress) is not written down: it answers the same again.
//! Files are not recorded; that they were used is.
//!
//! A recording is text, one JSON document a line: a [`Head`], a [`Call`] each, an [`End`]. Secrets are taken out of it when it
//! is made, never later: what is kept has none.

mod clocks;
mod format;
pub(crate) mod forms;
mod http;
mod player;
mod polls;
mod ports;
mod redact;
mod sql;
mod tape;
#[cfg(test)]
mod tests;
mod writer;

pub use clocks::Taped;
pub use format::{Call, CannotRead, End, FORMAT, FollowedUp, Head, Readings, Recorded, Recording, TaskGiven};
pub use player::{Difference, Over};
pub(super) use ports::taped;
pub use tape::{Recorder, Tape};
