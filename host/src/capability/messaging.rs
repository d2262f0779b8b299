//! The types of `wasi:messaging`, for agents of the messaging shape: the message that they are handed.
//!
//! An agent does not connect to a broker, so a client can be asked for and is always refused; it sends through `tasks`.

mod host;

use bytes::Bytes;

/// A connection to a message service. There is none: asking for one is answered with `permission-denied`.
#[derive(Debug)]
pub enum Client {}

/// Most bytes of the metadata of a message that an agent makes.
pub const METADATA_BYTES_MAX: usize = 64 << 10;

/// A message: payload, media type and metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it came in on: the agent's queue.
    pub topic: Option<String>,
    /// Media type of the data.
    pub content_type: Option<String>,
    /// The payload.
    pub data: Bytes,
    /// Headers.
    pub metadata: Vec<(String, String)>,
}
