//! What is told about a deployed agent.

use super::{DeployedAgent, Deployer};
use crate::agents::{AgentInfo, AgentState};
use crate::catalog::CatalogError;

impl Deployer {
    pub(super) async fn report(&self, deployed: &DeployedAgent) -> Result<AgentInfo, CatalogError> {
        let active = deployed.slot.active();
        let depth = self.broker.depth(&active.agent).await.ok();
        let state = if *deployed.live.borrow() { AgentState::Consuming } else { AgentState::Connecting };
        Ok(AgentInfo {
            name: active.agent.clone(),
            revision: active.number,
            manifest: active.manifest.clone(),
            revisions: self.catalog.revisions(&active.agent).await?,
            state,
            running: deployed.slot.running(),
            queue_depth: depth.map(|depth| depth.ready),
            dead_letters: depth.map(|depth| depth.dead),
        })
    }
}
