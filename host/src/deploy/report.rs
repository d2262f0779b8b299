//! What is told about a deployed agent.

use std::sync::PoisonError;

use super::{DeployedAgent, Deployer};
use crate::agents::{AgentInfo, AgentState};
use crate::catalog::{CatalogError, Traffic};
use crate::task::{AgentName, UnixMs};

/// Events of an agent that are shown with it.
pub(super) const HISTORY_EVENTS: u32 = 20;

/// An agent on this host, as far as that is known without asking anybody.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its name.
    pub agent: AgentName,
    /// Where its new tasks go.
    pub traffic: Traffic,
    /// Its state.
    pub state: AgentState,
    /// Tasks of it that run here now.
    pub running: u64,
}

impl DeployedAgent {
    fn state(&self) -> AgentState {
        match &self.consuming {
            None => AgentState::Paused,
            Some(consuming) if *consuming.live.borrow() => AgentState::Consuming,
            Some(_) => AgentState::Connecting,
        }
    }
}

impl Deployer {
    /// The agents of this host, in name order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let seen = |deployed: &std::sync::Arc<DeployedAgent>| Seen {
            agent: deployed.slot.name().clone(),
            traffic: deployed.slot.traffic().0,
            state: deployed.state(),
            running: deployed.slot.running(),
        };
        self.all().iter().map(seen).collect()
    }

    /// When the youngest task of an agent was enqueued that came here so far.
    #[must_use]
    pub fn newest_enqueued_ms(&self, agent: &AgentName) -> Option<UnixMs> {
        self.find(agent)?.slot.newest_enqueued_ms()
    }

    pub(super) async fn report(&self, deployed: &DeployedAgent) -> Result<Option<AgentInfo>, CatalogError> {
        let Some(active) = deployed.slot.active() else { return Ok(None) };
        let depth = self.broker.depth(&active.agent).await.ok();
        let (traffic, change) = deployed.slot.traffic();
        let tallies = deployed.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Some(AgentInfo {
            name: active.agent.clone(),
            revision: active.number,
            manifest: active.manifest.clone(),
            traffic,
            change,
            hosts: Vec::new(),
            tallies,
            revisions: self.catalog.revisions(&active.agent).await?,
            history: Vec::new(),
            state: deployed.state(),
            running: deployed.slot.running(),
            queue_depth: depth.map(|depth| depth.ready),
            dead_letters: depth.map(|depth| depth.dead),
        }))
    }
}
