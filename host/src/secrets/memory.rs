//! Secrets in process, for a host without a database: they end with it, and need no key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{SECRETS_PER_AGENT_MAX, Secret, SecretName, SecretStore, SecretsError, StoredSecret};
use crate::catalog::{MemoryCatalog, NewEvent};
use crate::task::{AgentName, UnixMs, unix_ms_now};

/// Secrets in process memory.
#[derive(Debug)]
pub struct MemorySecretStore {
    catalog: Arc<MemoryCatalog>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    agents: BTreeMap<AgentName, BTreeMap<String, Entry>>,
    changes: u64,
}

#[derive(Debug)]
struct Entry {
    value: Secret,
    set_at_ms: UnixMs,
    set_by: String,
}

impl MemorySecretStore {
    /// A store whose changes this catalog logs and tells of.
    #[must_use]
    pub fn beside(catalog: &Arc<MemoryCatalog>) -> Self {
        Self { catalog: Arc::clone(catalog), kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl SecretStore for MemorySecretStore {
    async fn set(
        &self,
        agent: &AgentName,
        name: &SecretName,
        value: &Secret,
        event: NewEvent,
    ) -> Result<bool, SecretsError> {
        let mut kept = self.kept();
        let of_agent = kept.agents.entry(agent.clone()).or_default();
        if !of_agent.contains_key(name.as_str()) && of_agent.len() >= SECRETS_PER_AGENT_MAX {
            return Err(SecretsError::TooMany(agent.clone()));
        }
        let set_by = event.actor.as_str().to_owned();
        let entry = Entry { value: value.clone(), set_at_ms: unix_ms_now(), set_by };
        let before = of_agent.insert(name.as_str().to_owned(), entry);
        kept.changes += 1;
        self.catalog.log_and_tell(event);
        Ok(before.is_some())
    }

    async fn remove(&self, agent: &AgentName, name: &SecretName, event: NewEvent) -> Result<bool, SecretsError> {
        let mut kept = self.kept();
        let removed = kept.agents.get_mut(agent).and_then(|of_agent| of_agent.remove(name.as_str())).is_some();
        if removed {
            kept.changes += 1;
            self.catalog.log_and_tell(event);
        }
        Ok(removed)
    }

    async fn list(&self, agent: &AgentName) -> Result<Vec<StoredSecret>, SecretsError> {
        let kept = self.kept();
        let stored = kept.agents.get(agent).into_iter().flatten().map(|(name, entry)| StoredSecret {
            name: name.clone(),
            set_at_ms: entry.set_at_ms,
            set_by: entry.set_by.clone(),
            has_previous_key: false,
            unreadable: None,
        });
        Ok(stored.collect())
    }

    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError> {
        Ok(self.kept().agents.get(agent).and_then(|of_agent| of_agent.get(name)).map(|entry| entry.value.clone()))
    }

    async fn look(&self) -> Result<u64, SecretsError> {
        Ok(self.kept().changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::conformance::{Hosts, exercise};

    #[tokio::test]
    async fn keeps_the_rules() {
        let make = async || {
            let catalog = Arc::<MemoryCatalog>::default();
            let store: Arc<dyn SecretStore> = Arc::new(MemorySecretStore::beside(&catalog));
            // There is one host in process: it is its own fleet.
            Hosts { first: Arc::clone(&store), second: store, catalog }
        };
        exercise(make).await;
    }
}
