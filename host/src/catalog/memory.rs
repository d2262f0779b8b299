//! The catalog in process, for a host without a database: agents are deployed again at each start.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Added, Catalog, CatalogError, NewRevision, RevisionSummary, StoredRevision};
use crate::task::{AgentName, unix_ms_now};

/// A catalog in process memory.
#[derive(Debug, Default)]
pub struct MemoryCatalog {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    agents: BTreeMap<AgentName, Agent>,
    /// Modules by digest, so that revisions which differ in the manifest only share theirs.
    modules: HashMap<String, Bytes>,
}

#[derive(Debug, Default)]
struct Agent {
    /// Revision N is at N - 1.
    revisions: Vec<StoredRevision>,
    active: Option<u64>,
}

impl Agent {
    fn revision(&self, revision: u64) -> Option<&StoredRevision> {
        self.revisions.get(usize::try_from(revision.checked_sub(1)?).ok()?)
    }
}

impl MemoryCatalog {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl Catalog for MemoryCatalog {
    async fn add(&self, mut revision: NewRevision) -> Result<Added, CatalogError> {
        let mut kept = self.kept();
        let Kept { agents, modules } = &mut *kept;
        let agent = agents.entry(revision.agent.clone()).or_default();
        let same = |stored: &&StoredRevision| {
            stored.content.digest == revision.digest && stored.content.manifest == revision.manifest
        };
        if let Some(known) = agent.revisions.iter().find(same) {
            return Ok(Added::Known(known.revision));
        }
        revision.module = modules.entry(revision.digest.clone()).or_insert(revision.module).clone();
        let number = agent.revisions.last().map_or(1, |last| last.revision + 1);
        agent.revisions.push(StoredRevision { revision: number, created_at_ms: unix_ms_now(), content: revision });
        Ok(Added::New(number))
    }

    async fn activate(&self, agent: &AgentName, revision: u64) -> Result<bool, CatalogError> {
        let mut kept = self.kept();
        let Some(agent) = kept.agents.get_mut(agent) else { return Ok(false) };
        let exists = agent.revision(revision).is_some();
        if exists {
            agent.active = Some(revision);
        }
        Ok(exists)
    }

    async fn active(&self) -> Result<Vec<(AgentName, u64)>, CatalogError> {
        let kept = self.kept();
        Ok(kept.agents.iter().filter_map(|(name, agent)| Some((name.clone(), agent.active?))).collect())
    }

    async fn get(&self, agent: &AgentName, revision: u64) -> Result<Option<StoredRevision>, CatalogError> {
        Ok(self.kept().agents.get(agent).and_then(|agent| agent.revision(revision)).cloned())
    }

    async fn revisions(&self, agent: &AgentName) -> Result<Vec<RevisionSummary>, CatalogError> {
        let kept = self.kept();
        let Some(agent) = kept.agents.get(agent) else { return Ok(Vec::new()) };
        let summary = |stored: &StoredRevision| RevisionSummary {
            revision: stored.revision,
            digest: stored.content.digest.clone(),
            module_bytes: stored.content.module.len() as u64,
            created_at_ms: stored.created_at_ms,
            active: agent.active == Some(stored.revision),
        };
        Ok(agent.revisions.iter().map(summary).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_rules() {
        crate::catalog::conformance::exercise(async || MemoryCatalog::default()).await;
    }
}
