//! The types of `wasi:messaging`, for agents of the messaging shape: the message that they are handed.
//!
//! An agent does not connect to a broker, so a client can be asked for and is always refused; it sends through `tasks`.

mod host;

use bytes::Bytes;

use crate::units::ByteSize;

/// A connection to a message service. There is none: asking for one is answered with `permission-denied`.
#[derive(Debug)]
pub enum Client {}

/// Most bytes of the messages that one task holds at a time, and some more for each entry of metadata. They lie in the
/// host's memory; with one message being what a task is, there is little use in several.
pub const MESSAGES_BYTES_MAX: ByteSize = ByteSize(16 << 20);
/// What an entry of metadata takes beside its text.
const ENTRY_BYTES: usize = 64;

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

impl Message {
    fn bytes(&self) -> usize {
        let metadata = self.metadata.iter().map(|(name, value)| name.len() + value.len() + ENTRY_BYTES);
        let content_type = self.content_type.as_ref().map_or(0, String::len);
        metadata.fold(self.data.len().saturating_add(content_type), usize::saturating_add)
    }
}
