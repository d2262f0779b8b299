//! The deployed agents of a fleet: every revision, its module and manifest, and which revision is active.
//!
//! In PostgreSQL where there is one, so that a restarted host finds its agents again and the hosts of a fleet agree;
//! in process otherwise. `catalog::conformance` holds both to the same rules:
//! - revisions are numbered 1, 2, 3… per agent, without gaps, also when hosts deploy at the same time;
//! - a revision never changes; adding the pair (digest, manifest) of an existing one again gives that one back, and only
//!   its signatures are added to it;
//! - one revision of an agent is active, or none; a newer one beside it may be on trial ([`Traffic`]);
//! - a change of an agent and the event that tells of it are one commit, and whoever waits for changes learns of it.

use bytes::Bytes;

use crate::signature::Signature;
use crate::task::{AgentName, UnixMs};

mod change;
#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod events;
mod fleet;
mod memory;
mod postgres;
mod verdict;

pub use change::{AgentEntry, Canary, Change, ChangeRefused, InvalidTraffic, Tally, Traffic};
pub use events::{Actor, Event, NewEvent};
pub use fleet::{Fleet, Following, HostDoing, HostFigures, HostSeen, REPORT_EVERY, SILENT_MAX};
pub use memory::MemoryCatalog;
pub use postgres::PostgresCatalog;
pub(crate) use postgres::{log as log_event, tell as tell_hosts};
pub use verdict::{PROBABILITY_MAX, TASKS_MIN, Worse, verdict};

/// How long events are kept: a year of who did what.
pub const EVENTS_KEPT: std::time::Duration = std::time::Duration::from_secs(366 * 24 * 3_600);

/// One SQL migration: its file name, which orders it, and its text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Migration {
    /// The file's name, such as `0001_create.sql`.
    pub name: String,
    /// The statements.
    pub sql: String,
}

/// A revision before it has a number.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRevision {
    /// The agent.
    pub agent: AgentName,
    /// `sha256:<hex>` of the module as sent.
    pub digest: String,
    /// The manifest's text.
    pub manifest: String,
    /// The module.
    pub module: Bytes,
    /// Its SQL migrations, in order.
    pub migrations: Vec<Migration>,
    /// What is said to vouch for it. It is kept as it came: each host looks by itself whether it does.
    pub signatures: Vec<Signature>,
}

/// A revision of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRevision {
    /// Its number, from 1.
    pub revision: u64,
    /// When it was added.
    pub created_at_ms: UnixMs,
    /// What it is.
    pub content: NewRevision,
}

/// A revision without its module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionSummary {
    /// Its number, from 1.
    pub revision: u64,
    /// `sha256:<hex>` of the module as sent.
    pub digest: String,
    /// Bytes of the module.
    pub module_bytes: u64,
    /// When it was added.
    pub created_at_ms: UnixMs,
    /// How many signatures it has.
    pub signatures: u32,
    /// Whether new tasks run on it.
    pub active: bool,
}

/// What adding a revision did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It got this number.
    New(u64),
    /// It was there already, under this number.
    Known(u64),
}

/// The catalog cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the catalog of agents cannot be {action}")]
pub struct CatalogError {
    /// What was tried: "read" or "written".
    pub action: &'static str,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The deployed agents of a fleet.
#[async_trait::async_trait]
pub trait Catalog: Events + Fleet {
    /// Adds a revision, not yet active. `event` is logged where it is new; otherwise its signatures are added to the known one.
    async fn add(&self, revision: NewRevision, event: NewEvent) -> Result<Added, CatalogError>;

    /// Changes an agent, in one commit with the event of it; nothing is logged where nothing changes. Answers the agent's
    /// entry from then on.
    async fn change(
        &self,
        agent: &AgentName,
        change: Change,
        event: NewEvent,
    ) -> Result<Result<AgentEntry, ChangeRefused>, CatalogError>;

    /// Every agent that is deployed, in name order: cheap enough to poll.
    async fn entries(&self) -> Result<Vec<AgentEntry>, CatalogError>;

    /// Waits until some agent or secret may have changed, on whichever host. It may return early, and miss what changed while nobody
    /// waited or the database was away: callers look by themselves now and then. One caller at a time.
    async fn changed(&self) -> Result<(), CatalogError>;

    /// One revision with its module.
    async fn get(&self, agent: &AgentName, revision: u64) -> Result<Option<StoredRevision>, CatalogError>;

    /// All revisions of an agent, oldest first; empty for an unknown agent.
    async fn revisions(&self, agent: &AgentName) -> Result<Vec<RevisionSummary>, CatalogError>;

    /// Adds to what is counted of a split, and answers the fleet's sums by revision.
    async fn tally(
        &self,
        agent: &AgentName,
        of_change: u64,
        counted: &[(u64, Tally)],
    ) -> Result<Vec<(u64, Tally)>, CatalogError>;
}

/// The audit log of a fleet.
#[async_trait::async_trait]
pub trait Events: Send + Sync + 'static {
    /// Logs something that was done elsewhere than in the catalog.
    async fn log(&self, event: NewEvent) -> Result<(), CatalogError>;

    /// Events, the newest first, of one agent or of all, from before the event `before` on, at most `limit` of them.
    async fn events(
        &self,
        agent: Option<&AgentName>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Event>, CatalogError>;
}
