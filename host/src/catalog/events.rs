//! The audit log: what somebody changed, append-only.

use crate::task::{AgentName, UnixMs};

/// Who changed something: a token's role with the address that it came from, this machine, or a host by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// Somebody, such as `admin token from 10.0.0.7`.
    #[must_use]
    pub fn new(who: impl Into<String>) -> Self {
        Self(who.into())
    }

    /// The host itself, for a reason of its own.
    #[must_use]
    pub fn host() -> Self {
        Self("host".to_owned())
    }

    /// As it is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Something that was done, before it is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Who did it.
    pub actor: Actor,
    /// The host that it was done on.
    pub host: String,
    /// What was done: one word, such as `deployed`.
    pub action: &'static str,
    /// To which agent.
    pub agent: Option<AgentName>,
    /// One line for people.
    pub detail: String,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log.
    pub id: u64,
    /// When.
    pub at_ms: UnixMs,
    /// Who did it.
    pub actor: String,
    /// The host that it was done on.
    pub host: String,
    /// What was done.
    pub action: String,
    /// To which agent.
    pub agent: Option<String>,
    /// One line for people.
    pub detail: String,
}
