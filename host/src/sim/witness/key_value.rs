//! Key-value under a witness.

use std::sync::Arc;

use super::{Port, Witness};
use crate::capability::key_value::{Bucket, KeyPage, KeyValue, KeyValueError, Swap};

pub(super) struct Witnessed {
    pub(super) witness: Arc<Witness>,
    pub(super) inner: Arc<dyn KeyValue>,
}

impl Witnessed {
    async fn call(&self, bytes_out: usize) -> Result<(), KeyValueError> {
        let called = self.witness.call(Port::KeyValue, bytes_out).await;
        called.map_err(|injected| KeyValueError::Unavailable(injected.into()))
    }

    fn came_back(&self, bytes_in: usize) {
        self.witness.came_back(Port::KeyValue, 0, bytes_in);
    }
}

fn all(keys: &[String]) -> usize {
    keys.iter().map(String::len).sum()
}

#[async_trait::async_trait]
impl KeyValue for Witnessed {
    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        self.call(key.len()).await?;
        let value = self.inner.get(bucket, key).await?;
        self.came_back(value.as_ref().map_or(0, Vec::len));
        Ok(value)
    }

    async fn set(&self, bucket: &Bucket, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.call(key.len().saturating_add(value.len())).await?;
        self.inner.set(bucket, key, value).await
    }

    async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), KeyValueError> {
        self.call(key.len()).await?;
        self.inner.delete(bucket, key).await
    }

    async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, KeyValueError> {
        self.call(key.len()).await?;
        self.inner.exists(bucket, key).await
    }

    async fn list_keys(&self, bucket: &Bucket, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        self.call(0).await?;
        let page = self.inner.list_keys(bucket, cursor).await?;
        self.came_back(all(&page.keys));
        Ok(page)
    }

    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        self.call(key.len().saturating_add(size_of::<i64>())).await?;
        let sum = self.inner.increment(bucket, key, delta).await?;
        self.came_back(size_of::<i64>());
        Ok(sum)
    }

    async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        seen: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<Swap, KeyValueError> {
        self.call(key.len().saturating_add(value.len())).await?;
        self.inner.swap(bucket, key, seen, value).await
    }

    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        self.call(all(keys)).await?;
        let values = self.inner.get_many(bucket, keys).await?;
        self.came_back(values.iter().flatten().map(Vec::len).sum());
        Ok(values)
    }

    async fn set_many(&self, bucket: &Bucket, entries: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        self.call(entries.iter().map(|(key, value)| key.len().saturating_add(value.len())).sum()).await?;
        self.inner.set_many(bucket, entries).await
    }

    async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError> {
        self.call(all(keys)).await?;
        self.inner.delete_many(bucket, keys).await
    }
}
