//! SQL under a witness. A call is a statement.
//!
//! Every simulation has a schema of its own: the database knows the agent under an alias, which the agent does not see.

use std::sync::Arc;
use std::time::Duration;

use super::{Port, Witness};
use crate::capability::sql::{
    Column, CommitError, Committed, ConnectionCounts, Database, End, ProvisionError, RowBatch, SqlConnection, SqlError,
    Value,
};
use crate::catalog::Migration;
use crate::manifest::{SqlGrant, TransactionMode};
use crate::memory::Holder;
use crate::task::AgentName;

pub(super) struct Witnessed {
    witness: Arc<Witness>,
    inner: Arc<dyn Database>,
    alias: AgentName,
}

impl Witnessed {
    pub(super) fn new(witness: Arc<Witness>, inner: Arc<dyn Database>, alias: AgentName) -> Self {
        Self { witness, inner, alias }
    }
}

#[async_trait::async_trait]
impl Database for Witnessed {
    async fn provision(
        &self,
        _agent: &AgentName,
        grants: &[SqlGrant],
        migrations: &[Migration],
    ) -> Result<(), ProvisionError> {
        self.inner.provision(&self.alias, grants, migrations).await
    }

    async fn open(
        &self,
        _agent: &AgentName,
        mode: TransactionMode,
        statement_timeout: Duration,
    ) -> Result<Box<dyn SqlConnection>, SqlError> {
        let inner = self.inner.open(&self.alias, mode, statement_timeout).await?;
        Ok(Box::new(Connection { witness: Arc::clone(&self.witness), inner, broken: false }))
    }

    fn connections(&self) -> ConnectionCounts {
        self.inner.connections()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct Connection {
    witness: Arc<Witness>,
    inner: Box<dyn SqlConnection>,
    /// A statement was to fail: as if the connection had gone with it.
    broken: bool,
}

impl Connection {
    async fn call(&mut self, statement: &str, parameters: &[Value]) -> Result<(), SqlError> {
        let what = "the connection to the database broke";
        if self.broken {
            return Err(SqlError::Unavailable { what: what.into(), source: "it broke at an earlier statement".into() });
        }
        let bytes = parameters.iter().map(Value::bytes).fold(statement.len(), usize::saturating_add);
        self.witness.call(Port::Sql, bytes).await.map_err(|injected| {
            self.broken = true;
            SqlError::Unavailable { what: what.into(), source: injected.into() }
        })
    }
}

#[async_trait::async_trait]
impl SqlConnection for Connection {
    fn account_to(&mut self, holder: &Holder) {
        self.inner.account_to(holder);
    }

    async fn execute(&mut self, statement: &str, parameters: &[Value], timeout: Duration) -> Result<u64, SqlError> {
        self.call(statement, parameters).await?;
        self.inner.execute(statement, parameters, timeout).await
    }

    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Value],
        timeout: Duration,
    ) -> Result<Vec<Column>, SqlError> {
        self.call(statement, parameters).await?;
        self.inner.query(statement, parameters, timeout).await
    }

    async fn next_rows(&mut self) -> Result<Option<RowBatch>, SqlError> {
        let batch = self.inner.next_rows().await?;
        if let Some(batch) = &batch {
            self.witness.came_back(Port::Sql, batch.rows.len(), batch.bytes);
        }
        Ok(batch)
    }

    fn is_streaming(&self) -> bool {
        self.inner.is_streaming()
    }

    fn is_lost(&self) -> bool {
        self.broken || self.inner.is_lost()
    }

    fn abandon(&mut self, reason: &str) {
        self.inner.abandon(reason);
    }

    async fn finish(self: Box<Self>, end: End<'_>) -> Result<Committed, CommitError> {
        if matches!(end, End::Commit(_)) {
            if self.broken {
                return Err(CommitError::Unavailable("it broke at an earlier statement".into()));
            }
            if self.witness.dies_at_commit() {
                // Dropped as it is, which rolls back.
                return Err(CommitError::Unavailable("the host died".into()));
            }
        }
        self.inner.finish(end).await
    }
}
