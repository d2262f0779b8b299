//! The cache: values with times to live.

use std::time::{Duration, Instant};

use super::{State, with};
pub(crate) use crate::bindings::agent::runtime::cache::Error;

pub(super) struct Entry {
    pub(super) value: Vec<u8>,
    /// When it is forgotten.
    pub(super) until: Option<Instant>,
}

pub(super) fn look(state: &mut State, key: &str) -> Option<Vec<u8>> {
    let now = state.now();
    state.cache.retain(|_, entry| entry.until.is_none_or(|until| until > now));
    state.cache.get(key).map(|entry| entry.value.clone())
}

pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(with(|state| look(state, key)))
}

pub(crate) fn get_many(keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    keys.iter().map(|key| get(key)).collect()
}

pub(crate) fn set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), Error> {
    with(|state| {
        let until = until(state, ttl_ms);
        state.cache.insert(key.to_owned(), Entry { value: value.to_vec(), until });
    });
    Ok(())
}

pub(crate) fn delete(key: &str) -> Result<bool, Error> {
    Ok(with(|state| look(state, key).is_some() && state.cache.remove(key).is_some()))
}

pub(crate) fn increment(key: &str, by: i64) -> Result<i64, Error> {
    with(|state| {
        let sum = added(look(state, key), by).map_err(Error::NotANumber)?;
        let until = state.cache.get(key).and_then(|entry| entry.until);
        state.cache.insert(key.to_owned(), Entry { value: sum.to_string().into_bytes(), until });
        Ok(sum)
    })
}

pub(crate) fn expire(key: &str, ttl_ms: u64) -> Result<bool, Error> {
    Ok(with(|state| {
        let is_there = look(state, key).is_some();
        let until = until(state, Some(ttl_ms));
        if let Some(entry) = state.cache.get_mut(key) {
            entry.until = until;
        }
        is_there
    }))
}

/// One past the end of the clock never comes.
fn until(state: &State, ttl_ms: Option<u64>) -> Option<Instant> {
    ttl_ms.and_then(|ms| state.now().checked_add(Duration::from_millis(ms)))
}

/// A number as it is kept, and one more.
pub(super) fn added(value: Option<Vec<u8>>, by: i64) -> Result<i64, String> {
    let number = value.map_or(Ok(0), |bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.parse::<i64>().map_err(|error| format!("{text:?}: {error}"))
    })?;
    number.checked_add(by).ok_or_else(|| format!("{number} and {by} are more than 64 bits hold"))
}
