//! The port through which the HTTP API sees and changes the deployed agents.

use bytes::Bytes;

use crate::catalog::{
    Actor, CatalogError, Change, ChangeRefused, Event, HostSeen, Migration, RevisionSummary, Tally, Traffic,
};
use crate::delivery::BrokerError;
use crate::manifest::{Manifest, ManifestErrors};
use crate::secrets::SecretsError;
use crate::signature::{Signature, Unsigned};
use crate::task::AgentName;
use crate::units::ByteSize;

/// Largest module (contract, section 4).
pub const MODULE_BYTES_MAX: ByteSize = ByteSize(128 << 20);
/// Largest manifest: the longest that people write have a few KiB.
pub const MANIFEST_BYTES_MAX: ByteSize = ByteSize(256 << 10);
/// Largest migration: what creates an agent's tables, not what fills them.
pub const MIGRATION_BYTES_MAX: ByteSize = ByteSize(1 << 20);
/// Most migrations of a revision: years of changing the tables every day.
pub const MIGRATIONS_MAX: usize = 1_000;

/// A module and manifest as uploaded.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The module's bytes.
    pub module: Bytes,
    /// The manifest's text.
    pub manifest: String,
    /// SQL migrations, in name order.
    pub migrations: Vec<Migration>,
    /// What is said to vouch for the module.
    pub signatures: Vec<Signature>,
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
    /// The trusted key that vouches for it; nothing where this host trusts everybody.
    pub signed_by: Option<String>,
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
    /// This host runs signed modules alone, and no key that it trusts vouches for this one.
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
    /// The module cannot run here: not wasm, an unknown import, no handler, does not instantiate.
    #[error("{0}")]
    Module(String),
    /// This host cannot compile: the disk is full, no process can be started.
    #[error("{0}")]
    Host(String),
    /// The manifest asks for something that this host cannot give.
    #[error("{0}")]
    Grant(String),
    /// Whether its secrets are set cannot be told.
    #[error(transparent)]
    Secrets(SecretsError),
    /// A migration failed or the agent's schema could not be made.
    #[error("the agent's database schema could not be brought up to date: {0}")]
    Schema(String),
    /// The agents' database cannot be reached to bring the agent's schema up to date.
    #[error("the agent's database schema could not be brought up to date: {0}")]
    Database(String),
    /// The broker cannot be reached to declare the agent's queues.
    #[error("the agent's queues could not be declared")]
    Broker(#[source] BrokerError),
    /// The catalog cannot be reached.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What a deploy would do, had it been one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `sha256:<hex>` of the module as sent.
    pub digest: String,
    /// Bytes of the module.
    pub module_bytes: u64,
    /// The number that this pair of module and manifest has already.
    pub known: Option<u64>,
    /// The revision that it would displace.
    pub active: Option<u64>,
    /// What differs from that one.
    pub differences: Vec<Difference>,
}

/// One thing that a deploy would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `module`, `import`, or a key of the manifest.
    pub what: String,
    /// What it is now; nothing where it is new.
    pub from: Option<String>,
    /// What it would be; nothing where it goes.
    pub to: Option<String>,
}

/// Why an agent was not changed. Nothing has changed then, but for [`ChangeError::Late`].
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It cannot be done, whoever asks.
    #[error(transparent)]
    Refused(#[from] ChangeRefused),
    /// A revision does not load on this host.
    #[error("revision {revision} cannot run: {source}")]
    Revision {
        /// Which one.
        revision: u64,
        /// Why.
        source: DeployError,
    },
    /// Tasks wait for it.
    #[error("{ready} tasks wait in its queue and {running} run here")]
    QueueNotEmpty {
        /// Ready messages.
        ready: u64,
        /// Tasks that run on this host.
        running: u64,
    },
    /// How many tasks wait is not known.
    #[error("the broker cannot be asked for the agent's queue")]
    Broker(#[source] BrokerError),
    /// It is changed, and this host could not follow yet; it tries again.
    #[error("the change is made, and this host follows as soon as it can: {0}")]
    Late(#[source] DeployError),
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
    /// Somebody paused it: tasks wait in its queue.
    Paused,
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
    /// Where its new tasks go.
    pub traffic: Traffic,
    /// How often it was changed; in lists, as far as this host has followed.
    pub change: u64,
    /// The hosts of the fleet, and how far each of them is; empty in lists.
    pub hosts: Vec<HostSeen>,
    /// How first attempts ended on each revision, fleet-wide, since its traffic was split.
    pub tallies: Vec<(u64, Tally)>,
    /// Its revisions, oldest first.
    pub revisions: Vec<RevisionSummary>,
    /// What was done with it last, the newest first; empty in lists.
    pub history: Vec<Event>,
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

    /// Whether the fleet has an agent that is not deployed here: another host deployed it a moment ago, and this one loads it
    /// soon. All who ask at once share one look, which is not made more often than ten times a second.
    async fn is_elsewhere(&self, agent: &AgentName) -> Result<bool, CatalogError>;

    /// Whether every deployed agent that is not paused has a live consumer here: cheap, asked by readiness probes.
    fn all_consuming(&self) -> bool;

    /// All deployed agents, in name order.
    async fn list(&self) -> Result<Vec<AgentInfo>, CatalogError>;

    /// One of them.
    async fn get(&self, agent: &AgentName) -> Result<Option<AgentInfo>, CatalogError>;

    /// Checks, compiles and adds a revision, and directs new tasks to it as `activation` says. Of a pair of module and
    /// manifest that is active already only the migrations are looked at, and those that are new are applied.
    async fn deploy(
        &self,
        agent: &AgentName,
        upload: Upload,
        activation: Activation,
        who: Actor,
    ) -> Result<Deployed, DeployError>;

    /// Checks and compiles a revision as a deploy would, and says what that would change. Changes nothing.
    async fn plan(&self, agent: &AgentName, upload: Upload) -> Result<Plan, DeployError>;

    /// Changes an agent on all hosts. A revision that would get tasks has been loaded here before anything changes. Unless
    /// `force` is set, an agent for which tasks wait is not removed.
    async fn change(&self, agent: &AgentName, change: Change, force: bool, who: Actor) -> Result<(), ChangeError>;
}
