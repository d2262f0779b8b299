//! The host's configuration: `agent-host.toml`, then the environment, then flags; the last one that says something counts.
//!
//! [`KEYS`] names every setting once; the file, the environment, the flags, `config show` and
//! `docs/configuration.md` all go by it. Reading reports everything that is wrong at once, and never a secret. Code that
//! holds a [`Config`] need not check it again.

mod backend;
mod keys;
mod read;
mod sources;
mod vars;

#[cfg(test)]
mod tests;

pub use backend::{Backend, ServiceUrl};
pub use keys::{KEYS, Key, Kind, table};
pub use sources::Source;
pub use vars::{MapVars, ProcessVars, Vars, VarsError};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::http;
use crate::secrets::Keyring;
use crate::telemetry::{LogFormat, OtlpSettings};
use crate::units::ByteSize;

/// Name of the configuration file, looked for in the working folder where none is named.
pub const FILE_NAME: &str = "agent-host.toml";

/// Smallest memory budget: the host itself, its engine, and one instance of the default 64 MiB.
pub const MEMORY_BUDGET_MIN: ByteSize = ByteSize(128_000_000);

/// Everything that an operator can set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the HTTP API.
    pub listen: SocketAddr,
    /// Files of the certificate and its key, where the API is served by TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The broker.
    pub broker: Backend,
    /// The database.
    pub database: Backend,
    /// Key-value and cache.
    pub cache: Backend,
    /// What the process's resident memory stays within.
    pub memory_budget: ByteSize,
    /// Folder whose agents are deployed at start.
    pub agents_dir: Option<PathBuf>,
    /// Whether what changes in it is deployed, too.
    pub agents_watch: bool,
    /// Files of the keys by one of which every module must be signed; without any, none need be.
    pub signature_keys: Vec<PathBuf>,
    /// Embedded state and compiled code.
    pub data_dir: PathBuf,
    /// Memory that compiling one module may take, in bytes.
    pub compile_memory_max: ByteSize,
    /// Processor time that compiling one module may take.
    pub compile_time_max: Duration,
    /// Compiled code that is kept, in bytes.
    pub compile_cache_max: ByteSize,
    /// Connections to PostgreSQL in the names of agents.
    pub sql_connections_max: u32,
    /// Folder under which agents may be granted folders.
    pub files_root: Option<PathBuf>,
    /// How log lines are written.
    pub log: LogFormat,
    /// Which log lines are written: `tracing` directives.
    pub log_filter: String,
    /// Whether the broker's queues are somebody else's to declare.
    pub predeclared: bool,
    /// How long a task's record is shown after its end.
    pub record_retention: Duration,
    /// How long a task that has ended is remembered, so that it is not run again; at least the record's retention.
    pub inbox_retention: Duration,
    /// How long running tasks may finish at shutdown.
    pub grace_period: Duration,
    /// Where traces and metrics go, if anywhere.
    pub otlp: Option<OtlpSettings>,
    /// What secrets are stored with.
    pub secrets_keys: Keyring,
    /// The HTTP API's part.
    pub http: http::Config,
    /// What is set and has no effect, each with what to do instead.
    pub ignored: Vec<String>,
}

/// Values given as flags, by the setting's name.
pub type Flags = BTreeMap<&'static str, String>;

/// A setting as it is in force, for `config show`. Secrets are not shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// Its name in the file.
    pub name: &'static str,
    /// Its environment variable.
    pub variable: &'static str,
    /// Its value; nothing where it is not set.
    pub value: Option<String>,
    /// Where the value came from.
    pub source: Source,
}

/// Everything that is wrong with the configuration, one text each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the configuration is wrong:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads the configuration.
    ///
    /// `file` is the configuration file; where it is not given, [`FILE_NAME`] in the working folder is read if it exists.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(file: Option<&Path>, vars: &dyn Vars, flags: &Flags) -> Result<Self, ConfigErrors> {
        let (values, problems) = sources::collect(file, vars, flags);
        let config = read::config(&values, problems, vars)?;
        Ok(Self { ignored: sources::ignored(vars), ..config })
    }

    /// The settings in force, whether or not they are valid, and what is wrong with them.
    #[must_use]
    pub fn show(file: Option<&Path>, vars: &dyn Vars, flags: &Flags) -> (Vec<Setting>, Option<ConfigErrors>) {
        let (values, problems) = sources::collect(file, vars, flags);
        let settings = values.settings();
        (settings, read::config(&values, problems, vars).err())
    }
}
