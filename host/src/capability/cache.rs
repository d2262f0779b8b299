//! Cache: values that may be forgotten, with times to live, for what can be computed again.
//!
//! Keys are confined to `ah:{agent}:cache:`. [`Cache`] has two implementations side by side, Redis and in process;
//! `conformance` holds both to the same rules.

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod host;
mod memory;
mod redis;

pub use memory::MemoryCache;
pub use redis::RedisCache;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cause;
use super::recording::forms::cause;
use crate::task::AgentName;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest value, in bytes: one value must not hold up the connection that all agents share.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most keys of one `get-many`.
pub const BATCH_KEYS_MAX: usize = 1000;
/// Most bytes of keys, and of values, of one `get-many`.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Longest time to live; a longer one is cut to it. Redis refuses times past the range of its clock.
pub const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// One agent's part of the cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Space {
    prefix: Arc<str>,
    counts: Arc<Counts>,
}

/// How often an agent found what it looked for, since the host started.
#[derive(Debug, Default)]
pub struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counts {
    /// Keys that were looked up and found.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Keys that were looked up and not found.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    fn count(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Space {
    /// The part of `agent`, counted in `counts`.
    #[must_use]
    pub fn new(agent: &AgentName, counts: Arc<Counts>) -> Self {
        // The braces are a Redis Cluster hash tag: all keys of an agent are on one node, and `get-many` works.
        Self { prefix: format!("ah:{{{agent}}}:cache:").into(), counts }
    }

    fn full_key(&self, key: &str) -> String {
        [&*self.prefix, key].concat()
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum CacheError {
    /// The cache cannot be reached, or did not answer in time.
    #[error("the cache cannot be reached")]
    Unavailable(
        #[source]
        #[serde(with = "cause")]
        Cause,
    ),
    /// A key, a value or a batch is too large; the text names the limit.
    #[error("{0}")]
    LimitExceeded(String),
    /// `increment` met a value that is not a whole number, or the sum does not fit 64 bits.
    #[error("the value is not a whole number of 64 bits, or the sum would not be")]
    NotANumber,
}

impl CacheError {
    /// Its kind, for a trace.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::LimitExceeded(_) => "limit-exceeded",
            Self::NotANumber => "not-a-number",
        }
    }
}

/// A cache.
///
/// Rules that every implementation keeps:
/// - a key is seen in the space that it was set in, and in no other;
/// - a value is gone once its time to live has passed, and may be gone before where memory runs short;
/// - `increment` is atomic, also between hosts, and keeps the time to live.
///
/// Sizes are checked by the caller ([`check_entry`], [`check_keys`]).
#[async_trait::async_trait]
pub trait Cache: Send + Sync + 'static {
    /// The value of a key.
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, CacheError>;

    /// The values of several keys, in their order.
    async fn get_many(&self, space: &Space, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, CacheError>;

    /// Sets a key, for a while or for as long as memory allows.
    async fn set(&self, space: &Space, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), CacheError>;

    /// Deletes a key and says whether it was there.
    async fn delete(&self, space: &Space, key: &str) -> Result<bool, CacheError>;

    /// Adds to a whole number and gives the sum; a key that is not there counts as 0.
    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, CacheError>;

    /// Gives a key a new time to live and says whether the key was there.
    async fn expire(&self, space: &Space, key: &str, ttl: Duration) -> Result<bool, CacheError>;
}

/// A time to live as the cache takes it: at least 1 ms, at most [`TTL_MAX`].
#[must_use]
pub fn ttl_from_ms(ttl_ms: u64) -> Duration {
    Duration::from_millis(ttl_ms).clamp(Duration::from_millis(1), TTL_MAX)
}

/// Checks the size of a key and of the value that goes with it.
///
/// # Errors
/// [`CacheError::LimitExceeded`], naming the limit.
pub fn check_entry(key: &str, value_bytes: usize) -> Result<(), CacheError> {
    if key.len() > KEY_BYTES_MAX {
        let text = format!("a key of {} bytes: at most {KEY_BYTES_MAX}", key.len());
        return Err(CacheError::LimitExceeded(text));
    }
    if value_bytes > VALUE_BYTES_MAX {
        let text = format!("a value of {value_bytes} bytes: at most {VALUE_BYTES_MAX}");
        return Err(CacheError::LimitExceeded(text));
    }
    Ok(())
}

/// Checks the keys of a `get-many`.
///
/// # Errors
/// [`CacheError::LimitExceeded`], naming the limit.
pub fn check_keys(keys: &[String]) -> Result<(), CacheError> {
    if keys.len() > BATCH_KEYS_MAX {
        let text = format!("{} keys at once: at most {BATCH_KEYS_MAX}", keys.len());
        return Err(CacheError::LimitExceeded(text));
    }
    keys.iter().try_for_each(|key| check_entry(key, 0))
}

fn batch_too_large() -> CacheError {
    CacheError::LimitExceeded(format!("values of more than {BATCH_BYTES_MAX} bytes at once: ask for fewer keys"))
}
