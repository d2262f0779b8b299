//! The database with a clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Histogram;

use super::{OperationMetrics, System};
use crate::capability::sql::{
    Column, CommitError, Committed, ConnectionCounts, Database, End, ProvisionError, RowBatch, SqlConnection, SqlError,
    Value,
};
use crate::catalog::Migration;
use crate::manifest::{SqlGrant, TransactionMode};
use crate::memory::Holder;
use crate::task::AgentName;

pub(super) struct MeasuredDatabase {
    inner: Arc<dyn Database>,
    operations: Arc<Operations>,
}

struct Operations {
    open: Histogram,
    execute: Histogram,
    query: Histogram,
    commit: Histogram,
    rollback: Histogram,
}

impl MeasuredDatabase {
    pub(super) fn new(metrics: &OperationMetrics, system: System, inner: Arc<dyn Database>) -> Self {
        let operation = |name| metrics.operation(system, name);
        let operations = Operations {
            open: operation("open"),
            execute: operation("execute"),
            query: operation("query"),
            commit: operation("commit"),
            rollback: operation("rollback"),
        };
        Self { inner, operations: Arc::new(operations) }
    }
}

#[async_trait::async_trait]
impl Database for MeasuredDatabase {
    /// Not timed: migrations run as long as they run, and not for a task.
    async fn provision(
        &self,
        agent: &AgentName,
        grants: &[SqlGrant],
        migrations: &[Migration],
    ) -> Result<(), ProvisionError> {
        self.inner.provision(agent, grants, migrations).await
    }

    async fn open(
        &self,
        agent: &AgentName,
        mode: TransactionMode,
        statement_timeout: Duration,
    ) -> Result<Box<dyn SqlConnection>, SqlError> {
        let _timer = self.operations.open.start_timer();
        let inner = self.inner.open(agent, mode, statement_timeout).await?;
        Ok(Box::new(MeasuredConnection { inner, operations: Arc::clone(&self.operations), query: None }))
    }

    fn connections(&self) -> ConnectionCounts {
        self.inner.connections()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct MeasuredConnection {
    inner: Box<dyn SqlConnection>,
    operations: Arc<Operations>,
    /// The clock of the query that is being read.
    query: Option<Stopwatch>,
}

#[async_trait::async_trait]
impl SqlConnection for MeasuredConnection {
    fn account_to(&mut self, holder: &Holder) {
        self.inner.account_to(holder);
    }

    async fn execute(&mut self, statement: &str, parameters: &[Value], timeout: Duration) -> Result<u64, SqlError> {
        let _timer = self.operations.execute.start_timer();
        self.inner.execute(statement, parameters, timeout).await
    }

    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Value],
        timeout: Duration,
    ) -> Result<Vec<Column>, SqlError> {
        let watch = self.query.insert(Stopwatch::new(&self.operations.query));
        watch.start();
        let answer = self.inner.query(statement, parameters, timeout).await;
        watch.stop();
        self.stop_at_the_end();
        answer
    }

    async fn next_rows(&mut self) -> Result<Option<RowBatch>, SqlError> {
        if let Some(watch) = &mut self.query {
            watch.start();
        }
        let answer = self.inner.next_rows().await;
        if let Some(watch) = &mut self.query {
            watch.stop();
        }
        self.stop_at_the_end();
        answer
    }

    fn is_streaming(&self) -> bool {
        self.inner.is_streaming()
    }

    fn is_lost(&self) -> bool {
        self.inner.is_lost()
    }

    fn abandon(&mut self, reason: &str) {
        self.query = None;
        self.inner.abandon(reason);
    }

    async fn finish(mut self: Box<Self>, end: End<'_>) -> Result<Committed, CommitError> {
        self.query = None;
        let operation = match end {
            End::Commit(_) => &self.operations.commit,
            End::Rollback => &self.operations.rollback,
        };
        let _timer = operation.start_timer();
        self.inner.finish(end).await
    }
}

impl MeasuredConnection {
    /// Observes the query once its last row has been read, or it has failed.
    fn stop_at_the_end(&mut self) {
        if !self.inner.is_streaming() {
            self.query = None;
        }
    }
}

/// Adds up the parts of an operation that is done call by call, without the pauses in which the guest works on what it
/// got; observes the sum when it is dropped, also in the middle of a part.
struct Stopwatch {
    histogram: Histogram,
    spent: Duration,
    running_since: Option<Instant>,
}

impl Stopwatch {
    fn new(histogram: &Histogram) -> Self {
        Self { histogram: histogram.clone(), spent: Duration::ZERO, running_since: None }
    }

    fn start(&mut self) {
        self.running_since = Some(Instant::now());
    }

    fn stop(&mut self) {
        if let Some(since) = self.running_since.take() {
            self.spent = self.spent.saturating_add(since.elapsed());
        }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.stop();
        self.histogram.observe(self.spent.as_secs_f64());
    }
}
