//! The environment behind a trait, so that tests need not change the process's own.

use std::collections::BTreeMap;

/// Why a variable cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is set to bytes that are not UTF-8")]
pub struct VarsError(pub String);

/// Environment variables.
pub trait Vars: Send + Sync {
    /// The value of a variable. An empty one counts as not set: that is what `${X:-}` in a compose file leaves.
    ///
    /// # Errors
    /// A value that is not UTF-8.
    fn get(&self, name: &str) -> Result<Option<String>, VarsError>;

    /// Whether a variable is set to nothing.
    fn is_emptied(&self, name: &str) -> bool;

    /// The names of all variables that are set and not empty.
    fn names(&self) -> Vec<String>;

    /// Whether the process runs as root.
    fn is_root(&self) -> bool;
}

/// The process's own environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessVars;

impl Vars for ProcessVars {
    fn get(&self, name: &str) -> Result<Option<String>, VarsError> {
        let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        value.into_string().map(Some).map_err(|_| VarsError(name.to_owned()))
    }

    fn is_emptied(&self, name: &str) -> bool {
        std::env::var_os(name).is_some_and(|value| value.is_empty())
    }

    fn names(&self) -> Vec<String> {
        let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
        set.map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }

    fn is_root(&self) -> bool {
        // SAFETY: it has no arguments, no effects and cannot fail.
        unsafe { libc::geteuid() == 0 }
    }
}

/// A fixed environment.
#[derive(Clone, Debug, Default)]
pub struct MapVars {
    variables: BTreeMap<String, String>,
    root: bool,
}

impl MapVars {
    /// An environment of these variables only.
    #[must_use]
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { variables, root: false }
    }

    /// The same environment, of root.
    #[must_use]
    pub fn of_root(self) -> Self {
        Self { root: true, ..self }
    }
}

impl Vars for MapVars {
    fn get(&self, name: &str) -> Result<Option<String>, VarsError> {
        Ok(self.variables.get(name).filter(|value| !value.is_empty()).cloned())
    }

    fn is_emptied(&self, name: &str) -> bool {
        self.variables.get(name).is_some_and(String::is_empty)
    }

    fn names(&self) -> Vec<String> {
        self.variables.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.clone()).collect()
    }

    fn is_root(&self) -> bool {
        self.root
    }
}
