//! A shared cache that may forget, with times to live.
//!
//! Keys belong to the agent. Effects are immediate: they are not part of the task's transaction, and happen again when
//! the task is retried.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(target_family = "wasm")]
use crate::bindings::agent::runtime::cache as raw;
#[cfg(not(target_family = "wasm"))]
use crate::testing::cache as raw;

/// Why an operation on the cache failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest does not grant the cache.
    #[error("the cache is not granted: {0}")]
    AccessDenied(String),
    /// The cache could not be reached, or did not answer in time.
    #[error("the cache is unavailable: {0}")]
    Unavailable(String),
    /// A key or a value is too large.
    #[error("a limit of the cache was reached: {0}")]
    LimitExceeded(String),
    /// `increment` met something that is not a whole number of 64 bits.
    #[error("the cached value is not a number: {0}")]
    NotANumber(String),
    /// A value is not the JSON that was asked for, or has no JSON form.
    #[error("the cached value does not fit its type: {0}")]
    Json(String),
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
            raw::Error::Unavailable(text) => Self::Unavailable(text),
            raw::Error::LimitExceeded(text) => Self::LimitExceeded(text),
            raw::Error::NotANumber(text) => Self::NotANumber(text),
        }
    }
}

/// The value of a key.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(raw::get(key)?)
}

/// The value of a key that holds JSON.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Error> {
    let value = get(key)?;
    value.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|error| Error::Json(error.to_string()))
}

/// The values of several keys in one round trip, in the order of the keys.
pub fn get_many(keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
    Ok(raw::get_many(&keys)?)
}

/// Sets a key until it is deleted, or memory runs short.
pub fn set(key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
    Ok(raw::set(key, value.as_ref(), None)?)
}

/// Sets a key for a time (at least a millisecond).
pub fn set_for(key: &str, value: impl AsRef<[u8]>, time_to_live: Duration) -> Result<(), Error> {
    Ok(raw::set(key, value.as_ref(), Some(milliseconds(time_to_live)))?)
}

/// Sets a key to a value as JSON, for a time.
pub fn set_json_for<T: Serialize + ?Sized>(key: &str, value: &T, time_to_live: Duration) -> Result<(), Error> {
    set_for(key, serde_json::to_vec(value).map_err(|error| Error::Json(error.to_string()))?, time_to_live)
}

/// Deletes a key and says whether it was there.
pub fn delete(key: &str) -> Result<bool, Error> {
    Ok(raw::delete(key)?)
}

/// Adds to a whole number and gives the sum; a missing key counts as 0.
pub fn increment(key: &str, by: i64) -> Result<i64, Error> {
    Ok(raw::increment(key, by)?)
}

/// Gives a key a new time to live, and says whether the key was there.
pub fn expire(key: &str, time_to_live: Duration) -> Result<bool, Error> {
    Ok(raw::expire(key, milliseconds(time_to_live))?)
}

/// Never 0, which would mean that the value is gone at once.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_at_least_a_millisecond() {
        assert_eq!(milliseconds(Duration::from_micros(3)), 1);
        assert_eq!(milliseconds(Duration::from_secs(2)), 2000);
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    }
}
