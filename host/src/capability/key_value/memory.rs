//! Key-value in process: the embedded twin. Volatile, and of one host.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{BATCH_BYTES_MAX, Bucket, KeyPage, KeyValue, KeyValueError, Swap, batch_too_large};
use crate::capability::memory::{Entries, Full, NotANumber};

/// Bytes that all buckets of all agents may take together. The store is in the host's own memory, whose budget is for
/// agents; what needs more wants Redis.
const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Keys of one page of a listing.
const PAGE_KEYS_MAX: usize = 1000;

/// Key-value in process.
pub struct MemoryKeyValue {
    entries: Mutex<Entries>,
}

impl MemoryKeyValue {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Mutex::new(Entries::new(MEMORY_BYTES_MAX)) }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held, and a half-made change could only lose bytes from the count.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryKeyValue {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryKeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryKeyValue").finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl KeyValue for MemoryKeyValue {
    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.entries().get(&bucket.full_key(key)).cloned())
    }

    async fn set(&self, bucket: &Bucket, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.set_many(bucket, vec![(key.to_owned(), value)]).await
    }

    async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), KeyValueError> {
        self.entries().remove(&bucket.full_key(key));
        Ok(())
    }

    async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, KeyValueError> {
        Ok(self.entries().get(&bucket.full_key(key)).is_some())
    }

    async fn list_keys(&self, bucket: &Bucket, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let entries = self.entries();
        let (keys, cursor) = entries.keys(bucket.prefix(), cursor.unwrap_or(0), PAGE_KEYS_MAX);
        Ok(KeyPage { keys: keys.into_iter().map(str::to_owned).collect(), cursor })
    }

    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let sum = self.entries().increment(&bucket.full_key(key), delta).map_err(|Full| full())?;
        sum.map_err(|NotANumber| KeyValueError::NotANumber)
    }

    async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        seen: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<Swap, KeyValueError> {
        let mut entries = self.entries();
        let key = bucket.full_key(key);
        let now = entries.get(&key);
        if now.map(Vec::as_slice) != seen {
            return Ok(Swap::Changed(now.cloned()));
        }
        if !entries.has_room([(key.as_str(), value.len())].into_iter()) {
            return Err(full());
        }
        entries.set(&key, value, None);
        Ok(Swap::Done)
    }

    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        let entries = self.entries();
        let mut values = Vec::with_capacity(keys.len());
        let mut bytes = 0usize;
        for key in keys {
            let value = entries.get(&bucket.full_key(key));
            bytes = bytes.saturating_add(value.map_or(0, Vec::len));
            if bytes > BATCH_BYTES_MAX {
                return Err(batch_too_large());
            }
            values.push(value.cloned());
        }
        Ok(values)
    }

    async fn set_many(&self, bucket: &Bucket, new: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        let new: Vec<_> = new.into_iter().map(|(key, value)| (bucket.full_key(&key), value)).collect();
        let mut entries = self.entries();
        if !entries.has_room(new.iter().map(|(key, value)| (key.as_str(), value.len()))) {
            return Err(full());
        }
        for (key, value) in new {
            entries.set(&key, value, None);
        }
        Ok(())
    }

    async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError> {
        let mut entries = self.entries();
        for key in keys {
            entries.remove(&bucket.full_key(key));
        }
        Ok(())
    }
}

fn full() -> KeyValueError {
    KeyValueError::LimitExceeded(format!("the embedded key-value store is full ({MEMORY_BYTES_MAX} bytes)"))
}
