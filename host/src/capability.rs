//! Capabilities: everything that an agent can reach, brokered call by call.
//!
//! An agent has what its manifest grants and nothing else. The host holds the connections and the credentials; the agent
//! holds names. Each capability is a folder of the same shape: its trait and limits in `x.rs`, the implementations side by
//! side (`redis.rs`, `memory.rs`, `postgres.rs`), one `conformance.rs` that is run over all of them, and `host.rs`, the
//! only file that speaks the generated WIT types.
//!
//! Two kinds of failure leave a call: a typed error that the guest can handle, and a trap (a handle that does not exist).
//! The guest gets a short case without addresses; the host's log gets the cause. A call without a grant is answered with
//! the typed error and the line to add to the manifest, never with a trap: many toolchains import what they never call.
//!
//! [`Capabilities`] is the host's, [`SessionPlan`] a revision's, [`Session`] a task's.

pub mod cache;
mod calls;
pub mod config;
pub mod files;
pub mod key_value;
pub mod log;
pub mod measured;
mod memory;
pub mod messaging;
pub mod outbound_http;
pub mod recording;
pub mod redis;
pub mod secrets;
mod session;
pub mod sql;
pub mod stdout;
pub mod tasks;
#[cfg(test)]
mod tests;

pub use calls::{CALL_SPANS_MAX, Calls};
pub use session::{Finished, MakeEnding, Session, SessionPlan, Trouble};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::component::{HasData, Linker, ResourceTable};

use crate::manifest::Manifest;
use crate::task::{AgentName, Limit, Task};
use crate::wit::capabilities::{agent, wasi};

/// The reason behind an error, for the host's log.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Where an agent's calls end: one implementation of each outside thing.
#[derive(Clone)]
pub struct Backends {
    /// Databases.
    pub database: Arc<dyn sql::Database>,
    /// Key-value buckets.
    pub key_value: Arc<dyn key_value::KeyValue>,
    /// The cache.
    pub cache: Arc<dyn cache::Cache>,
    /// Secrets.
    pub secrets: Arc<dyn secrets::SecretSource>,
    /// What is outside, by HTTP.
    pub outbound: Arc<outbound_http::Outbound>,
    /// Which agents a follow-up task can be sent to.
    pub directory: Arc<dyn tasks::Directory>,
}

/// What all agents of a host share. Cheap to clone.
#[derive(Clone)]
pub struct Capabilities {
    shared: Arc<Shared>,
}

struct Shared {
    backends: Backends,
    /// Values that are on their way from the store, of all tasks; see [`VALUES_READ_MAX`].
    reads: Arc<Semaphore>,
    cache_counts: Mutex<HashMap<AgentName, Arc<cache::Counts>>>,
    /// What answers in place of the backends, in a replay.
    replay: Option<Arc<recording::Tape>>,
}

impl Capabilities {
    /// Capabilities over these backends.
    #[must_use]
    pub fn new(backends: Backends) -> Self {
        Self::made(backends, None)
    }

    /// Capabilities of one run that is played back: the backends are asked nothing.
    #[must_use]
    pub fn replaying(backends: Backends, tape: Arc<recording::Tape>) -> Self {
        Self::made(backends, Some(tape))
    }

    fn made(backends: Backends, replay: Option<Arc<recording::Tape>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                backends,
                reads: Arc::new(Semaphore::new(VALUES_READ_MAX)),
                cache_counts: Mutex::default(),
                replay,
            }),
        }
    }

    /// The backends, to provision, to close, and to report on.
    #[must_use]
    pub fn backends(&self) -> &Backends {
        &self.shared.backends
    }

    /// What a revision may reach, worked out once when it is deployed.
    #[must_use]
    pub fn plan(&self, agent: &AgentName, revision: u64, manifest: Arc<Manifest>) -> Arc<SessionPlan> {
        let mut counts = self.shared.cache_counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = Arc::clone(counts.entry(agent.clone()).or_default());
        let outbound = Arc::clone(&self.shared.backends.outbound);
        Arc::new(SessionPlan::new(agent.clone(), revision, manifest, counts, outbound))
    }

    /// What one task may reach, from now until it ends. Nothing is opened before it is used.
    #[must_use]
    pub fn session(&self, plan: &Arc<SessionPlan>, task: &Task) -> Session {
        Session::new(Arc::clone(&self.shared), Arc::clone(plan), task)
    }

    /// Cache hits and misses of each agent that was deployed since the host started.
    #[must_use]
    pub fn cache_counts(&self) -> Vec<(AgentName, Arc<cache::Counts>)> {
        let counts = self.shared.cache_counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(agent, counts)| (agent.clone(), Arc::clone(counts))).collect()
    }

    /// Secrets that a manifest requires and that are not set by now, or cannot be read here.
    ///
    /// # Errors
    /// The store of secrets cannot be read.
    pub async fn missing_secrets(
        &self,
        manifest: &Manifest,
    ) -> Result<Vec<secrets::MissingSecret>, secrets::SecretsError> {
        let source = &self.shared.backends.secrets;
        let mut missing = Vec::new();
        if !manifest.secrets.required.is_empty() {
            // One may have been set a moment ago, by way of another host.
            source.look().await?;
        }
        for name in &manifest.secrets.required {
            let unreadable = match source.get(&manifest.agent.name, name).await {
                Ok(Some(_)) => continue,
                Ok(None) => None,
                Err(secrets::SecretsError::Unreadable(why)) => Some(why),
                Err(error) => return Err(error),
            };
            missing.push(secrets::MissingSecret { name: name.clone(), unreadable });
        }
        Ok(missing)
    }
}

