//! Secrets that operators set for agents while hosts run, and the port on which the HTTP API sets them.
//!
//! In PostgreSQL where there is one, sealed with the hosts' key; in process otherwise. `secrets::conformance` holds both to the
//! same rules:
//! - a secret belongs to one agent under one name, and nothing gives it under another;
//! - a change and the event that tells of it, without the value, are one commit, and whoever waits for the catalog's changes
//!   learns of it;
//! - what was set is what tasks get from the next look on.

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod key;
mod memory;
mod postgres;
mod sealed;

pub use key::{InvalidKey, KeyId, Keyring, SecretsKey};
pub use memory::MemorySecretStore;
pub use postgres::{Inspected, PostgresSecretStore, inspect};
pub use sealed::Sealed;

use zeroize::Zeroizing;

use crate::catalog::NewEvent;
use crate::manifest::is_label;
use crate::task::{AgentName, UnixMs};

/// Largest value of a stored secret, in bytes: a private key with a long chain of certificates has some 20 KiB.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Most secrets that are stored for one agent: far more than a program tells apart. Every host holds them all, sealed.
pub const SECRETS_PER_AGENT_MAX: usize = 100;

/// A secret's value. Neither `Debug` nor any log shows it, and its memory is wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret of this value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
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

/// A name as manifests require secrets by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName(String);

/// A text that names no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a name as in [secrets] required: 1 to 63 letters, digits, '-' and '_'")]
pub struct InvalidSecretName;

impl SecretName {
    /// Reads a name.
    ///
    /// # Errors
    /// Anything that a manifest could not require either.
    pub fn parse(text: &str) -> Result<Self, InvalidSecretName> {
        if is_label(text) { Ok(Self(text.to_owned())) } else { Err(InvalidSecretName) }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SecretName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a secret that is stored cannot be read on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The host has no key.
    #[error("AGENT_HOST_SECRETS_KEY is not set, and it is stored with the key {0}")]
    NoKey(KeyId),
    /// It was sealed with another key.
    #[error(
        "AGENT_HOST_SECRETS_KEY is the key {held}, and it is stored with {stored}: start the host with that one, or set the \
         secret again"
    )]
    OtherKey {
        /// The key that it takes.
        stored: KeyId,
        /// The key that this host seals with.
        held: KeyId,
    },
    /// The key is right, and the row is not as it was written.
    #[error("its row is damaged, or is another agent's or secret's: set it again")]
    Damaged,
}

/// Why secrets cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The store cannot be reached.
    #[error("the store of secrets cannot be {action}")]
    Away {
        /// What was tried: "read" or "written".
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A secret is there, but not for this host.
    #[error("the secret cannot be read on this host")]
    Unreadable(#[from] Unreadable),
    /// There is nothing to seal a secret with.
    #[error(
        "this host has no key to store secrets with: start every host with the same AGENT_HOST_SECRETS_KEY, which `openssl rand \
         -base64 32` makes"
    )]
    NoKey,
    /// The agent has as many as one may have.
    #[error("{max} secrets are stored for agent {0}, the most that one agent has: remove one first", max = SECRETS_PER_AGENT_MAX)]
    TooMany(AgentName),
}

/// A secret that is stored, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSecret {
    /// Its name.
    pub name: String,
    /// When it was set last.
    pub set_at_ms: UnixMs,
    /// Who set it.
    pub set_by: String,
    /// Whether the key that it is stored with is the one to be given up.
    pub has_previous_key: bool,
    /// Why this host cannot read it, where it cannot.
    pub unreadable: Option<Unreadable>,
}

/// Where secrets are kept that operators set.
#[async_trait::async_trait]
pub trait SecretStore: Send + Sync + 'static {
    /// Sets a secret, in one commit with the event. Answers whether there was one of this name.
    async fn set(
        &self,
        agent: &AgentName,
        name: &SecretName,
        value: &Secret,
        event: NewEvent,
    ) -> Result<bool, SecretsError>;

    /// Removes a secret, likewise. Answers whether there was one; nothing is logged where there was none.
    async fn remove(&self, agent: &AgentName, name: &SecretName, event: NewEvent) -> Result<bool, SecretsError>;

    /// An agent's secrets as they are now, in name order.
    async fn list(&self, agent: &AgentName) -> Result<Vec<StoredSecret>, SecretsError>;

    /// A secret as it was at the last look: asked for by tasks, so it waits for nothing but the first look.
    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError>;

    /// Looks at what there is now: cheap where nothing has changed. Answers how often something was changed so far.
    async fn look(&self) -> Result<u64, SecretsError>;
}

/// Where a task gets a secret from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A variable of the host's environment.
    Variable,
    /// The store.
    Store,
}

/// What an operator sees of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSeen {
    /// Its name.
    pub name: String,
    /// Whether the active revision requires it.
    pub is_required: bool,
    /// Where tasks on this host get it from; nothing where it is not set.
    pub origin: Option<Origin>,
    /// The variable that sets it.
    pub variable: String,
    /// The stored one, which a variable may hide.
    pub stored: Option<StoredSecret>,
}

/// What setting a secret did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSecret {
    /// Whether there was one of this name.
    pub replaced: bool,
    /// The variable that this host's tasks get instead, where there is one.
    pub hidden_by: Option<String>,
}

/// Secrets as operators set and see them: never their values.
#[async_trait::async_trait]
pub trait SecretAdmin: Send + Sync + 'static {
    /// Sets a secret for the next tasks of all hosts.
    async fn set(
        &self,
        agent: &AgentName,
        name: &SecretName,
        value: Secret,
        event: NewEvent,
    ) -> Result<SetSecret, SecretsError>;

    /// Removes a stored secret. Answers whether there was one.
    async fn remove(&self, agent: &AgentName, name: &SecretName, event: NewEvent) -> Result<bool, SecretsError>;

    /// The secrets of an agent that are stored, and those of `required`, in name order.
    async fn list(&self, agent: &AgentName, required: &[String]) -> Result<Vec<SecretSeen>, SecretsError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_manifest_may_require() {
        for good in ["api-key", "A", "a_1", &"x".repeat(63)] {
            assert_eq!(SecretName::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "a b", "a/b", "ä", "a.b", &"x".repeat(64)] {
            assert_eq!(SecretName::parse(bad), Err(InvalidSecretName), "{bad}");
        }
    }

    #[test]
    fn a_secret_never_shows_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "Secret(…)");
    }
}
