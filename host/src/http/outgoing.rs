//! How much of what agents made is held for clients that are slow to take it.
//!
//! An output has up to 15 MiB, and a client may ask for many, each on a connection that it does not read from until it is let go.
//! What an answer holds of them is accounted for until the last byte of it has left.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};
use crate::memory::{Charge, MemoryLedger};

/// Bytes of answers made of outputs and logs that are held at the same time: three of the largest, or 1,000 of 64 KiB. What goes
/// beyond is answered `429`.
const OUTGOING_BYTES_MAX: usize = 64 << 20;

/// Room for them.
#[derive(Clone)]
pub(crate) struct Outgoing {
    room: Arc<Semaphore>,
    memory: MemoryLedger,
}

/// Bytes that have room for as long as anybody has a part of them.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
    _memory: Charge,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Outgoing {
    pub(crate) fn new(memory: MemoryLedger) -> Self {
        Self { room: Arc::new(Semaphore::new(OUTGOING_BYTES_MAX)), memory }
    }

    /// The same bytes, with room; there may be none just now.
    pub(crate) fn hold(&self, bytes: Bytes) -> Result<Bytes, Problem> {
        let full = || {
            let detail = format!(
                "the host holds {OUTGOING_BYTES_MAX} bytes of answers that clients have not taken yet, the most that it \
                 holds; send the request again soon"
            );
            Problem::new(Kind::Busy, detail)
        };
        let length = u32::try_from(bytes.len()).map_err(|_| full())?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(length).map_err(|_| full())?;
        let memory = self.memory.charge(u64::from(length));
        Ok(Bytes::from_owner(Held { bytes, _room: room, _memory: memory }))
    }

    /// A JSON answer with room.
    pub(crate) fn json(&self, view: &impl Serialize) -> Result<Response, Problem> {
        let json = serde_json::to_vec(view).map_err(|error| {
            tracing::error!(%error, "an answer is no JSON");
            Problem::new(Kind::Internal, "the host failed to write its answer")
        })?;
        let body = self.hold(json.into())?;
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// The same stream, which ends where there is no room for its next part.
    pub(crate) fn stream(&self, response: Response) -> Response {
        let outgoing = self.clone();
        response.map(|body| {
            Body::from_stream(body.into_data_stream().scan(outgoing, |outgoing, part| {
                std::future::ready(match part {
                    Ok(bytes) => outgoing.hold(bytes).ok().map(Ok),
                    Err(error) => Some(Err(error)),
                })
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_again_when_the_last_part_of_an_answer_is_gone() {
        let memory = MemoryLedger::new(1 << 30, 1);
        let outgoing = Outgoing::new(memory.clone());
        let whole = outgoing.hold(Bytes::from(vec![7; OUTGOING_BYTES_MAX])).unwrap();
        assert_eq!(memory.accounts().reserved_bytes, OUTGOING_BYTES_MAX as u64);
        let part = whole.slice(1..3);
        drop(whole);
        assert_eq!(outgoing.hold(Bytes::from_static(b"x")).unwrap_err().status().as_u16(), 429);
        assert_eq!((&part[..], outgoing.hold(Bytes::new()).unwrap().len()), (&[7, 7][..], 0));
        drop(part);
        assert_eq!(memory.accounts().reserved_bytes, 0);
        assert_eq!(outgoing.hold(Bytes::from_static(b"x")).unwrap(), "x");
    }
}
