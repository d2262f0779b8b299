//! Key-value buckets (`wasi:keyvalue`). Keys belong to the agent and keep until they are deleted.
//!
//! Effects are immediate: they are not part of the task's transaction, and happen again when the task is retried.

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(target_family = "wasm")]
use crate::bindings::wasi::keyvalue0_2_0_draft2::{atomics, batch, store as raw};
#[cfg(not(target_family = "wasm"))]
use crate::testing::key_value::{atomics, batch, store as raw};

/// How often [`Bucket::update`] tries when others write the same key.
const UPDATE_ATTEMPTS_MAX: u32 = 64;

/// Why an operation on a bucket failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no bucket of this name.
    #[error("there is no such bucket")]
    NoSuchStore,
    /// The manifest does not grant the bucket.
    #[error("the bucket is not granted: add it to `key_value` under `[grants]` in agent.toml")]
    AccessDenied,
    /// The store failed.
    #[error("the key-value store failed: {0}")]
    Store(String),
    /// Others kept writing the same key.
    #[error("the key was written by others {UPDATE_ATTEMPTS_MAX} times in a row")]
    Contended,
    /// A value is not the JSON that was asked for, or has no JSON form.
    #[error("the stored value does not fit its type: {0}")]
    Json(String),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Contended)
    }
}

impl From<raw::Error> for Error {
    fn from(error: raw::Error) -> Self {
        match error {
            raw::Error::NoSuchStore => Self::NoSuchStore,
            raw::Error::AccessDenied => Self::AccessDenied,
            raw::Error::Other(text) => Self::Store(text),
        }
    }
}

/// An open bucket.
#[derive(Debug)]
pub struct Bucket(raw::Bucket);

impl Bucket {
    /// Opens a bucket that the manifest's `key_value` grant names.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self(raw::open(name)?))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(key)?)
    }

    /// The value of a key that holds JSON.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let value = self.get(key)?;
        value.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|error| Error::Json(error.to_string()))
    }

    /// Sets a key.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        Ok(self.0.set(key, value.as_ref())?)
    }

    /// Sets a key to a value as JSON.
    pub fn set_json<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), Error> {
        self.set(key, serde_json::to_vec(value).map_err(|error| Error::Json(error.to_string()))?)
    }

    /// Deletes a key, whether it is there or not.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        Ok(self.0.delete(key)?)
    }

    /// Whether a key is there.
    pub fn exists(&self, key: &str) -> Result<bool, Error> {
        Ok(self.0.exists(key)?)
    }

    /// Adds to a whole number, atomically, and gives the sum; a missing key counts as 0.
    pub fn increment(&self, key: &str, by: i64) -> Result<i64, Error> {
        Ok(atomics::increment(&self.0, key, by)?)
    }

    /// Replaces a value by what `change` makes of it, atomically: where another writer comes between, it is called
    /// again with the newer value. Gives the value that was written.
    pub fn update(&self, key: &str, mut change: impl FnMut(Option<Vec<u8>>) -> Vec<u8>) -> Result<Vec<u8>, Error> {
        let mut cas = atomics::Cas::new(&self.0, key)?;
        for _ in 0..UPDATE_ATTEMPTS_MAX {
            let value = change(cas.current()?);
            match atomics::swap(cas, &value) {
                Ok(()) => return Ok(value),
                Err(atomics::CasError::StoreError(error)) => return Err(error.into()),
                Err(atomics::CasError::CasFailed(newer)) => cas = newer,
            }
        }
        Err(Error::Contended)
    }

    /// The values of several keys in one round trip, in the order of the keys.
    pub fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        Ok(batch::get_many(&self.0, &keys)?.into_iter().map(|(_, value)| value).collect())
    }

    /// Sets several keys in one round trip. Not atomic.
    pub fn set_many(&self, values: &[(String, Vec<u8>)]) -> Result<(), Error> {
        Ok(batch::set_many(&self.0, values)?)
    }

    /// Deletes several keys in one round trip. Not atomic.
    pub fn delete_many(&self, keys: &[&str]) -> Result<(), Error> {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        Ok(batch::delete_many(&self.0, &keys)?)
    }

    /// Every key, in no particular order, fetched page by page.
    pub fn keys(&self) -> Keys<'_> {
        Keys { bucket: &self.0, page: Vec::new().into_iter(), cursor: None, done: false }
    }
}

/// The keys of a bucket. After an error there are no more.
#[derive(Debug)]
pub struct Keys<'bucket> {
    bucket: &'bucket raw::Bucket,
    page: std::vec::IntoIter<String>,
    cursor: Option<String>,
    done: bool,
}

impl Iterator for Keys<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(key) = self.page.next() {
                return Some(Ok(key));
            }
            if self.done {
                return None;
            }
            match self.bucket.list_keys(self.cursor.as_deref()) {
                Ok(response) => {
                    self.done = response.cursor.is_none();
                    self.cursor = response.cursor;
                    self.page = response.keys.into_iter();
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error.into()));
                }
            }
        }
    }
}
