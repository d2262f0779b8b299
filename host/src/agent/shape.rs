//! The four ways in which a task reaches an agent and its answer comes back (contract, section 2).
//!
//! A shape says two things: what an instance finds when it starts ([`Entry::wire`]), and how it is called
//! ([`Entry::call`]). Everything else is the same for all of them and is not theirs: the store with its limits, the memory
//! ledger, the clocks, the capabilities, stopping, and what becomes of an answer ([`super::run`]).

mod command;
mod gathered;
mod http;
mod messaging;
mod native;

use std::time::Instant;

use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

pub(super) use self::gathered::Gathered;
use super::load::Revision;
use super::state::InstanceState;
use crate::capability::log::{GuestLog, Stdio};
use crate::capability::stdout::Immediate;
use crate::manifest::Shape;
use crate::memory::Holder;
use crate::task::{Output, Task};
use crate::wit::messaging::HostMessagingPre;
use crate::wit::native::HostNativePre;

/// What an agent answered, in words that all shapes share. Its texts and its output are as the agent gave them: bounding
/// them is the caller's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It did what it was asked to.
    Succeeded(Option<Output>),
    /// It may work later.
    Retry {
        /// Why it did not.
        message: String,
        /// How much later.
        after_ms: Option<u64>,
    },
    /// It will never work.
    Rejected {
        /// Why.
        message: String,
    },
    /// It ended without an answer, or broke one off.
    Broken {
        /// What is missing.
        message: &'static str,
    },
}

/// How a component is called.
#[derive(Clone)]
pub(super) enum Entry {
    /// Through `agent:runtime/handler`.
    Native(HostNativePre<InstanceState>),
    /// Through `wasi:cli/run`.
    Command(CommandPre<InstanceState>),
    /// Through `wasi:http/incoming-handler`.
    Http(ProxyPre<InstanceState>),
    /// Through `wasi:messaging/incoming-handler`.
    Messaging(HostMessagingPre<InstanceState>),
}

impl Entry {
    /// Finds the shape's export.
    ///
    /// # Errors
    /// The export is not what its name promises.
    pub(super) fn new(shape: Shape, pre: InstancePre<InstanceState>) -> wasmtime::Result<Self> {
        Ok(match shape {
            Shape::Native => Self::Native(HostNativePre::new(pre)?),
            Shape::Command => Self::Command(CommandPre::new(pre)?),
            Shape::Http => Self::Http(ProxyPre::new(pre)?),
            Shape::Messaging => Self::Messaging(HostMessagingPre::new(pre)?),
        })
    }

    /// The shape.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Native(_) => Shape::Native,
            Self::Command(_) => Shape::Command,
            Self::Http(_) => Shape::Http,
            Self::Messaging(_) => Shape::Messaging,
        }
    }

    /// The component as such, to be instantiated for a trial.
    pub(super) fn instance(&self) -> &InstancePre<InstanceState> {
        match self {
            Self::Native(pre) => pre.instance_pre(),
            Self::Command(pre) => pre.instance_pre(),
            Self::Http(pre) => pre.instance_pre(),
            Self::Messaging(pre) => pre.instance_pre(),
        }
    }

    /// Sets up what the instance finds when it starts: streams, environment, arguments. Gives what its answer is gathered
    /// in, where that comes bit by bit.
    pub(super) fn wire(
        &self,
        wasi: &mut WasiCtxBuilder,
        revision: &Revision,
        task: &Task,
        log: &std::sync::Arc<GuestLog>,
        holder: &Holder,
    ) -> Option<Gathered> {
        let gathered = || Gathered::new(revision.manifest.limits.output, holder.nothing());
        match self {
            Self::Native(_) | Self::Messaging(_) => {
                wasi.stdout(Immediate(Stdio::output(log)));
                None
            }
            Self::Http(_) => {
                wasi.stdout(Immediate(Stdio::output(log)));
                Some(gathered())
            }
            Self::Command(_) => {
                let output = gathered();
                command::wire(wasi, revision, task, output.clone());
                Some(output)
            }
        }
    }

    /// Makes the instance and hands it the task.
    ///
    /// # Errors
    /// It did not start, or was stopped before it answered: by a trap or by a limit.
    pub(super) async fn call(
        &self,
        store: &mut Store<InstanceState>,
        revision: &Revision,
        task: &Task,
    ) -> wasmtime::Result<Answer> {
        match self {
            Self::Native(pre) => native::call(pre, store, revision, task).await,
            // Boxed: the frequent call of the native shape need not carry the room that theirs take.
            Self::Command(pre) => Box::pin(command::call(pre, store, revision)).await,
            Self::Http(pre) => Box::pin(http::call(pre, store, revision, task)).await,
            Self::Messaging(pre) => Box::pin(messaging::call(pre, store, revision, task)).await,
        }
    }
}

/// Notes that the instance is there.
fn started(store: &mut Store<InstanceState>, revision: &Revision, began: Instant) {
    let state = store.data_mut();
    revision.footprint.started_with(state.memory.used_bytes());
    state.init = Some(began.elapsed());
    // The start ends before the run begins.
    drop(std::mem::take(&mut state.span));
    state.span = state.session.calls().run_begins();
}
