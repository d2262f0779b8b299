//! What operators set, in both ways: by a variable of the host's environment, or in the store. The variable wins: it is there
//! for as long as the process is, and whoever gave it to this host meant this host.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{EnvironmentSecrets, Secret, SecretSource, SecretsError, variable};
use crate::catalog::NewEvent;
use crate::secrets::{Origin, SecretAdmin, SecretName, SecretSeen, SecretStore, SetSecret, StoredSecret};
use crate::task::AgentName;

/// Secrets by variables, and those of the store.
pub struct OperatorSecrets {
    environment: EnvironmentSecrets,
    store: Arc<dyn SecretStore>,
}

impl OperatorSecrets {
    /// Of this environment and this store.
    #[must_use]
    pub fn new(environment: EnvironmentSecrets, store: Arc<dyn SecretStore>) -> Self {
        Self { environment, store }
    }

    fn seen(&self, agent: &AgentName, name: String, required: &[String], stored: Option<StoredSecret>) -> SecretSeen {
        let by_variable = self.environment.find(agent, &name).map(|_| Origin::Variable);
        SecretSeen {
            is_required: required.contains(&name),
            origin: by_variable.or_else(|| stored.as_ref().map(|_| Origin::Store)),
            variable: variable(agent, &name),
            name,
            stored,
        }
    }
}

#[async_trait::async_trait]
impl SecretSource for OperatorSecrets {
    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError> {
        match self.environment.find(agent, name) {
            Some(secret) => Ok(Some(secret.clone())),
            None => self.store.get(agent, name).await,
        }
    }

    async fn look(&self) -> Result<u64, SecretsError> {
        self.store.look().await
    }
}

#[async_trait::async_trait]
impl SecretAdmin for OperatorSecrets {
    async fn set(
        &self,
        agent: &AgentName,
        name: &SecretName,
        value: Secret,
        event: NewEvent,
    ) -> Result<SetSecret, SecretsError> {
        let replaced = self.store.set(agent, name, &value, event).await?;
        let hidden_by = self.environment.find(agent, name.as_str()).map(|_| variable(agent, name.as_str()));
        Ok(SetSecret { replaced, hidden_by })
    }

    async fn remove(&self, agent: &AgentName, name: &SecretName, event: NewEvent) -> Result<bool, SecretsError> {
        self.store.remove(agent, name, event).await
    }

    async fn list(&self, agent: &AgentName, required: &[String]) -> Result<Vec<SecretSeen>, SecretsError> {
        let mut all: BTreeMap<String, Option<StoredSecret>> =
            required.iter().map(|name| (name.clone(), None)).collect();
        for stored in self.store.list(agent).await? {
            all.insert(stored.name.clone(), Some(stored));
        }
        Ok(all.into_iter().map(|(name, stored)| self.seen(agent, name, required, stored)).collect())
    }
}

impl std::fmt::Debug for OperatorSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorSecrets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::MemoryCatalog;
    use crate::catalog::conformance::event;
    use crate::secrets::MemorySecretStore;
    use crate::secrets::conformance::{named, secret};

    #[tokio::test]
    async fn a_variable_hides_what_is_stored_and_both_are_listed() {
        let agent = AgentName::parse("voter").unwrap();
        let variables = [("AGENT_HOST_SECRET_VOTER_BOTH".to_owned(), "of the variable".to_owned())];
        let store = Arc::new(MemorySecretStore::beside(&Arc::<MemoryCatalog>::default()));
        let secrets = OperatorSecrets::new(EnvironmentSecrets::new(variables), store);
        let set = async |name: &str| {
            let set = secrets.set(&agent, &named(name), secret("of the store"), event(&agent, "secret-set")).await;
            set.unwrap()
        };
        let hidden_by = Some("AGENT_HOST_SECRET_VOTER_BOTH".to_owned());
        assert_eq!(set("both").await, SetSecret { replaced: false, hidden_by });
        assert_eq!(set("stored").await, SetSecret { replaced: false, hidden_by: None });
        let get = async |name: &str| secrets.get(&agent, name).await.unwrap().map(|secret| secret.reveal().to_owned());
        assert_eq!(get("both").await.as_deref(), Some("of the variable"));
        assert_eq!(get("stored").await.as_deref(), Some("of the store"));
        assert_eq!(get("missing").await, None);
        let listed = SecretAdmin::list(&secrets, &agent, &["missing".to_owned(), "both".to_owned()]).await.unwrap();
        let seen: Vec<_> = listed
            .iter()
            .map(|seen| (seen.name.as_str(), seen.origin, seen.stored.is_some(), seen.is_required))
            .collect();
        let expected = [
            ("both", Some(Origin::Variable), true, true),
            ("missing", None, false, true),
            ("stored", Some(Origin::Store), true, false),
        ];
        assert_eq!(seen, expected);
        assert!(SecretAdmin::remove(&secrets, &agent, &named("both"), event(&agent, "secret-removed")).await.unwrap());
        assert_eq!(get("both").await.as_deref(), Some("of the variable"), "a variable cannot be removed");
        assert!(!format!("{secrets:?} {listed:?}").contains("of the"));
    }
}
