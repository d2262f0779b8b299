//! The port through which the HTTP API sees and changes the deployed agents.

use bytes::Bytes;

use crate::catalog::{CatalogError, Migration, RevisionSummary};
use crate::delivery::BrokerError;
use crate::manifest::{Manifest, ManifestErrors};
use crate::task::AgentName;

/// A module and manifest as uploaded.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The module's bytes.
    pub module: Bytes,
    /// The manifest's text.
    pub manifest: String,
    /// SQL migrations, in name order.
    pub migrations: Vec<Migration>,
}

/// Whether new tasks go to a revision that is deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// From now on.
    Always,
    /// Unless it was there before and another one is active now: somebody chose that one since.
    IfNew,
    /// They stay where they are.
    Never,
}

/// What a deploy did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The agent.
    pub agent: AgentName,
    /// The revision's number.
    pub revision: u64,
    /// `sha256:<hex>` of the module as sent.
    pub digest: String,
    /// Whether this pair of module and manifest was there already.
    pub known: bool,
    /// Whether new tasks run on it now.
    pub active: bool,
}

/// Why a deploy was refused. The running revision stays.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// The manifest names another agent than the request.
    #[error("the manifest is of agent {manifest}, the request of agent {path}: deploy it under its own name")]
    OtherAgent {
        /// The manifest's name.
        manifest: AgentName,
        /// The request's name.
        path: AgentName,
    },
    /// The module cannot run here: not wasm, an unknown import, no handler, does not instantiate.
    #[error("{0}")]
    Module(String),
    /// This host cannot compile: the disk is full, no process can be started.
    #[error("{0}")]
    Host(String),
    /// The manifest asks for something that this host cannot give.
    #[error("{0}")]
    Grant(String),
    /// A migration failed or the agent's schema could not be made.
    #[error("the agent's database schema could not be brought up to date: {0}")]
    Schema(String),
    /// The broker cannot be reached to declare the agent's queues.
    #[error("the agent's queues could not be declared")]
    Broker(#[source] BrokerError),
    /// The catalog cannot be reached.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The state of an agent on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AgentState {
    /// Its queue is being consumed here.
    Consuming,
    /// It is deployed, and its consumer is being (re)made.
    Connecting,
}

/// What is known about a deployed agent.
#[derive(Clone, Debug)]
pub struct AgentInfo {
    /// Its name.
    pub name: AgentName,
    /// Its active revision.
    pub revision: u64,
    /// The active revision's manifest.
    pub manifest: std::sync::Arc<Manifest>,
    /// Its revisions, oldest first.
    pub revisions: Vec<RevisionSummary>,
    /// Its state on this host.
    pub state: AgentState,
    /// Tasks of it that run on this host now.
    pub running: u64,
    /// Ready messages in its queue, where the broker could be asked.
    pub queue_depth: Option<u64>,
    /// Its dead letters, likewise.
    pub dead_letters: Option<u64>,
}

/// The deployed agents.
#[async_trait::async_trait]
pub trait Agents: Send + Sync + 'static {
    /// Whether an agent of this name is deployed: cheap, asked for every submission.
    fn is_deployed(&self, agent: &AgentName) -> bool;

    /// Whether an agent that is not deployed here may yet be: while those of before the start are being loaded, and where
    /// this one could not be loaded so far.
    fn may_be_deployed(&self, agent: &AgentName) -> bool;

    /// Whether every deployed agent has a live consumer here: cheap, asked by readiness probes.
    fn all_consuming(&self) -> bool;

    /// All deployed agents, in name order.
    async fn list(&self) -> Result<Vec<AgentInfo>, CatalogError>;

    /// One of them.
    async fn get(&self, agent: &AgentName) -> Result<Option<AgentInfo>, CatalogError>;

    /// Checks, compiles and adds a revision, and directs new tasks to it as `activation` says. Of a pair of module and
    /// manifest that is active already only the migrations are looked at, and those that are new are applied.
    async fn deploy(&self, agent: &AgentName, upload: Upload, activation: Activation) -> Result<Deployed, DeployError>;
}
