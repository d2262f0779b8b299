//! `agent.toml`: what an agent is, what it may reach and what it may use (contract, section 2).
//!
//! Parsing checks everything that the text alone can tell, and reports every mistake at once. Code that holds a
//! [`Manifest`] need not check it again.

mod checks;
mod outbound;
mod record;

pub use checks::ManifestErrors;
pub(crate) use checks::is_label;
pub use outbound::{InvalidOrigin, InvalidOutboundGrant, Origin, OutboundGrant, Scheme};
pub use record::{RECORDING_BYTES_MAX, Record, RecordOn};

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::AgentName;
use crate::units::{self, ByteSize};

/// The manifest of one revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 1.
    pub manifest_version: u32,
    /// Who it is.
    pub agent: Agent,
    /// What one run may use.
    #[serde(default)]
    pub limits: Limits,
    /// What happens to a task that failed.
    #[serde(default)]
    pub retry: Retry,
    /// Whether instances are reused.
    #[serde(default)]
    pub pool: Pool,
    /// When SQL effects commit.
    #[serde(default)]
    pub effects: Effects,
    /// What it may reach; nothing by default.
    #[serde(default)]
    pub grants: Grants,
    /// For agents of the command shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// For the developer's tools; the host ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// Values that the agent reads through `wasi:config/store`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Secrets that the operator must have set.
    #[serde(default)]
    pub secrets: Secrets,
    /// Whether its runs are recorded.
    #[serde(default, skip_serializing_if = "Record::is_default")]
    pub record: Record,
}

/// `[agent]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Name, also of its queue.
    pub name: AgentName,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Path of the module, relative to the manifest.
    pub module: String,
    /// How the agent takes tasks; detected from its exports where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
}

/// The ways in which a task reaches an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Exports `agent:runtime/handler`.
    Native,
    /// Exports `wasi:cli/run`, or is a core wasip1 command.
    Command,
    /// Exports `wasi:http/incoming-handler`.
    Http,
    /// Exports `wasi:messaging/incoming-handler`.
    Messaging,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Command => "command",
            Self::Http => "http",
            Self::Messaging => "messaging",
        })
    }
}

/// `[limits]`, all enforced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sum over all linear memories and tables of one instance.
    pub memory: ByteSize,
    /// Wall clock of one attempt, host calls included. At most 20 minutes: RabbitMQ's consumer timeout is 30.
    #[serde(with = "units::duration")]
    pub timeout: Duration,
    /// Time inside the guest.
    #[serde(with = "units::duration")]
    pub cpu: Duration,
    /// Instances of this agent per host.
    pub concurrency: u32,
    /// Bytes of one output.
    pub output: ByteSize,
    /// Bytes of log lines of one task.
    pub log: ByteSize,
}

/// Longest `limits.timeout`: ten minutes inside RabbitMQ's consumer timeout of 30, of which its check tick takes one.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(20 * 60);
/// Largest `limits.memory`: the pool of instances has room for linear memories of this size, and no more.
pub const MEMORY_BYTES_MAX: ByteSize = ByteSize(500 << 20);
/// Largest `limits.output`: a result is one AMQP message, and RabbitMQ 3.10 takes 16 MiB comfortably.
pub const OUTPUT_BYTES_MAX: ByteSize = ByteSize(15 << 20);

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize(64 << 20),
            timeout: Duration::from_secs(30),
            cpu: Duration::from_secs(10),
            concurrency: 256,
            output: ByteSize(1 << 20),
            log: ByteSize(256 << 10),
        }
    }
}

/// `[retry]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// How the delay grows.
    pub backoff: Backoff,
    /// Delay after the first attempt.
    #[serde(with = "units::duration")]
    pub initial: Duration,
    /// Longest delay.
    #[serde(with = "units::duration")]
    pub max: Duration,
    /// How much of the delay is random.
    pub jitter: Jitter,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            backoff: Backoff::Exponential,
            initial: Duration::from_secs(1),
            max: Duration::from_secs(300),
            jitter: Jitter::Full,
        }
    }
}

