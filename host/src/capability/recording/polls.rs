//! `wasi:io/poll` on a tape: which of several things that an agent waits for at once was there first.
//!
//! The waiting itself is wasmtime-wasi's, on both sides: whatever was ready in the recorded run is waited for in the replay
//! too, since the agent goes on to use it.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi_io::bindings::wasi::io::poll::{Host, HostPollable};
use wasmtime_wasi_io::poll::DynPollable;

use super::tape::Side;
use crate::capability::View;

const POLL: &str = "poll";

impl Host for View<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        // Of one alone nothing can be told.
        let tape = self.session.tape().filter(|_| pollables.len() > 1).map(Arc::clone);
        let Some(tape) = tape else { return Host::poll(self.table, pollables).await };
        let asked = (pollables.len(),);
        match &tape.side {
            Side::Writes(writer) => {
                let line = writer.asked(POLL, &asked);
                let ready = Host::poll(self.table, pollables).await?;
                if let Some(line) = line {
                    line.answered(&ready);
                }
                Ok(ready)
            }
            Side::Plays(player) => {
                let answer = player.answer(POLL, &asked).and_then(|answer| {
                    answer.read_where(|ready: &Vec<u32>| {
                        !ready.is_empty() && ready.iter().all(|index| (*index as usize) < pollables.len())
                    })
                });
                let Some(ready) = answer else { return std::future::pending().await };
                let first = pollables.iter().zip(0_u32..).filter(|(_, index)| ready.contains(index));
                for (pollable, _) in first {
                    HostPollable::block(self.table, Resource::new_borrow(pollable.rep())).await?;
                }
                Ok(ready)
            }
        }
    }
}

impl HostPollable for View<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::block(self.table, pollable).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        let Some(tape) = self.session.tape().map(Arc::clone) else {
            return HostPollable::ready(self.table, pollable).await;
        };
        match &tape.side {
            Side::Writes(writer) => {
                let is_ready = HostPollable::ready(self.table, pollable).await?;
                writer.note_ready(is_ready);
                Ok(is_ready)
            }
            Side::Plays(player) => {
                let Some(is_ready) = player.is_ready() else { return std::future::pending().await };
                if is_ready {
                    HostPollable::block(self.table, pollable).await?;
                }
                Ok(is_ready)
            }
        }
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        HostPollable::drop(self.table, pollable)
    }
}
