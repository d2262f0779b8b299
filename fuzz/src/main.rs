//! A libFuzzer target for the envelope: whatever a client may put into a message is read, and what the host would publish
//! because of it is made and read again.
//!
//! Contract: a run ends only with the time it was given. Anything else is a finding: a panic, a broken property (they are
//! in `properties.rs`), a stack or memory used up, an input that takes seconds; libFuzzer keeps the input.
//!
//! The first byte of an input chooses how the rest is read, so that a seed can be written by hand.

#![no_main]

mod input;
mod memory;
mod properties;
mod wire;

// The host's own files, compiled again instead of the `agent-host` crate: that one brings an engine and database drivers,
// which take a quarter of an hour to build with coverage counters, and these files use none of them.
#[path = "../../host/src"]
#[allow(dead_code, unused_imports, reason = "the host uses the rest")]
mod host {
    pub(crate) mod delivery;
    pub(crate) mod task;
    pub(crate) mod trace;
}
// Where those files say `crate::delivery`, `crate::task` and `crate::trace`.
use host::{delivery, task, trace};

#[path = "../../host/src/broker/amqp/convert.rs"]
mod convert;
// What that file takes from the driver is the driver's re-export of this; so the driver itself can stay away.
extern crate self as lapin;
pub use amq_protocol::protocol::BasicProperties;
pub use amq_protocol::types;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus { run(data) });

fn run(data: &[u8]) -> Corpus {
    let Some((kind, rest)) = data.split_first() else { return Corpus::Reject };
    let mut structured = Unstructured::new(rest);
    match kind {
        // Properties and header table as data.
        b'm' => match input::Received::arbitrary(&mut structured) {
            Ok(received) => properties::of_a_message(&received.message(), received.now_ms),
            Err(_) => return Corpus::Reject,
        },
        // A content header frame's payload as a broker sends it, then the body.
        b'w' => properties::of_a_delivery(rest),
        // The same, made of values that nest and lie about nothing, which random bytes seldom are.
        b'n' => match wire::Properties::arbitrary(&mut structured) {
            Ok(sent) => properties::of_a_delivery(&sent.bytes()),
            Err(_) => return Corpus::Reject,
        },
        b't' => match input::Submitted::arbitrary(&mut structured) {
            Ok(submitted) => properties::of_a_task(&submitted.task(), &submitted.output()),
            Err(_) => return Corpus::Reject,
        },
        // What the records keep of a message.
        b'k' => properties::of_kept_bytes(rest),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
}
