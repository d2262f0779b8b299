//! Changes of deployed agents that operators ask for.

use super::Deployer;
use crate::agents::ChangeError;
use crate::catalog::{Actor, AgentEntry, Change, ChangeRefused, NewEvent, Traffic};
use crate::task::AgentName;

impl Deployer {
    pub(super) fn event(&self, agent: &AgentName, who: &Actor, action: &'static str, detail: String) -> NewEvent {
        let host = self.dispatcher.host.to_string();
        NewEvent { actor: who.clone(), host, action, agent: Some(agent.clone()), detail }
    }

    pub(super) async fn change_one_at_a_time(
        &self,
        agent: &AgentName,
        change: Change,
        force: bool,
        who: &Actor,
    ) -> Result<(), ChangeError> {
        let _one_at_a_time = self.deployed.deploying.lock().await;
        let now = self.entry(agent).await?.ok_or(ChangeRefused::NotDeployed)?;
        let next = now.changed(&change)?;
        if let Some(traffic) = next.traffic {
            self.check_loads(agent, &now, traffic).await?;
        } else if !force {
            self.check_empty(agent).await?;
        }
        let (action, detail) = told(&change, &now, &next);
        let entry = self.catalog.change(agent, change, self.event(agent, who, action, detail)).await??;
        tracing::info!(%agent, who = who.as_str(), action, traffic = ?entry.traffic, "changed");
        self.apply(&entry, None).await.map_err(ChangeError::Late)
    }

    /// Loads what would get tasks, before anything changes.
    async fn check_loads(&self, agent: &AgentName, now: &AgentEntry, traffic: Traffic) -> Result<(), ChangeError> {
        let known = self.catalog.revisions(agent).await?;
        for (revision, _) in traffic.weights() {
            if !known.iter().any(|summary| summary.revision == revision) {
                return Err(ChangeRefused::UnknownRevision(revision).into());
            }
        }
        if now.traffic == Some(traffic) {
            return Ok(());
        }
        let loaded = self.revisions(agent, traffic, None).await;
        loaded.map(drop).map_err(|(revision, source)| ChangeError::Revision { revision, source })
    }

    async fn check_empty(&self, agent: &AgentName) -> Result<(), ChangeError> {
        let ready = self.broker.depth(agent).await.map_err(ChangeError::Broker)?.ready;
        let running = self.find(agent).map_or(0, |deployed| deployed.slot.running());
        if ready > 0 || running > 0 { Err(ChangeError::QueueNotEmpty { ready, running }) } else { Ok(()) }
    }
}

/// What an event says of a change.
fn told(change: &Change, now: &AgentEntry, next: &AgentEntry) -> (&'static str, String) {
    let traffic = |entry: &AgentEntry| {
        let weights = entry.traffic.map(|traffic| traffic.weights()).unwrap_or_default();
        let parts: Vec<_> =
            weights.iter().map(|(revision, percent)| format!("revision {revision}: {percent} %")).collect();
        parts.join(", ")
    };
    let direction = || format!("from {} to {}", traffic(now), traffic(next));
    match change {
        Change::Activate(_) => ("activated", direction()),
        Change::RollBack => ("rolled-back", direction()),
        Change::Split(_) => ("traffic-set", direction()),
        Change::EndCanary { .. } => ("canary-rolled-back", direction()),
        Change::Pause => ("paused", traffic(now)),
        Change::Resume => ("resumed", traffic(now)),
        Change::Remove => ("removed", traffic(now)),
    }
}