impl std::fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capabilities").finish_non_exhaustive()
    }
}

/// What a host call works on: the task's session, and the store's table of resources.
pub struct View<'a> {
    /// The running task's session.
    pub session: &'a mut Session,
    /// The instance's resources.
    pub table: &'a mut ResourceTable,
}

/// Tells the linker that host calls borrow a [`View`] from the store's data.
struct Views;

impl HasData for Views {
    type Data<'a> = View<'a>;
}

/// Links everything that the host implements itself: key-value in both drafts, logging, configuration, cache, sql, tasks,
/// secrets and the messaging types. WASI itself and `wasi:http` are linked by their reference implementations.
///
/// # Errors
/// An interface is linked already.
pub fn add_to_linker<T: Send + 'static>(linker: &mut Linker<T>, view: fn(&mut T) -> View<'_>) -> wasmtime::Result<()> {
    wasi::keyvalue0_2_0_draft::store::add_to_linker::<T, Views>(linker, view)?;
    wasi::keyvalue0_2_0_draft::atomics::add_to_linker::<T, Views>(linker, view)?;
    wasi::keyvalue0_2_0_draft::batch::add_to_linker::<T, Views>(linker, view)?;
    wasi::keyvalue0_2_0_draft2::store::add_to_linker::<T, Views>(linker, view)?;
    wasi::keyvalue0_2_0_draft2::atomics::add_to_linker::<T, Views>(linker, view)?;
    wasi::keyvalue0_2_0_draft2::batch::add_to_linker::<T, Views>(linker, view)?;
    wasi::logging::logging::add_to_linker::<T, Views>(linker, view)?;
    wasi::config::store::add_to_linker::<T, Views>(linker, view)?;
    wasi::messaging::types::add_to_linker::<T, Views>(linker, view)?;
    agent::runtime::types::add_to_linker::<T, Views>(linker, view)?;
    agent::runtime::cache::add_to_linker::<T, Views>(linker, view)?;
    agent::runtime::sql::add_to_linker::<T, Views>(linker, view)?;
    agent::runtime::tasks::add_to_linker::<T, Views>(linker, view)?;
    agent::runtime::secrets::add_to_linker::<T, Views>(linker, view)?;
    // In place of wasmtime-wasi's, for the sake of recordings.
    linker.allow_shadowing(true);
    wasmtime_wasi_io::bindings::wasi::io::poll::add_to_linker::<T, Views>(linker, view)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Values of the largest size that all tasks of the host together have on their way from the store of buckets and cache: how
/// large one is shows when it is there. Others wait. With answers within a millisecond that makes 32,000 values a second.
const VALUES_READ_MAX: usize = 32;
/// How often the bytes of a call are there while it waits for a server: as the guest gave them, and as they are sent.
const COPIES: usize = 2;

/// A cap of the host was reached in a call that has no error to answer with. The run ends as `limit-exceeded`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CapReached(pub Limit);

/// A name that a guest asked for, quoted, and cut where nobody would read on: it may be as long as a call carries.
fn quoted(name: &str) -> String {
    const CHARS_MAX: usize = 100;
    let mut start: String = name.chars().take(CHARS_MAX).collect();
    if start.len() < name.len() {
        start.push('…');
    }
    format!("{start:?}")
}

/// The answer to a call without a grant.
fn denied(what: &str, line: &str) -> String {
    format!("the manifest does not grant {what}: add `{line}` to agent.toml")
}

/// An error with everything behind it, on one line, for the host's log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    log::escaped(&text, log::LINE_BYTES_MAX)
}
