//! The `[config]` table of the agent's manifest.

use std::fmt::Display;
use std::str::FromStr;

#[cfg(target_family = "wasm")]
use crate::bindings::wasi::config::store as raw;
#[cfg(not(target_family = "wasm"))]
use crate::testing::config as raw;

/// Why a setting could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host could not read its configuration.
    #[error("the configuration is unavailable: {0}")]
    Unavailable(String),
    /// The setting is not of the type that was asked for.
    #[error("the setting `{key}` is `{value}`: {reason}")]
    Invalid {
        /// The setting's name.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
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
            raw::Error::Upstream(text) | raw::Error::Io(text) => Self::Unavailable(text),
        }
    }
}

/// A setting, if the manifest has it.
pub fn get(key: &str) -> Result<Option<String>, Error> {
    Ok(raw::get(key)?)
}

/// A setting of another type than text: a number, a boolean, an address.
pub fn get_as<T>(key: &str) -> Result<Option<T>, Error>
where
    T: FromStr,
    T::Err: Display,
{
    get(key)?.map(|value| parse(key, value)).transpose()
}

/// Every setting, name and value.
pub fn all() -> Result<Vec<(String, String)>, Error> {
    Ok(raw::get_all()?)
}

fn parse<T>(key: &str, value: String) -> Result<T, Error>
where
    T: FromStr,
    T::Err: Display,
{
    value.parse().map_err(|error: T::Err| Error::Invalid { key: key.to_owned(), value, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_does_not_parse_names_itself() {
        assert_eq!(parse::<u8>("quorum", "60".into()), Ok(60));
        let error = parse::<u8>("quorum", "most".into()).unwrap_err();
        assert_eq!(error.to_string(), "the setting `quorum` is `most`: invalid digit found in string");
    }
}
