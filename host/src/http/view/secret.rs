//! Secrets, as JSON: everything but their values.

use serde::Serialize;

use crate::secrets::{Origin, SecretSeen};
use crate::task::UnixMs;

/// A secret of an agent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SecretView {
    /// Its name.
    name: String,
    /// Where tasks on this host get it from: `variable`, `store`, or null where it is not set.
    source: Option<&'static str>,
    /// Whether the active revision requires it.
    required: bool,
    /// The variable of a host's environment that sets it, and wins over the store.
    variable: String,
    /// When it was stored, in Unix milliseconds; null where it is not.
    set_at: Option<UnixMs>,
    /// Who stored it.
    set_by: Option<String>,
    /// `previous` where it is to be set again before the previous key is given up, else `current`; null where it is not
    /// stored, or cannot be read.
    key: Option<&'static str>,
    /// Why this host cannot read what is stored; null where it can.
    problem: Option<String>,
}

impl From<SecretSeen> for SecretView {
    fn from(seen: SecretSeen) -> Self {
        let source = seen.origin.map(|origin| match origin {
            Origin::Variable => "variable",
            Origin::Store => "store",
        });
        let stored = seen.stored.as_ref();
        let readable = stored.filter(|stored| stored.unreadable.is_none());
        Self {
            source,
            required: seen.is_required,
            set_at: stored.map(|stored| stored.set_at_ms),
            key: readable.map(|stored| if stored.has_previous_key { "previous" } else { "current" }),
            problem: stored.and_then(|stored| stored.unreadable).map(|why| why.to_string()),
            set_by: seen.stored.map(|stored| stored.set_by),
            name: seen.name,
            variable: seen.variable,
        }
    }
}

/// A secret that was set.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct SecretSetView {
    /// The agent.
    pub(crate) agent: String,
    /// The secret's name.
    pub(crate) name: String,
    /// `set`, or `replaced` where there was one of this name.
    pub(crate) status: &'static str,
    /// Whether an agent of this name is deployed on this host.
    pub(crate) deployed: bool,
    /// The variable of this host's environment that its tasks get instead; null where there is none.
    pub(crate) hidden_by: Option<String>,
}
