//! Key-value: buckets that keep what an agent puts there, for the agent alone.
//!
//! An agent opens a bucket that its manifest grants by name. Its keys are confined to `ah:{agent}:kv:<bucket>:`, so that
//! two agents never meet, whatever the key says. Effects are immediate and at least once: they are not part of the
//! task's transaction.
//!
//! [`KeyValue`] has two implementations side by side, Redis and in process; `conformance` holds both to the same rules.

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod host;
mod memory;
mod redis;

pub use memory::MemoryKeyValue;
pub use redis::RedisKeyValue;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Cause;
use super::recording::forms::cause;
use crate::task::AgentName;

/// Longest key, in bytes. Keys are in every command and in every page of a listing; a value is the place for data.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest value, in bytes: one value must not hold up the connection that all agents share.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most keys of one batch operation.
pub const BATCH_KEYS_MAX: usize = 1000;
/// Most bytes of keys and values that one batch operation carries either way.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Most bytes of values that one task has remembered for compare-and-swap: they are in the host's memory for as long as
/// the agent keeps the handles, of which it may have a thousand.
pub const REMEMBERED_BYTES_MAX: usize = 4 << 20;

/// A bucket of one agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    prefix: Arc<str>,
}

impl Bucket {
    /// The bucket `name` of `agent`.
    #[must_use]
    pub fn new(agent: &AgentName, name: &str) -> Self {
        // The braces are a Redis Cluster hash tag: all keys of an agent are on one node, and batches work.
        Self { prefix: format!("ah:{{{agent}}}:kv:{name}:").into() }
    }

    /// What every key of the bucket begins with in the store.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn full_key(&self, key: &str) -> String {
        [&*self.prefix, key].concat()
    }
}

/// A remembered value, for compare-and-swap.
#[derive(Debug)]
pub struct Cas {
    bucket: Bucket,
    key: String,
    seen: Option<Vec<u8>>,
}

impl Cas {
    /// Bytes of the value.
    fn bytes(&self) -> usize {
        self.seen.as_ref().map_or(0, Vec::len)
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum KeyValueError {
    /// The store cannot be reached, or did not answer in time.
    #[error("the key-value store cannot be reached")]
    Unavailable(
        #[source]
        #[serde(with = "cause")]
        Cause,
    ),
    /// A key, a value or a batch is too large, or the store is full; the text names the limit.
    #[error("{0}")]
    LimitExceeded(String),
    /// `increment` met a value that is not a whole number, or the sum does not fit 64 bits.
    #[error("the value is not a whole number of 64 bits, or the sum would not be")]
    NotANumber,
}

impl KeyValueError {
    /// Its kind, for a trace.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::LimitExceeded(_) => "limit-exceeded",
            Self::NotANumber => "not-a-number",
        }
    }
}

/// What a compare-and-swap did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The value was the one seen, and has been replaced.
    Done,
    /// The value is another one by now: this one.
    Changed(Option<Vec<u8>>),
}

/// Some keys of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    /// Keys, without the bucket's prefix.
    pub keys: Vec<String>,
    /// Where the next page starts; absent after the last one.
    pub cursor: Option<u64>,
}

/// A store of keys and values.
///
/// Rules that every implementation keeps:
/// - a key is seen through the bucket that it was set in, and through no other;
/// - a listing gives every key that is there from its first page to its last at least once (it may repeat one, and a
///   page may be empty before the last);
/// - `increment` and `swap` are atomic, also between hosts.
///
/// Sizes are checked by the caller ([`check_entry`], [`check_batch`]).
#[async_trait::async_trait]
pub trait KeyValue: Send + Sync + 'static {
    /// The value of a key.
    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, KeyValueError>;

    /// Sets a key.
    async fn set(&self, bucket: &Bucket, key: &str, value: Vec<u8>) -> Result<(), KeyValueError>;

    /// Deletes a key, whether it is there or not.
    async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), KeyValueError>;

    /// Whether a key is there.
    async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, KeyValueError>;

    /// A page of keys, in no order. Any cursor is harmless, also one that was never given out.
    async fn list_keys(&self, bucket: &Bucket, cursor: Option<u64>) -> Result<KeyPage, KeyValueError>;

    /// Adds to a whole number and gives the sum; a key that is not there counts as 0.
    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError>;

    /// Sets a key if its value still is the one seen (`None`: no value).
    async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        seen: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<Swap, KeyValueError>;

    /// The values of several keys, in their order.
    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, KeyValueError>;

    /// Sets several keys, all of them or, on an error, none.
    async fn set_many(&self, bucket: &Bucket, entries: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError>;

    /// Deletes several keys.
    async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError>;
}

/// Checks the size of a key and of the value that goes with it.
///
/// # Errors
/// [`KeyValueError::LimitExceeded`], naming the limit.
pub fn check_entry(key: &str, value_bytes: usize) -> Result<(), KeyValueError> {
    if key.len() > KEY_BYTES_MAX {
        let (given, max) = (key.len(), KEY_BYTES_MAX);
        return Err(KeyValueError::LimitExceeded(format!("a key of {given} bytes: at most {max}")));
    }
    if value_bytes > VALUE_BYTES_MAX {
        let max = VALUE_BYTES_MAX;
        return Err(KeyValueError::LimitExceeded(format!("a value of {value_bytes} bytes: at most {max}")));
    }
    Ok(())
}

/// Checks the size of a batch of keys and the values that go with them.
///
/// # Errors
/// [`KeyValueError::LimitExceeded`], naming the limit.
pub fn check_batch<'a>(entries: impl ExactSizeIterator<Item = (&'a str, usize)>) -> Result<(), KeyValueError> {
    let count = entries.len();
    if count > BATCH_KEYS_MAX {
        let text = format!("a batch of {count} keys: at most {BATCH_KEYS_MAX}");
        return Err(KeyValueError::LimitExceeded(text));
    }
    let mut bytes = 0usize;
    for (key, value_bytes) in entries {
        check_entry(key, value_bytes)?;
        bytes = bytes.saturating_add(key.len()).saturating_add(value_bytes);
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(batch_too_large());
    }
    Ok(())
}

fn batch_too_large() -> KeyValueError {
    KeyValueError::LimitExceeded(format!("a batch of more than {BATCH_BYTES_MAX} bytes: split it"))
}
