//! Secrets: values that an operator sets for one agent, and that nothing but the agent's own code shows.

mod host;
mod operator;

pub use operator::OperatorSecrets;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::secrets::Unreadable;
pub use crate::secrets::{Secret, SecretsError};
use crate::task::AgentName;

/// What the variables are called that hold secrets: `AGENT_HOST_SECRET_<AGENT>_<NAME>`.
const VARIABLE_PREFIX: &str = "AGENT_HOST_SECRET_";

/// What is written where a secret's value stood.
pub const HIDDEN: &str = "(secret)";
/// Shortest text that is hidden, in bytes: what is shorter is in every second line by chance.
const HIDDEN_BYTES_MIN: usize = 4;
/// Shortest line of a value of several lines, such as a key, that is hidden where it stands alone.
const HIDDEN_LINE_BYTES_MIN: usize = 8;

/// Values that an agent has seen and that its own words, which others read, are not to show. It may still tell them in any
/// other way that it can think of, such as letter by letter: this is for accidents.
#[derive(Debug, Default)]
pub struct HiddenValues {
    /// Longest first: one may be a part of another.
    values: RwLock<Vec<Secret>>,
}

impl HiddenValues {
    /// Hides a value from now on.
    pub fn add(&self, value: &str) {
        let lines = value.lines().map(str::trim).filter(|line| line.len() >= HIDDEN_LINE_BYTES_MIN);
        let whole = [value].into_iter().filter(|value| value.len() >= HIDDEN_BYTES_MIN);
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        for text in whole.chain(lines) {
            if !values.iter().any(|known| known.reveal() == text) {
                values.push(Secret::new(text.to_owned()));
            }
        }
        values.sort_by_key(|value| std::cmp::Reverse(value.reveal().len()));
    }

    /// The text without the values.
    #[must_use]
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let values = self.values.read().unwrap_or_else(PoisonError::into_inner);
        values.iter().fold(Cow::Borrowed(text), |text, value| {
            if text.contains(value.reveal()) { text.replace(value.reveal(), HIDDEN).into() } else { text }
        })
    }
}

/// Where secrets come from.
#[async_trait::async_trait]
pub trait SecretSource: Send + Sync + 'static {
    /// The secret of this name that is set for this agent, if there is one.
    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError>;

    /// Looks at what operators have set by now, and answers how often they changed something so far.
    async fn look(&self) -> Result<u64, SecretsError> {
        Ok(0)
    }
}

/// A secret that a manifest requires and that its agent would not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingSecret {
    /// Its name.
    pub name: String,
    /// Why the stored one cannot be read, where there is one.
    pub unreadable: Option<Unreadable>,
}

impl MissingSecret {
    /// What is wrong and what mends it.
    #[must_use]
    pub fn told(&self, agent: &AgentName) -> String {
        let name = &self.name;
        match self.unreadable {
            Some(why) => format!("secret {name:?} cannot be read here: {why}"),
            None => format!("secret {name:?} is not set: {}", how_to_set(agent, name)),
        }
    }
}

/// What an operator does to set a secret.
fn how_to_set(agent: &AgentName, name: &str) -> String {
    let variable = variable(agent, name);
    format!("`agent-host secrets set {agent} {name}` sets it, or {variable} in the environment of every host")
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
        Self { values: secrets.map(|(name, value)| (name, Secret::new(value))).collect() }
    }

    fn find(&self, agent: &AgentName, name: &str) -> Option<&Secret> {
        self.values.get(&variable(agent, name))
    }
}

#[async_trait::async_trait]
impl SecretSource for EnvironmentSecrets {
    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError> {
        Ok(self.find(agent, name).cloned())
    }
}

/// The variable that sets a secret: upper case, `-` as `_`.
#[must_use]
pub fn variable(agent: &AgentName, name: &str) -> String {
    let plain = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    format!("{VARIABLE_PREFIX}{}_{}", plain(agent.as_str()), plain(name))
}

/// The first secret of an agent whose variable is also that of another agent's, with the other's name for it: to a host
/// `api-key` of `my-agent` and `agent-api-key` of `my` are one.
#[must_use]
pub fn clash<'a>(
    (agent, names): (&AgentName, &'a [String]),
    (other, others): (&AgentName, &'a [String]),
) -> Option<(&'a str, &'a str)> {
    let same = |name: &str| others.iter().find(|theirs| variable(agent, name) == variable(other, theirs));
    names.iter().find_map(|name| Some((name.as_str(), same(name)?.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_whose_names_run_together_clash() {
        let agent = |name: &str| name.parse::<AgentName>().unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (mine, theirs) = (names(&["token", "agent-api-key"]), names(&["other", "API_KEY"]));
        let found = clash((&agent("my"), &mine), (&agent("my-agent"), &theirs));
        assert_eq!(found, Some(("agent-api-key", "API_KEY")));
        assert_eq!(clash((&agent("my"), &mine), (&agent("your-agent"), &theirs)), None);
        assert_eq!(clash((&agent("my"), &mine), (&agent("my-agent"), &[])), None);
    }

    #[test]
    fn what_was_revealed_is_hidden_whole_and_line_by_line() {
        let hidden = HiddenValues::default();
        assert_eq!(hidden.hide("hunter2"), "hunter2");
        for value in ["hunter2", "hunter2-and-more", "abc", "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"]
        {
            hidden.add(value);
            hidden.add(value);
        }
        assert_eq!(hidden.hide("hunter2=hunter2-and-more"), "(secret)=(secret)");
        assert_eq!(hidden.hide("abc"), "abc", "too short to be told from other text");
        assert_eq!(hidden.hide("key MIIEvQIBADANBg"), "key (secret)");
        assert!(!format!("{hidden:?}").contains("hunter2"));
    }

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
