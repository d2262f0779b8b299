//! Secrets that are kept until told otherwise.

use super::{Doubles, away};
use crate::catalog::NewEvent;
use crate::secrets::{Origin, Secret, SecretAdmin, SecretName, SecretSeen, SecretsError, SetSecret, StoredSecret};
use crate::task::AgentName;

/// What secrets do, and what there are.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Agent, name, value, who: in the order in which they were set.
    pub(crate) stored: Vec<(String, String, Secret, String)>,
    /// The next call fails so.
    pub(crate) fails: Option<SecretsError>,
    /// The variable of every secret, where there is one.
    pub(crate) hidden_by: Option<String>,
}

impl Secrets {
    /// The store is not there, with an address that nobody is to see.
    pub(crate) fn are_away(&mut self) {
        self.fails = Some(SecretsError::Away { action: "read", source: away() });
    }

    fn forget(&mut self, agent: &AgentName, name: &SecretName) -> bool {
        let before = self.stored.len();
        self.stored.retain(|(of, known, ..)| !(of == agent.as_str() && known == name.as_str()));
        self.stored.len() < before
    }
}

impl Doubles {
    fn secrets_or_failure(&self) -> Result<(), SecretsError> {
        self.lock().secrets.fails.take().map_or(Ok(()), Err)
    }
}

#[async_trait::async_trait]
impl SecretAdmin for Doubles {
    async fn set(
        &self,
        agent: &AgentName,
        name: &SecretName,
        value: Secret,
        event: NewEvent,
    ) -> Result<SetSecret, SecretsError> {
        self.secrets_or_failure()?;
        let mut state = self.lock();
        let who = event.actor.as_str().to_owned();
        let replaced = state.secrets.forget(agent, name);
        state.secrets.stored.push((agent.to_string(), name.to_string(), value, who));
        state.events.push(event);
        Ok(SetSecret { replaced, hidden_by: state.secrets.hidden_by.clone() })
    }

    async fn remove(&self, agent: &AgentName, name: &SecretName, event: NewEvent) -> Result<bool, SecretsError> {
        self.secrets_or_failure()?;
        let mut state = self.lock();
        let removed = state.secrets.forget(agent, name);
        if removed {
            state.events.push(event);
        }
        Ok(removed)
    }

    async fn list(&self, agent: &AgentName, required: &[String]) -> Result<Vec<SecretSeen>, SecretsError> {
        self.secrets_or_failure()?;
        let state = self.lock();
        let stored = state.secrets.stored.iter().filter(|(of, ..)| of == agent.as_str());
        let seen = stored.map(|(_, name, _, who)| SecretSeen {
            name: name.clone(),
            is_required: required.contains(name),
            origin: Some(Origin::Store),
            variable: format!("AGENT_HOST_SECRET_X_{name}"),
            stored: Some(StoredSecret {
                name: name.clone(),
                set_at_ms: 1_795_442_888_001,
                set_by: who.clone(),
                has_previous_key: false,
                unreadable: None,
            }),
        });
        Ok(seen.collect())
    }
}
