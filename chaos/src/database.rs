//! What the database says, read as its superuser and past the relay.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::{PgPool, PgPoolOptions};

/// How long a restarting server may keep a question waiting.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A row of the agent's ledger: one effect.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) task_id: String,
    /// The id of the follow-up that the task submitted.
    pub(crate) follow_up: Option<String>,
}

/// What the hosts recorded of a task.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// As a number: 3 succeeded, 4 failed, 5 cancelled; what is below has not ended.
    pub(crate) status: i16,
    pub(crate) attempt: i64,
    pub(crate) failure_kind: Option<String>,
    pub(crate) failure_message: Option<String>,
}

impl Record {
    pub(crate) const SUCCEEDED: i16 = 3;
    pub(crate) const FAILED: i16 = 4;

    pub(crate) fn has_ended(&self) -> bool {
        self.status >= Self::SUCCEEDED
    }

    /// The name that the HTTP API gives the status.
    pub(crate) fn status_name(&self) -> &'static str {
        match self.status {
            0 => "queued",
            1 => "running",
            2 => "retrying",
            3 => "succeeded",
            4 => "failed",
            _ => "cancelled",
        }
    }
}

/// The server, asked directly.
#[derive(Clone)]
pub(crate) struct Database(PgPool);

impl Database {
    /// Connects when it is first asked.
    pub(crate) fn new(url: &str) -> Result<Self> {
        let options = PgPoolOptions::new().max_connections(2).acquire_timeout(ACQUIRE_TIMEOUT);
        Ok(Self(options.connect_lazy(url).context("DATABASE_URL should be a postgres:// URL")?))
    }

    /// How many tasks have ended.
    pub(crate) async fn ended(&self) -> Result<u64> {
        let statement = "SELECT count(*) FROM agent_host.tasks WHERE status >= 3";
        let count: i64 = sqlx::query_scalar(statement).fetch_one(&self.0).await?;
        Ok(count.unsigned_abs())
    }

    /// Those of these tasks that have not ended, or are unknown.
    pub(crate) async fn open(&self, ids: &[String]) -> Result<Vec<String>> {
        let statement = "
            SELECT given.id FROM unnest($1::text[]) AS given (id)
            LEFT JOIN agent_host.tasks AS task ON task.id = given.id
            WHERE task.id IS NULL OR task.status < 3";
        Ok(sqlx::query_scalar(statement).bind(ids).fetch_all(&self.0).await?)
    }

    /// How many messages hosts have yet to send: follow-ups and dead letters of tasks that have ended.
    pub(crate) async fn unsent(&self) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM agent_host.outbox").fetch_one(&self.0).await?;
        Ok(count.unsigned_abs())
    }

    /// Everything that is recorded.
    pub(crate) async fn records(&self) -> Result<Vec<Record>> {
        let statement = "SELECT id, status, attempt, failure_kind, failure_message FROM agent_host.tasks";
        Ok(sqlx::query_as(statement).fetch_all(&self.0).await?)
    }

    /// Every effect, in whichever schema the host has given the agent.
    pub(crate) async fn ledger(&self) -> Result<Vec<Row>> {
        let find = "
            SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
            WHERE tablename = 'ledger' AND schemaname NOT IN ('pg_catalog', 'information_schema')";
        let table: String = sqlx::query_scalar(find).fetch_one(&self.0).await.context("there is no table `ledger`")?;
        let statement = format!("SELECT label, task_id, follow_up FROM {table}");
        Ok(sqlx::query_as(&statement).fetch_all(&self.0).await?)
    }
}
