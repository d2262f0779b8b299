//! The catalog in process, for a host without a database: agents are deployed again at each start.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    Added, AgentEntry, Catalog, CatalogError, Change, ChangeRefused, Event, Events, Fleet, Following, HostDoing,
    HostFigures, HostSeen, NewEvent, NewRevision, RevisionSummary, SILENT_MAX, StoredRevision, Tally,
};
use crate::signature::merged;
use crate::task::{AgentName, unix_ms_now};

/// Most events that are kept in process: some 2 MB. The oldest go first.
const EVENTS_MAX: usize = 10_000;

/// A catalog in process memory.
#[derive(Debug, Default)]
pub struct MemoryCatalog {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    agents: BTreeMap<AgentName, Agent>,
    /// Modules by digest, so that revisions which differ in the manifest only share theirs.
    modules: HashMap<String, Bytes>,
    /// The oldest in front.
    events: VecDeque<Event>,
    event_last: u64,
    /// When each host spoke last, and of what.
    hosts: BTreeMap<String, (Instant, BTreeMap<AgentName, Following>, HostFigures)>,
}

#[derive(Debug)]
struct Agent {
    /// Revision N is at N - 1.
    revisions: Vec<StoredRevision>,
    entry: AgentEntry,
    /// Of the split that there is, by revision.
    tallies: BTreeMap<u64, Tally>,
}

impl Kept {
    fn log(&mut self, event: NewEvent) {
        self.event_last += 1;
        self.events.push_back(Event {
            id: self.event_last,
            at_ms: unix_ms_now(),
            actor: event.actor.as_str().to_owned(),
            host: event.host,
            action: event.action.to_owned(),
            agent: event.agent.map(|agent| agent.to_string()),
            detail: event.detail,
        });
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }
}

impl Agent {
    fn revision(&self, revision: u64) -> Option<&StoredRevision> {
        self.revisions.get(usize::try_from(revision.checked_sub(1)?).ok()?)
    }
}

impl MemoryCatalog {
    /// Logs what was changed beside it, and tells of that.
    pub(crate) fn log_and_tell(&self, event: NewEvent) {
        self.kept().log(event);
        self.changed.notify_one();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl Catalog for MemoryCatalog {
    async fn add(&self, mut revision: NewRevision, event: NewEvent) -> Result<Added, CatalogError> {
        let mut kept = self.kept();
        let Kept { agents, modules, .. } = &mut *kept;
        let new = || Agent {
            revisions: Vec::new(),
            entry: AgentEntry::new(revision.agent.clone()),
            tallies: BTreeMap::new(),
        };
        let agent = agents.entry(revision.agent.clone()).or_insert_with(new);
        let same = |stored: &&StoredRevision| {
            stored.content.digest == revision.digest && stored.content.manifest == revision.manifest
        };
        if let Some(known) = agent.revisions.iter_mut().find(|stored| same(&&**stored)) {
            known.content.signatures = merged(&revision.signatures, &known.content.signatures);
            known.content.migrations = revision.migrations;
            return Ok(Added::Known(known.revision));
        }
        revision.module = modules.entry(revision.digest.clone()).or_insert(revision.module).clone();
        let number = agent.revisions.last().map_or(1, |last| last.revision + 1);
        agent.revisions.push(StoredRevision { revision: number, created_at_ms: unix_ms_now(), content: revision });
        kept.log(event);
        Ok(Added::New(number))
    }

    async fn change(
        &self,
        agent: &AgentName,
        change: Change,
        event: NewEvent,
    ) -> Result<Result<AgentEntry, ChangeRefused>, CatalogError> {
        let mut kept = self.kept();
        let Some(known) = kept.agents.get_mut(agent) else { return Ok(Err(ChangeRefused::NotDeployed)) };
        let next = match known.entry.changed(&change) {
            Ok(next) => next,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Some(unknown) = next.revisions().into_iter().find(|revision| known.revision(*revision).is_none()) {
            return Ok(Err(ChangeRefused::UnknownRevision(unknown)));
        }
        if next != known.entry {
            known.entry = next.clone();
            known.tallies.clear();
            kept.log(event);
            self.changed.notify_one();
        }
        Ok(Ok(next))
    }

    async fn entries(&self) -> Result<Vec<AgentEntry>, CatalogError> {
        let kept = self.kept();
        let entries = kept.agents.values().map(|agent| &agent.entry);
        Ok(entries.filter(|entry| entry.traffic.is_some()).cloned().collect())
    }

    async fn changed(&self) -> Result<(), CatalogError> {
        self.changed.notified().await;
        Ok(())
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
            signatures: u32::try_from(stored.content.signatures.len()).unwrap_or(u32::MAX),
            active: agent.entry.traffic.is_some_and(|traffic| traffic.active == stored.revision),
        };
        Ok(agent.revisions.iter().map(summary).collect())
    }

    async fn tally(
        &self,
        agent: &AgentName,
        of_change: u64,
        counted: &[(u64, Tally)],
    ) -> Result<Vec<(u64, Tally)>, CatalogError> {
        let mut kept = self.kept();
        let Some(agent) = kept.agents.get_mut(agent).filter(|agent| agent.entry.change == of_change) else {
            return Ok(Vec::new());
        };
        for (revision, tally) in counted {
            let sum = agent.tallies.entry(*revision).or_default();
            *sum = sum.plus(*tally);
        }
        Ok(agent.tallies.iter().map(|(revision, tally)| (*revision, *tally)).collect())
    }
}

#[async_trait::async_trait]
impl Fleet for MemoryCatalog {
    async fn report(
        &self,
        host: &str,
        agents: &BTreeMap<AgentName, Following>,
        figures: &HostFigures,
    ) -> Result<(), CatalogError> {
        self.kept().hosts.insert(host.to_owned(), (Instant::now(), agents.clone(), figures.clone()));
        Ok(())
    }

    async fn leave(&self, host: &str) -> Result<(), CatalogError> {
        self.kept().hosts.remove(host);
        Ok(())
    }

    async fn hosts(&self, agent: &AgentName) -> Result<Vec<HostSeen>, CatalogError> {
        let kept = self.kept();
        let there = kept.hosts.iter().filter(|(_, (at, ..))| at.elapsed() < SILENT_MAX);
        let seen =
            there.map(|(host, (_, agents, _))| HostSeen { host: host.clone(), following: agents.get(agent).cloned() });
        Ok(seen.collect())
    }

    async fn doing(&self) -> Result<Vec<HostDoing>, CatalogError> {
        let kept = self.kept();
        let there = kept.hosts.iter().filter(|(_, (at, ..))| at.elapsed() < SILENT_MAX);
        let doing =
            there.map(|(host, (_, _, figures))| HostDoing { host: host.clone(), figures: Some(figures.clone()) });
        Ok(doing.collect())
    }
}

#[async_trait::async_trait]
impl Events for MemoryCatalog {
    async fn log(&self, event: NewEvent) -> Result<(), CatalogError> {
        self.kept().log(event);
        Ok(())
    }

    async fn events(
        &self,
        agent: Option<&AgentName>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Event>, CatalogError> {
        let kept = self.kept();
        let is_meant = |event: &&Event| {
            before.is_none_or(|before| event.id < before)
                && agent.is_none_or(|agent| event.agent.as_deref() == Some(agent.as_str()))
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(kept.events.iter().rev().filter(is_meant).take(limit).cloned().collect())
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
