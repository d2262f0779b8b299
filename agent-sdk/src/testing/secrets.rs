//! Secrets.

use super::with;
pub(crate) use crate::bindings::agent::runtime::secrets::Error;

pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn reveal(&self) -> String {
        self.0.clone()
    }
}

pub(crate) fn get(name: &str) -> Result<Secret, Error> {
    let value = with(|state| state.secrets.get(name).cloned());
    value.map(Secret).ok_or_else(|| Error::NotSet(format!("{name}: give the test's World one by set_secret")))
}
