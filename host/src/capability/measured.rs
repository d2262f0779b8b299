//! Capabilities with a clock: decorators of the ports that time each operation, whichever implementation runs it.
//!
//! An operation counts also where it fails or its task is stopped in the middle of it: a database that hangs must show.
//! What agents are told and what their data is does not pass through here; only time does.

mod cache;
mod key_value;
mod sql;

use std::sync::Arc;

use prometheus::{Histogram, HistogramVec, Registry, exponential_buckets, histogram_opts};

use super::cache::Cache;
use super::key_value::KeyValue;
use super::outbound_http::{Network, Outbound};
use super::sql::Database;

/// What stands behind a port, as OpenTelemetry names it in `db.system.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// PostgreSQL, also the embedded one.
    Postgresql,
    /// Redis.
    Redis,
    /// The memory of this process.
    Memory,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Redis => "redis",
            Self::Memory => "memory",
        }
    }
}

/// How long operations of databases, stores and caches take, and requests over HTTP.
#[derive(Clone, Debug)]
pub struct OperationMetrics {
    duration_seconds: HistogramVec,
    request_seconds: HistogramVec,
}

impl OperationMetrics {
    /// Registers the histograms.
    ///
    /// # Errors
    /// A name that is registered already: a mistake in the host.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let duration_seconds = HistogramVec::new(
            histogram_opts!(
                "db_client_operation_duration_seconds",
                "Operations of the agents' database, key-value store and cache.",
                // 10 µs to 10 s, in steps of √10: less is the process's own memory, more has run into a timeout.
                exponential_buckets(1e-5, 10_f64.sqrt(), 13)?
            ),
            &["system", "operation"],
        )?;
        registry.register(Box::new(duration_seconds.clone()))?;
        let request_seconds = HistogramVec::new(
            histogram_opts!(
                "http_client_request_duration_seconds",
                "Agents' requests over HTTP, up to the head of the response.",
                // 1 ms to 1000 s, in steps of √10: a connection takes a round trip at least, and the longest task 20 minutes.
                exponential_buckets(1e-3, 10_f64.sqrt(), 13)?
            ),
            // Not by server: agents choose the names.
            &["outcome"],
        )?;
        registry.register(Box::new(request_seconds.clone()))?;
        // There from the start, so that whoever looks for it finds 0 and not nothing.
        request_seconds.with_label_values(&["2xx"]);
        Ok(Self { duration_seconds, request_seconds })
    }

    /// A database whose connections are timed: `open` (with the wait for a free one), `execute`, `query` (to its last
    /// row), `commit`, `rollback`.
    #[must_use]
    pub fn database(&self, system: System, inner: Arc<dyn Database>) -> Arc<dyn Database> {
        Arc::new(sql::MeasuredDatabase::new(self, system, inner))
    }

    /// A key-value store whose operations are timed under the names of [`KeyValue`]'s methods.
    #[must_use]
    pub fn key_value(&self, system: System, inner: Arc<dyn KeyValue>) -> Arc<dyn KeyValue> {
        Arc::new(key_value::MeasuredKeyValue::new(self, system, inner))
    }

    /// A cache whose operations are timed under the names of [`Cache`]'s methods.
    #[must_use]
    pub fn cache(&self, system: System, inner: Arc<dyn Cache>) -> Arc<dyn Cache> {
        Arc::new(cache::MeasuredCache::new(self, system, inner))
    }

    /// Outbound HTTP over a network. Its requests are timed by outcome: the class of the response's status, `denied`,
    /// `failed`, or `stopped` with their task.
    #[must_use]
    pub fn outbound(&self, network: Arc<dyn Network>) -> Arc<Outbound> {
        Arc::new(Outbound::new(network).timed(self.request_seconds.clone()))
    }

    /// One operation's histogram: looked up once, when a decorator is made.
    fn operation(&self, system: System, operation: &str) -> Histogram {
        self.duration_seconds.with_label_values(&[system.name(), operation])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::cache::{CacheError, MemoryCache, Space};
    use crate::task::AgentName;

    #[tokio::test]
    async fn each_operation_counts_once_also_where_it_fails() {
        let metrics = OperationMetrics::new(&Registry::new()).unwrap();
        let cache = metrics.cache(System::Memory, Arc::new(MemoryCache::new()));
        let space = Space::new(&AgentName::parse("a").unwrap(), Arc::default());
        cache.set(&space, "word", b"no number".to_vec(), None).await.unwrap();
        assert_eq!(cache.get(&space, "word").await.unwrap().as_deref(), Some(&b"no number"[..]));
        assert!(matches!(cache.increment(&space, "word", 1).await, Err(CacheError::NotANumber)));
        let count = |operation| metrics.operation(System::Memory, operation).get_sample_count();
        assert_eq!(["set", "get", "increment", "delete"].map(count), [1, 1, 1, 0]);
    }
}
