//! Settings.

use super::with;
pub(crate) use crate::bindings::wasi::config::store::Error;

pub(crate) fn get(key: &str) -> Result<Option<String>, Error> {
    Ok(with(|state| state.config.get(key).cloned()))
}

pub(crate) fn get_all() -> Result<Vec<(String, String)>, Error> {
    Ok(with(|state| state.config.clone().into_iter().collect()))
}
