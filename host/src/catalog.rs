//! The deployed agents of a fleet: every revision, its module and manifest, and which revision is active.
//!
//! In PostgreSQL where there is one, so that a restarted host finds its agents again and the hosts of a fleet agree;
//! in process otherwise. `catalog::conformance` holds both to the same rules:
//! - revisions are numbered 1, 2, 3… per agent, without gaps, also when hosts deploy at the same time;
//! - a revision never changes; adding the pair (digest, manifest) of an existing one again gives that one back;
//! - one revision of an agent is active, or none.

use bytes::Bytes;

use crate::task::{AgentName, UnixMs};

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod memory;
mod postgres;

pub use memory::MemoryCatalog;
pub use postgres::PostgresCatalog;

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
pub trait Catalog: Send + Sync + 'static {
    /// Adds a revision, not yet active.
    async fn add(&self, revision: NewRevision) -> Result<Added, CatalogError>;

    /// Makes a revision the active one. Answers whether it exists.
    async fn activate(&self, agent: &AgentName, revision: u64) -> Result<bool, CatalogError>;

    /// The active revision of each agent, as (agent, revision), cheap enough to poll.
    async fn active(&self) -> Result<Vec<(AgentName, u64)>, CatalogError>;

    /// One revision with its module.
    async fn get(&self, agent: &AgentName, revision: u64) -> Result<Option<StoredRevision>, CatalogError>;

    /// All revisions of an agent, oldest first; empty for an unknown agent.
    async fn revisions(&self, agent: &AgentName) -> Result<Vec<RevisionSummary>, CatalogError>;
}
