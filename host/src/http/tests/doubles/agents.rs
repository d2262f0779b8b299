//! Doubles of what operators change: agents and the log of events.

use super::*;
use crate::agents::AgentState;
use crate::catalog::{Following, HostSeen, RevisionSummary, Traffic};
use crate::manifest::Manifest;

pub(crate) fn agent_info(name: &str) -> AgentInfo {
    let manifest =
        format!("manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"m.wasm\"\ndescription = \"does\"\n");
    AgentInfo {
        name: AgentName::parse(name).unwrap(),
        revision: 2,
        manifest: Arc::new(Manifest::parse(&manifest).unwrap()),
        traffic: Traffic::all_to(2),
        change: 2,
        hosts: vec![HostSeen { host: "h:8080".to_owned(), following: Some(Following { change: 2, error: None }) }],
        tallies: Vec::new(),
        history: Vec::new(),
        revisions: [1, 2]
            .map(|revision| RevisionSummary {
                revision,
                digest: format!("sha256:{revision}"),
                module_bytes: 10,
                created_at_ms: revision,
                signatures: 0,
                active: revision == 2,
            })
            .to_vec(),
        state: AgentState::Consuming,
        running: 1,
        queue_depth: Some(7),
        dead_letters: None,
    }
}

#[async_trait::async_trait]
impl Agents for Doubles {
    fn is_deployed(&self, agent: &AgentName) -> bool {
        self.lock().agents.iter().any(|info| info.name == *agent)
    }

    fn may_be_deployed(&self, _: &AgentName) -> bool {
        !self.lock().agents_loaded
    }

    async fn is_elsewhere(&self, agent: &AgentName) -> Result<bool, CatalogError> {
        let state = self.lock();
        if state.records_fail {
            return Err(CatalogError { action: "read", source: away() });
        }
        Ok(state.agents_elsewhere.contains(agent))
    }

    fn all_consuming(&self) -> bool {
        self.lock().all_consuming
    }

    async fn list(&self) -> Result<Vec<AgentInfo>, CatalogError> {
        let state = self.lock();
        if state.records_fail {
            return Err(CatalogError { action: "read", source: away() });
        }
        Ok(state.agents.clone())
    }

    async fn get(&self, agent: &AgentName) -> Result<Option<AgentInfo>, CatalogError> {
        let info = self.lock().agents.iter().find(|info| info.name == *agent).cloned();
        let history = self.events(Some(agent), None, 20).await?;
        Ok(info.map(|info| AgentInfo { history, ..info }))
    }

    async fn deploy(
        &self,
        agent: &AgentName,
        upload: Upload,
        activation: Activation,
        _: Actor,
    ) -> Result<Deployed, DeployError> {
        let mut state = self.lock();
        state.deploys.push((agent.clone(), upload, activation));
        state.deploy_result.take().unwrap_or(Ok(Deployed {
            agent: agent.clone(),
            revision: 3,
            digest: "sha256:3".to_owned(),
            known: false,
            active: activation == Activation::Always,
            signed_by: None,
        }))
    }

    async fn plan(&self, _: &AgentName, upload: Upload) -> Result<Plan, DeployError> {
        let difference = Difference {
            what: "limits.memory".to_owned(),
            from: Some("\"64MiB\"".to_owned()),
            to: Some("\"1MiB\"".to_owned()),
        };
        let module_bytes = upload.module.len() as u64;
        Ok(Plan {
            digest: "sha256:3".to_owned(),
            module_bytes,
            known: None,
            active: Some(2),
            differences: vec![difference],
        })
    }

    async fn change(&self, agent: &AgentName, change: Change, force: bool, who: Actor) -> Result<(), ChangeError> {
        let mut state = self.lock();
        if let Some(error) = state.change_result.take() {
            return Err(error);
        }
        let Some(info) = state.agents.iter_mut().find(|info| info.name == *agent) else {
            return Err(ChangeRefused::NotDeployed.into());
        };
        let mut entry = AgentEntry::new(agent.clone());
        (entry.traffic, entry.previous) = (Some(info.traffic), Some(1));
        let changed = entry.changed(&change)?;
        match changed.traffic {
            Some(traffic) => {
                (info.traffic, info.revision) = (traffic, traffic.active);
                info.tallies = traffic.canary.map(|canary| (canary.revision, Tally::default())).into_iter().collect();
                info.state = if changed.is_paused { AgentState::Paused } else { AgentState::Consuming };
            }
            None => state.agents.retain(|info| info.name != *agent),
        }
        state.changes.push((agent.clone(), change, force, who));
        Ok(())
    }
}

#[async_trait::async_trait]
impl Events for Doubles {
    async fn log(&self, event: NewEvent) -> Result<(), CatalogError> {
        self.lock().events.push(event);
        Ok(())
    }

    async fn events(
        &self,
        agent: Option<&AgentName>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Event>, CatalogError> {
        let state = self.lock();
        if state.records_fail {
            return Err(CatalogError { action: "read", source: away() });
        }
        let numbered = (1_u64..).zip(state.events.iter());
        let meant = numbered.filter(|(id, event)| {
            before.is_none_or(|before| *id < before) && (agent.is_none() || event.agent.as_ref() == agent)
        });
        let event = |(id, event): (u64, &NewEvent)| Event {
            id,
            at_ms: 1_795_442_888_000 + id,
            actor: event.actor.as_str().to_owned(),
            host: event.host.clone(),
            action: event.action.to_owned(),
            agent: event.agent.as_ref().map(ToString::to_string),
            detail: event.detail.clone(),
        };
        let mut events: Vec<_> = meant.map(event).collect();
        events.reverse();
        events.truncate(usize::try_from(limit).unwrap());
        Ok(events)
    }
}
