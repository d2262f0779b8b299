//! The cache in process: the embedded twin. Of one host; forgets the oldest keys when it is full.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{BATCH_BYTES_MAX, Cache, CacheError, Space, batch_too_large};
use crate::capability::memory::{Entries, Full, NotANumber};

/// Bytes that the cache of all agents may take together: in the host's own memory, whose budget is for agents.
const MEMORY_BYTES_MAX: usize = 64 << 20;

/// The cache in process.
pub struct MemoryCache {
    entries: Mutex<Entries>,
}

impl MemoryCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self::with_bytes_max(MEMORY_BYTES_MAX)
    }

    fn with_bytes_max(bytes_max: usize) -> Self {
        Self { entries: Mutex::new(Entries::new(bytes_max)) }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held, and a half-made change could only lose bytes from the count.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryCache").finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Cache for MemoryCache {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self.entries().get(&space.full_key(key)).cloned())
    }

    async fn get_many(&self, space: &Space, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, CacheError> {
        let entries = self.entries();
        let mut values = Vec::with_capacity(keys.len());
        let mut bytes = 0usize;
        for key in keys {
            let value = entries.get(&space.full_key(key));
            bytes = bytes.saturating_add(value.map_or(0, Vec::len));
            if bytes > BATCH_BYTES_MAX {
                return Err(batch_too_large());
            }
            values.push(value.cloned());
        }
        Ok(values)
    }

    async fn set(&self, space: &Space, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), CacheError> {
        let key = space.full_key(key);
        let mut entries = self.entries();
        entries.make_room(&key, value.len());
        entries.set(&key, value, ttl.and_then(|ttl| Instant::now().checked_add(ttl)));
        Ok(())
    }

    async fn delete(&self, space: &Space, key: &str) -> Result<bool, CacheError> {
        Ok(self.entries().remove(&space.full_key(key)))
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, CacheError> {
        let key = space.full_key(key);
        let mut entries = self.entries();
        // The sum of a number and another has at most 20 characters.
        entries.make_room(&key, 20);
        let sum = entries.increment(&key, delta);
        let sum = sum.map_err(|Full| CacheError::LimitExceeded("the cache is full".to_owned()))?;
        sum.map_err(|NotANumber| CacheError::NotANumber)
    }

    async fn expire(&self, space: &Space, key: &str, ttl: Duration) -> Result<bool, CacheError> {
        let expires_at = Instant::now().checked_add(ttl);
        Ok(expires_at.is_some_and(|at| self.entries().expire(&space.full_key(key), at)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::task::AgentName;

    #[tokio::test]
    async fn a_full_cache_forgets_the_oldest() {
        let cache = MemoryCache::with_bytes_max(10_000);
        let space = Space::new(&AgentName::parse("a").unwrap(), Arc::default());
        for number in 0..1_000 {
            cache.set(&space, &number.to_string(), vec![0; 100], None).await.unwrap();
        }
        assert_eq!(cache.get(&space, "0").await.unwrap(), None);
        assert_eq!(cache.get(&space, "999").await.unwrap(), Some(vec![0; 100]));
    }
}
