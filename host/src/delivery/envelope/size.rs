//! How large a message may be.

use super::headers::{self, HEADERS_BYTES_MAX};
use crate::delivery::Message;

/// Largest body that is published, dead letters apart: RabbitMQ 4 takes no larger message by default, and a refusal by
/// the broker would close the channel under every other message in flight.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A message is larger than what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Its body.
    #[error("its body has {0} bytes, expected at most {BODY_BYTES_MAX}")]
    Body(usize),
    /// Its headers, as the limit counts them.
    #[error("its headers take {0} bytes, expected at most {HEADERS_BYTES_MAX}")]
    Headers(usize),
}

/// Whether a message may be published, dead letters apart: those are taken in any size, so that nothing is lost.
///
/// # Errors
/// [`TooLarge`].
pub fn check_size(message: &Message) -> Result<(), TooLarge> {
    let (body, headers) = (message.body.len(), headers::counted_size(&message.headers));
    if body > BODY_BYTES_MAX {
        return Err(TooLarge::Body(body));
    }
    if headers > HEADERS_BYTES_MAX {
        return Err(TooLarge::Headers(headers));
    }
    Ok(())
}
