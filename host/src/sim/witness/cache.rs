//! The cache under a witness.

use std::sync::Arc;
use std::time::Duration;

use super::{Port, Witness};
use crate::capability::cache::{Cache, CacheError, Space};

pub(super) struct Witnessed {
    pub(super) witness: Arc<Witness>,
    pub(super) inner: Arc<dyn Cache>,
}

impl Witnessed {
    async fn call(&self, bytes_out: usize) -> Result<(), CacheError> {
        let called = self.witness.call(Port::Cache, bytes_out).await;
        called.map_err(|injected| CacheError::Unavailable(injected.into()))
    }

    fn came_back(&self, bytes_in: usize) {
        self.witness.came_back(Port::Cache, 0, bytes_in);
    }
}

#[async_trait::async_trait]
impl Cache for Witnessed {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.call(key.len()).await?;
        let value = self.inner.get(space, key).await?;
        self.came_back(value.as_ref().map_or(0, Vec::len));
        Ok(value)
    }

    async fn get_many(&self, space: &Space, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, CacheError> {
        self.call(keys.iter().map(String::len).sum()).await?;
        let values = self.inner.get_many(space, keys).await?;
        self.came_back(values.iter().flatten().map(Vec::len).sum());
        Ok(values)
    }

    async fn set(&self, space: &Space, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), CacheError> {
        self.call(key.len().saturating_add(value.len())).await?;
        self.inner.set(space, key, value, ttl).await
    }

    async fn delete(&self, space: &Space, key: &str) -> Result<bool, CacheError> {
        self.call(key.len()).await?;
        self.inner.delete(space, key).await
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, CacheError> {
        self.call(key.len().saturating_add(size_of::<i64>())).await?;
        let sum = self.inner.increment(space, key, delta).await?;
        self.came_back(size_of::<i64>());
        Ok(sum)
    }

    async fn expire(&self, space: &Space, key: &str, ttl: Duration) -> Result<bool, CacheError> {
        self.call(key.len()).await?;
        self.inner.expire(space, key, ttl).await
    }
}
