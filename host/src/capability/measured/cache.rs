//! The cache with a clock.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Histogram;

use super::{OperationMetrics, System};
use crate::capability::cache::{Cache, CacheError, Space};

pub(super) struct MeasuredCache {
    inner: Arc<dyn Cache>,
    get: Histogram,
    get_many: Histogram,
    set: Histogram,
    delete: Histogram,
    increment: Histogram,
    expire: Histogram,
}

impl MeasuredCache {
    pub(super) fn new(metrics: &OperationMetrics, system: System, inner: Arc<dyn Cache>) -> Self {
        let operation = |name| metrics.operation(system, name);
        Self {
            inner,
            get: operation("get"),
            get_many: operation("get_many"),
            set: operation("set"),
            delete: operation("delete"),
            increment: operation("increment"),
            expire: operation("expire"),
        }
    }
}

#[async_trait::async_trait]
impl Cache for MeasuredCache {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let _timer = self.get.start_timer();
        self.inner.get(space, key).await
    }

    async fn get_many(&self, space: &Space, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, CacheError> {
        let _timer = self.get_many.start_timer();
        self.inner.get_many(space, keys).await
    }

    async fn set(&self, space: &Space, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), CacheError> {
        let _timer = self.set.start_timer();
        self.inner.set(space, key, value, ttl).await
    }

    async fn delete(&self, space: &Space, key: &str) -> Result<bool, CacheError> {
        let _timer = self.delete.start_timer();
        self.inner.delete(space, key).await
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, CacheError> {
        let _timer = self.increment.start_timer();
        self.inner.increment(space, key, delta).await
    }

    async fn expire(&self, space: &Space, key: &str, ttl: Duration) -> Result<bool, CacheError> {
        let _timer = self.expire.start_timer();
        self.inner.expire(space, key, ttl).await
    }
}
