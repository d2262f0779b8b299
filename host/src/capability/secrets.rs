//! Secrets: values that an operator sets for one agent, and that nothing but the agent's own code shows.

mod host;

use std::collections::HashMap;

use super::Cause;
use crate::task::AgentName;

/// What the variables are called that hold secrets: `AGENT_HOST_SECRET_<AGENT>_<NAME>`.
const VARIABLE_PREFIX: &str = "AGENT_HOST_SECRET_";

/// A secret's value. Neither `Debug` nor any log shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret of this value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value: for the agent, and for nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The store of secrets cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the store of secrets cannot be read")]
pub struct SecretsError(#[source] pub Cause);

/// Where secrets come from.
#[async_trait::async_trait]
pub trait SecretSource: Send + Sync + 'static {
    /// The secret of this name that is set for this agent, if there is one.
    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError>;
}

/// Secrets from the host's environment, as it was when the host started.
#[derive(Clone, Debug, Default)]
pub struct EnvironmentSecrets {
    values: HashMap<String, Secret>,
}

impl EnvironmentSecrets {
    /// Takes the secrets out of these variables.
    #[must_use]
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let secrets = variables.into_iter().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX));
        Self { values: secrets.map(|(name, value)| (name, Secret(value))).collect() }
    }
}

#[async_trait::async_trait]
impl SecretSource for EnvironmentSecrets {
    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError> {
        Ok(self.values.get(&variable(agent, name)).cloned())
    }
}

/// The variable that sets a secret: upper case, `-` as `_`.
#[must_use]
pub fn variable(agent: &AgentName, name: &str) -> String {
    let plain = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    format!("{VARIABLE_PREFIX}{}_{}", plain(agent.as_str()), plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_found_by_agent_and_name_and_never_shown() {
        let variables = [("AGENT_HOST_SECRET_MY_AGENT_API_KEY", "hunter2"), ("PATH", "/bin")];
        let secrets = EnvironmentSecrets::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let agent = AgentName::parse("my-agent").unwrap();
        let secret = secrets.get(&agent, "api-key").await.unwrap().unwrap();
        assert_eq!(secret.reveal(), "hunter2");
        assert!(!format!("{secret:?} {secrets:?}").contains("hunter2"));
        assert_eq!(secrets.get(&AgentName::parse("other").unwrap(), "api-key").await.unwrap(), None);
    }
}
