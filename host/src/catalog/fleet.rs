//! How far each host of a fleet follows the agents' changes, and how it does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CatalogError;
use crate::task::AgentName;

/// How often a host says how far it is, also where nothing changes.
pub const REPORT_EVERY: Duration = Duration::from_secs(3);

/// How long a host counts as there after it last said so: three reports may be late.
pub const SILENT_MAX: Duration = Duration::from_secs(10);

/// How far a host is with an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Following {
    /// The change of the agent that it serves, or failed to.
    pub change: u64,
    /// Why it could not follow that change so far.
    pub error: Option<String>,
}

/// A host that is there, and how far it is with one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSeen {
    /// Its name.
    pub host: String,
    /// Nothing where it does not have the agent.
    pub following: Option<Following>,
}

/// How a host does. Rates and latencies are over the last ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
// What a host of another version does not say is as if it were idle.
#[serde(default)]
pub struct HostFigures {
    /// Deliveries settled per second.
    pub per_second: f64,
    /// Of 100 deliveries 95 took less, in milliseconds; nothing where there were none.
    pub p95_ms: Option<f64>,
    /// Failed attempts of all, from 0 to 1; nothing where there were none.
    pub error_ratio: Option<f64>,
    /// Tasks that run now.
    pub running: u64,
    /// What the process may keep resident, in bytes.
    pub memory_budget_bytes: u64,
    /// What is resident, in bytes.
    pub memory_resident_bytes: u64,
}

/// A host that is there, and how it does.
#[derive(Clone, Debug, PartialEq)]
pub struct HostDoing {
    /// Its name.
    pub host: String,
    /// How it does; nothing where it has not said so.
    pub figures: Option<HostFigures>,
}

/// The hosts of a fleet, as they speak of themselves.
#[async_trait::async_trait]
pub trait Fleet: Send + Sync + 'static {
    /// Says how far a host is with all agents, and how it does. It counts as there for [`SILENT_MAX`] from now on.
    async fn report(
        &self,
        host: &str,
        agents: &BTreeMap<AgentName, Following>,
        figures: &HostFigures,
    ) -> Result<(), CatalogError>;

    /// Says that a host is there no more.
    async fn leave(&self, host: &str) -> Result<(), CatalogError>;

    /// The hosts that are there, in name order, each with how far it is with this agent.
    async fn hosts(&self, agent: &AgentName) -> Result<Vec<HostSeen>, CatalogError>;

    /// The hosts that are there, in name order, each with how it does.
    async fn doing(&self) -> Result<Vec<HostDoing>, CatalogError>;
}
