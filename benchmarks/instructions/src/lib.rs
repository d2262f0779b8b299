//! What the host does for each task without IO, guests or the clock, ready to be counted.
//!
//! The host's own files are compiled again instead of the `agent-host` crate, which brings an engine and database drivers.

#[path = "../../../host/src"]
#[allow(dead_code, unused_imports, reason = "the host uses the rest")]
mod host {
    pub(crate) mod delivery;
    pub(crate) mod memory;
    pub(crate) mod task;
    pub(crate) mod trace;
}
// Where those files say `crate::delivery` and so on.
use host::{delivery, memory, task, trace};

#[path = "../../../host/src/broker/amqp/convert.rs"]
mod convert;
#[path = "../../../host/src/broker/amqp/watermark.rs"]
#[allow(dead_code, reason = "the host uses the rest")]
mod watermark;
// What `convert` takes from the driver is the driver's re-export of this; so the driver itself can stay away.
extern crate self as lapin;
pub use amq_protocol::protocol::BasicProperties;
pub use amq_protocol::types;

pub mod work;
