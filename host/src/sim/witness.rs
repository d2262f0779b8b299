//! Stands between an agent's calls and what answers them: counts, holds up, breaks.
//!
//! Decorators of the ports, like those that time them in the host: what is simulated is the host's own.

mod cache;
mod key_value;
mod network;
mod sql;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::faults::{Faults, KillAt, Port};
use crate::agent::Stops;
use crate::capability::cache::Cache;
use crate::capability::key_value::KeyValue;
use crate::capability::outbound_http::Network;
use crate::capability::sql::Database;
use crate::task::AgentName;

/// What a task did with one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Calls, those that failed included.
    pub calls: u64,
    /// Rows that were read.
    pub rows: u64,
    /// Bytes that went there.
    pub bytes_out: u64,
    /// Bytes that came back.
    pub bytes_in: u64,
}

/// Sees one task's calls.
#[derive(Debug)]
pub(super) struct Witness {
    state: Mutex<State>,
    /// Stops the run where its host is to die, or it is to be cancelled.
    stops: Stops,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    tallies: BTreeMap<Port, Tally>,
    /// What happened that was asked for, for people.
    injected: Vec<String>,
}

/// A call that was to fail.
#[derive(Debug, thiserror::Error)]
#[error("the simulator lets call {number} of {port} fail")]
pub(super) struct Injected {
    port: Port,
    number: u64,
}

impl Witness {
    /// One that lets these things break.
    pub(super) fn new(faults: Faults, stops: Stops) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { faults, ..State::default() }), stops })
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was called so far.
    pub(super) fn tallies(&self) -> BTreeMap<Port, Tally> {
        self.with(|state| state.tallies.clone())
    }

    /// What broke so far because it was to.
    pub(super) fn injected(&self) -> Vec<String> {
        self.with(|state| state.injected.clone())
    }

    /// Begins a call with what goes there.
    async fn call(&self, port: Port, bytes_out: usize) -> Result<(), Injected> {
        let (number, delay, fails, kills, cancels) = self.with(|state| {
            let tally = state.tallies.entry(port).or_default();
            tally.calls += 1;
            tally.bytes_out += bytes_out as u64;
            let number = tally.calls;
            let (fails, kills) = (state.faults.fails(port, number), state.faults.kills(port, number));
            if kills {
                state.injected.push(format!("the host died at call {number} of {port}"));
            } else if fails {
                state.injected.push(format!("call {number} of {port} failed"));
            }
            let cancels = state.faults.cancels(port, number);
            if cancels {
                state.injected.push(format!("the task was cancelled at call {number} of {port}"));
            }
            (number, state.faults.delay(port), fails, kills, cancels)
        });
        if cancels {
            self.stops.cancel.cancel();
        }
        if kills {
            self.stops.interrupt.cancel();
            // The run ends with its host, and never hears of this call again.
            std::future::pending::<()>().await;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fails { Err(Injected { port, number }) } else { Ok(()) }
    }

    /// Notes what came back.
    fn came_back(&self, port: Port, rows: usize, bytes_in: usize) {
        self.with(|state| {
            let tally = state.tallies.entry(port).or_default();
            tally.rows += rows as u64;
            tally.bytes_in += bytes_in as u64;
        });
    }

    /// Whether the host dies in place of a commit.
    pub(super) fn dies_at_commit(&self) -> bool {
        self.with(|state| {
            let dies = state.faults.kill_at == Some(KillAt::Commit);
            if dies {
                state.injected.push("the host died at the commit".to_owned());
            }
            dies
        })
    }

    pub(super) fn database(self: &Arc<Self>, inner: Arc<dyn Database>, alias: AgentName) -> Arc<dyn Database> {
        Arc::new(sql::Witnessed::new(Arc::clone(self), inner, alias))
    }

    pub(super) fn key_value(self: &Arc<Self>, inner: Arc<dyn KeyValue>) -> Arc<dyn KeyValue> {
        Arc::new(key_value::Witnessed { witness: Arc::clone(self), inner })
    }

    pub(super) fn cache(self: &Arc<Self>, inner: Arc<dyn Cache>) -> Arc<dyn Cache> {
        Arc::new(cache::Witnessed { witness: Arc::clone(self), inner })
    }

    pub(super) fn network(self: &Arc<Self>, inner: Arc<dyn Network>) -> Arc<dyn Network> {
        Arc::new(network::Witnessed { witness: Arc::clone(self), inner })
    }
}
