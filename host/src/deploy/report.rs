//! What is told about a deployed agent.

use std::sync::PoisonError;

use super::{DeployedAgent, Deployer};
use crate::agents::{AgentInfo, AgentState};
use crate::catalog::CatalogError;

/// Events of an agent that are shown with it.
pub(super) const HISTORY_EVENTS: u32 = 20;

impl Deployer {
    pub(super) async fn report(&self, deployed: &DeployedAgent) -> Result<Option<AgentInfo>, CatalogError> {
        let Some(active) = deployed.slot.active() else { return Ok(None) };
        let depth = self.broker.depth(&active.agent).await.ok();
        let state = match &deployed.consuming {
            None => AgentState::Paused,
            Some(consuming) if *consuming.live.borrow() => AgentState::Consuming,
            Some(_) => AgentState::Connecting,
        };
        let (traffic, _) = deployed.slot.traffic();
        let tallies = deployed.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Some(AgentInfo {
            name: active.agent.clone(),
            revision: active.number,
            manifest: active.manifest.clone(),
            traffic,
            tallies,
            revisions: self.catalog.revisions(&active.agent).await?,
            history: Vec::new(),
            state,
            running: deployed.slot.running(),
            queue_depth: depth.map(|depth| depth.ready),
            dead_letters: depth.map(|depth| depth.dead),
        }))
    }
}