/// How the delay grows with the attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backoff {
    /// Always `initial`.
    Fixed,
    /// `initial` times the attempt.
    Linear,
    /// `initial`, doubled after each attempt.
    Exponential,
}

/// How much of a delay is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jitter {
    /// None of it.
    None,
    /// The upper half.
    Equal,
    /// All of it.
    Full,
}

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Tasks per instance; more than 1 opts into reuse.
    pub max_invocations: u32,
}

impl Default for Pool {
    fn default() -> Self {
        Self { max_invocations: 1 }
    }
}

/// `[effects]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Effects {
    /// When SQL effects commit.
    pub transaction: TransactionMode,
}

/// When an agent's SQL effects commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransactionMode {
    /// One transaction per task: all or nothing.
    #[default]
    Task,
    /// Each statement by itself.
    Statement,
}

/// `[grants]`: deny by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Databases that it may open, by name.
    pub sql: Vec<SqlGrant>,
    /// Key-value buckets that it may open, by name.
    pub key_value: Vec<String>,
    /// Whether it may use the cache.
    pub cache: bool,
    /// Agents that it may submit tasks to.
    pub tasks: Vec<AgentName>,
    /// Origins that it may call over HTTP.
    pub allowed_outbound_hosts: Vec<OutboundGrant>,
    /// Folders under the host's `files_root`.
    pub files: Vec<FileGrant>,
}

/// One database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlGrant {
    /// The name that the agent opens it by.
    pub name: String,
    /// Rows of one result.
    #[serde(default = "rows_max_default")]
    pub max_rows: u32,
    /// How long one statement may run.
    #[serde(default = "statement_timeout_default", with = "units::duration")]
    pub statement_timeout: Duration,
    /// Folder of SQL files beside the manifest, applied in name order, once per agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations: Option<String>,
}

fn rows_max_default() -> u32 {
    10_000
}

fn statement_timeout_default() -> Duration {
    Duration::from_secs(5)
}

/// One folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileGrant {
    /// Folder on the host, relative to `files_root`.
    pub host: String,
    /// Where the agent sees it.
    pub guest: String,
    /// What it may do there.
    #[serde(default)]
    pub access: FileAccess,
    /// Bytes that the folder's files may have in all before the agent's writes are refused.
    #[serde(default = "folder_bytes_default")]
    pub quota: ByteSize,
    /// Files, folders and links that it may hold before the agent makes no further ones.
    #[serde(default = "folder_entries_default")]
    pub max_files: u32,
}

/// Room for working files; results belong into the database.
fn folder_bytes_default() -> ByteSize {
    ByteSize(256 << 20)
}

/// What is counted anew in some ten milliseconds.
fn folder_entries_default() -> u32 {
    10_000
}

/// What an agent may do in a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileAccess {
    /// Read only.
    #[default]
    Read,
    /// Read, create, change, delete.
    ReadWrite,
}

/// `[command]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Command {
    /// Arguments after the agent's name.
    pub args: Vec<String>,
}

/// `[build]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// Shell command that makes the module.
    pub command: String,
    /// Globs of the files that it is made from.
    #[serde(default)]
    pub watch: Vec<String>,
}

/// `[secrets]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Names that must be set before the agent deploys.
    pub required: Vec<String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Text that is not TOML, an unknown key, or values that contradict each other or a limit: all of them at once.
    pub fn parse(text: &str) -> Result<Self, ManifestErrors> {
        toml::from_str::<Self>(text).map_err(|error| ManifestErrors::syntax(&error))?.checked()
    }

    /// The manifest, where its values contradict neither each other nor a limit: for one that was read in another form.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn checked(self) -> Result<Self, ManifestErrors> {
        let problems = checks::problems(&self);
        if problems.is_empty() { Ok(self) } else { Err(ManifestErrors(problems)) }
    }
}
