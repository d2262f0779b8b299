//! Secrets that an operator has set for the agent: by `agent-host secrets set voter api-key`, or by
//! `AGENT_HOST_SECRET_<AGENT>_<NAME>` in the host's environment, upper case with `-` as `_`, so
//! `AGENT_HOST_SECRET_VOTER_API_KEY` for the secret `api-key` of the agent `voter`.

use std::fmt;

#[cfg(target_family = "wasm")]
use crate::bindings::agent::runtime::secrets as raw;
#[cfg(not(target_family = "wasm"))]
use crate::testing::secrets as raw;

/// Why a secret was not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest does not list it under `[secrets] required`.
    #[error("the secret is not granted: {0}")]
    AccessDenied(String),
    /// It has no value.
    #[error("the secret is not set: {0}")]
    NotSet(String),
    /// The store of secrets could not be read.
    #[error("the secrets are unavailable: {0}")]
    Unavailable(String),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<raw::Error> for Error {
    fn from(error: raw::Error) -> Self {
        match error {
            raw::Error::AccessDenied(text) => Self::AccessDenied(text),
            raw::Error::NotSet(text) => Self::NotSet(text),
            raw::Error::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

/// A secret that is not looked at until [`Secret::reveal`].
pub struct Secret(raw::Secret);

impl Secret {
    /// The value.
    pub fn reveal(&self) -> String {
        self.0.reveal()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The secret of this name.
pub fn get(name: &str) -> Result<Secret, Error> {
    Ok(Secret(raw::get(name)?))
}
