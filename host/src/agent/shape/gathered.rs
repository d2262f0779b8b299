//! An answer that comes bit by bit: a command's standard output, the body of a response.
//!
//! It lies in the host's memory while the agent still runs, so it is bounded by `limits.output` as it comes, and accounted
//! for as it grows.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::capability::CapReached;
use crate::capability::stdout::Sink;
use crate::memory::{Held, NoRoom};
use crate::task::Limit;
use crate::units::ByteSize;

/// What has come so far. Clones add to the same.
#[derive(Clone)]
pub(in crate::agent) struct Gathered {
    answer: Arc<Mutex<Answer>>,
}

struct Answer {
    bytes: Vec<u8>,
    bytes_max: ByteSize,
    /// The account of the room.
    held: Held,
}

impl Gathered {
    /// Nothing yet, and at most so much.
    pub(super) fn new(bytes_max: ByteSize, held: Held) -> Self {
        let answer = Answer { bytes: Vec::new(), bytes_max, held };
        Self { answer: Arc::new(Mutex::new(answer)) }
    }

    /// What has come.
    pub(super) fn answer(&self) -> Bytes {
        std::mem::take(&mut self.answer.lock().unwrap_or_else(PoisonError::into_inner).bytes).into()
    }
}

impl Sink for Gathered {
    /// Fails where it would be more than the manifest allows, or there is no memory for it.
    fn take(&self, bytes: &[u8]) -> wasmtime::Result<()> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).add(bytes)
    }
}

impl Answer {
    fn add(&mut self, bytes: &[u8]) -> wasmtime::Result<()> {
        let length = self.bytes.len().saturating_add(bytes.len());
        if length > self.bytes_max.as_usize() {
            return Err(CapReached(Limit { name: "limits.output", allowed: self.bytes_max.to_string() }).into());
        }
        if length > self.bytes.capacity() {
            self.make_room(length)?;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Doubles the room, up to what may come.
    fn make_room(&mut self, length: usize) -> Result<(), NoRoom> {
        let room = self.bytes.capacity().saturating_mul(2).max(length).min(self.bytes_max.as_usize());
        self.held.resize(room)?;
        self.bytes.reserve_exact(room.saturating_sub(self.bytes.len()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wasmtime_wasi::cli::StdoutStream;
    use wasmtime_wasi::p2::StreamError;

    use super::*;
    use crate::capability::stdout::Immediate;
    use crate::memory::{MemoryLedger, Need};

    #[test]
    fn an_answer_comes_in_pieces_up_to_its_limit() {
        let gathered = Gathered::new(ByteSize(10), Held::default());
        let mut stream = Immediate(gathered.clone()).p2_stream();
        for piece in ["", "one", " ", "three"] {
            assert!(stream.check_write().unwrap() > 0);
            stream.write(Bytes::from_static(piece.as_bytes())).unwrap();
        }
        let refused = stream.write(Bytes::from_static(b"!!")).unwrap_err();
        let StreamError::Trap(error) = refused else { panic!("{refused:?}") };
        let cap = error.downcast_ref::<CapReached>().unwrap();
        assert_eq!(cap.to_string(), "limits.output = 10B");
        assert_eq!(gathered.answer(), "one three");
    }

    #[test]
    fn its_room_is_accounted_for_until_it_is_gone() {
        let ledger = MemoryLedger::new(8 << 20, 10);
        let admitted = ledger.try_admit(&ledger.share(), Need { initial_bytes: 0, growth_bytes: 0 }).unwrap();
        let holder = admitted.growth().holder();
        let before = ledger.accounts().reserved_bytes;
        let gathered = Gathered::new(ByteSize(64 << 20), holder.nothing());
        gathered.take(&[0; 1_000]).unwrap();
        assert_eq!(ledger.accounts().reserved_bytes, before, "little is only measured");
        let refused = loop {
            match gathered.take(&[0; 64 << 10]) {
                Ok(()) => {
                    let room = gathered.answer.lock().unwrap().bytes.capacity() as u64;
                    let reserved = ledger.accounts().reserved_bytes - before;
                    assert!(reserved >= room && reserved < room + (64 << 10), "{reserved} for {room}");
                }
                Err(refused) => break refused,
            }
        };
        assert!(refused.downcast_ref::<NoRoom>().is_some(), "{refused}");
    }
}
