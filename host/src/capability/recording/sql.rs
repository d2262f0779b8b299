//! SQL on a tape. A query's batches are written down as they came: where one ends shows to the agent.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Tape;
use crate::capability::sql::{
    Column, CommitError, Committed, ConnectionCounts, Database, End, ProvisionError, RowBatch, SqlConnection, SqlError,
    Value,
};
use crate::catalog::Migration;
use crate::manifest::{SqlGrant, TransactionMode};
use crate::memory::Holder;
use crate::task::AgentName;

pub(super) struct Taped {
    tape: Arc<Tape>,
    inner: Arc<dyn Database>,
}

impl Taped {
    pub(super) fn new(tape: &Arc<Tape>, inner: Arc<dyn Database>) -> Self {
        Self { tape: Arc::clone(tape), inner }
    }
}

#[async_trait::async_trait]
impl Database for Taped {
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
        let mut inner = None;
        let answering = async {
            inner = Some(self.inner.open(agent, mode, statement_timeout).await?);
            Ok(())
        };
        let answer: Result<(), SqlError> = self.tape.call("sql.open", &(), answering).await;
        answer.map(|()| Box::new(Connection::new(&self.tape, inner)) as Box<dyn SqlConnection>)
    }

    fn connections(&self) -> ConnectionCounts {
        self.inner.connections()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct Connection {
    tape: Arc<Tape>,
    /// Nothing in a replay.
    inner: Option<Box<dyn SqlConnection>>,
    state: State,
}

/// What a connection says of itself after a call.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct State {
    streams: bool,
    is_lost: bool,
}

/// Nobody is there to answer; in a replay nobody is asked.
fn nobody() -> SqlError {
    SqlError::Unavailable { what: "the database is a recording".into(), source: "nobody is to be asked".into() }
}

impl Connection {
    fn new(tape: &Arc<Tape>, inner: Option<Box<dyn SqlConnection>>) -> Self {
        Self { tape: Arc::clone(tape), inner, state: State::default() }
    }
}

/// What it says of itself now.
fn state(connection: &dyn SqlConnection) -> State {
    State { streams: connection.is_streaming(), is_lost: connection.is_lost() }
}

#[async_trait::async_trait]
impl SqlConnection for Connection {
    fn account_to(&mut self, holder: &Holder) {
        if let Some(inner) = &mut self.inner {
            inner.account_to(holder);
        }
    }

    async fn execute(&mut self, statement: &str, parameters: &[Value], timeout: Duration) -> Result<u64, SqlError> {
        let inner = &mut self.inner;
        let answering = async {
            let Some(inner) = inner else { return (Err(nobody()), State::default()) };
            let answer = inner.execute(statement, parameters, timeout).await;
            (answer, state(inner.as_ref()))
        };
        let (answer, state) = self.tape.call("sql.execute", &(statement, parameters), answering).await;
        self.state = state;
        answer
    }

    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Value],
        timeout: Duration,
    ) -> Result<Vec<Column>, SqlError> {
        let inner = &mut self.inner;
        let answering = async {
            let Some(inner) = inner else { return (Err(nobody()), State::default()) };
            let answer = inner.query(statement, parameters, timeout).await;
            (answer, state(inner.as_ref()))
        };
        let (answer, state) = self.tape.call("sql.query", &(statement, parameters), answering).await;
        self.state = state;
        answer
    }

    async fn next_rows(&mut self) -> Result<Option<RowBatch>, SqlError> {
        let inner = &mut self.inner;
        let answering = async {
            let Some(inner) = inner else { return (Err(nobody()), State::default()) };
            let answer = inner.next_rows().await;
            (answer, state(inner.as_ref()))
        };
        let (answer, state) = self.tape.call("sql.next-rows", &(), answering).await;
        self.state = state;
        answer
    }

    fn is_streaming(&self) -> bool {
        self.inner.as_ref().map_or(self.state.streams, |inner| inner.is_streaming())
    }

    fn is_lost(&self) -> bool {
        self.inner.as_ref().map_or(self.state.is_lost, |inner| inner.is_lost())
    }

    fn abandon(&mut self, reason: &str) {
        self.state.streams = false;
        if let Some(inner) = &mut self.inner {
            inner.abandon(reason);
        }
    }

    async fn finish(self: Box<Self>, end: End<'_>) -> Result<Committed, CommitError> {
        let Self { tape, inner, .. } = *self;
        let mut committed = Committed::Effects;
        let answering = async {
            if let Some(inner) = inner {
                committed = inner.finish(end).await?;
            }
            Ok(())
        };
        if matches!(end, End::Rollback) {
            // Nobody hears of it.
            let _: Result<(), CommitError> = answering.await;
            return Ok(committed);
        }
        let answer: Result<(), CommitError> = tape.call("sql.commit", &(), answering).await;
        answer.map(|()| committed)
    }
}
