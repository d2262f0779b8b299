//! What a message means: the contract's envelope (section 3), as pure functions.
//!
//! ```text
//!  sender's message ──parse──► Task ──submission──► message      (parse ∘ submission is the identity)
//!  original + Task ──retry──► message of the next attempt
//!  Task + Outcome ──result──► message to the sender's reply queue
//!  original + DeathNote ──dead_letter──► message for the agent's dead letters ──redriven──► message of a first attempt
//! ```
//!
//! Nothing here can panic or grow without bound on a hostile message: a message that cannot be a task is [`Malformed`],
//! which says why and carries what a dead letter needs.

mod cloud_events;
mod emit;
pub mod headers;
mod parse;
mod size;
#[cfg(test)]
mod tests;

pub(crate) use emit::moved;
pub use emit::{DeathNote, dead_letter, expired_again, redriven, result, retry, submission};
pub(crate) use headers::printable;
pub use parse::{Malformed, generation, names_its_task, parse};
pub(crate) use parse::{
    delay_rest_ms, enqueued_at_ms, first_queue, host_errors, malformed, not_before_ms, partition_key,
};
pub use size::{BODY_BYTES_MAX, TooLarge, check_size};
