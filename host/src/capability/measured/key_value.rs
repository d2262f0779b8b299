//! The key-value store with a clock.

use std::sync::Arc;

use prometheus::Histogram;

use super::{OperationMetrics, System};
use crate::capability::key_value::{Bucket, KeyPage, KeyValue, KeyValueError, Swap};

pub(super) struct MeasuredKeyValue {
    inner: Arc<dyn KeyValue>,
    get: Histogram,
    set: Histogram,
    delete: Histogram,
    exists: Histogram,
    list_keys: Histogram,
    increment: Histogram,
    swap: Histogram,
    get_many: Histogram,
    set_many: Histogram,
    delete_many: Histogram,
}

impl MeasuredKeyValue {
    pub(super) fn new(metrics: &OperationMetrics, system: System, inner: Arc<dyn KeyValue>) -> Self {
        let operation = |name| metrics.operation(system, name);
        Self {
            inner,
            get: operation("get"),
            set: operation("set"),
            delete: operation("delete"),
            exists: operation("exists"),
            list_keys: operation("list_keys"),
            increment: operation("increment"),
            swap: operation("swap"),
            get_many: operation("get_many"),
            set_many: operation("set_many"),
            delete_many: operation("delete_many"),
        }
    }
}

#[async_trait::async_trait]
impl KeyValue for MeasuredKeyValue {
    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let _timer = self.get.start_timer();
        self.inner.get(bucket, key).await
    }

    async fn set(&self, bucket: &Bucket, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let _timer = self.set.start_timer();
        self.inner.set(bucket, key, value).await
    }

    async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), KeyValueError> {
        let _timer = self.delete.start_timer();
        self.inner.delete(bucket, key).await
    }

    async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, KeyValueError> {
        let _timer = self.exists.start_timer();
        self.inner.exists(bucket, key).await
    }

    async fn list_keys(&self, bucket: &Bucket, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let _timer = self.list_keys.start_timer();
        self.inner.list_keys(bucket, cursor).await
    }

    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let _timer = self.increment.start_timer();
        self.inner.increment(bucket, key, delta).await
    }

    async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        seen: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<Swap, KeyValueError> {
        let _timer = self.swap.start_timer();
        self.inner.swap(bucket, key, seen, value).await
    }

    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        let _timer = self.get_many.start_timer();
        self.inner.get_many(bucket, keys).await
    }

    async fn set_many(&self, bucket: &Bucket, entries: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        let _timer = self.set_many.start_timer();
        self.inner.set_many(bucket, entries).await
    }

    async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError> {
        let _timer = self.delete_many.start_timer();
        self.inner.delete_many(bucket, keys).await
    }
}
