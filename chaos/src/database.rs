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
    /// The attempt that made it.
    pub(crate) attempt: i32,
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
    /// How often it was redriven.
    pub(crate) generation: i32,
    pub(crate) failure_kind: Option<String>,
    pub(crate) failure_message: Option<String>,
}

impl Record {
    pub(crate) const SUCCEEDED: i16 = 3;
    pub(crate) const FAILED: i16 = 4;
    pub(crate) const CANCELLED: i16 = 5;

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

    /// Whether a task has failed for good, as far as its redrives so far go.
    pub(crate) async fn has_failed(&self, id: &str) -> Result<bool> {
        let statement = "SELECT status = 4 FROM agent_host.tasks WHERE id = $1";
        Ok(sqlx::query_scalar(statement).bind(id).fetch_optional(&self.0).await?.unwrap_or(false))
    }

    /// Mends what the task of this label waits for.
    pub(crate) async fn mend(&self, label: &str) -> Result<()> {
        let table = self.table("mended").await?;
        let statement = format!("INSERT INTO {table} (label) VALUES ($1) ON CONFLICT DO NOTHING");
        sqlx::query(&statement).bind(label).execute(&self.0).await?;
        Ok(())
    }

    /// How many dead letters were taken off the list and may still lie in their queue.
    pub(crate) async fn taken(&self) -> Result<u64> {
        let statement = "SELECT count(*) FROM agent_host.dead_letters_taken";
        let count: i64 = sqlx::query_scalar(statement).fetch_one(&self.0).await?;
        Ok(count.unsigned_abs())
    }

    /// How many messages hosts have yet to send: follow-ups and dead letters of tasks that have ended.
    pub(crate) async fn unsent(&self) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM agent_host.outbox").fetch_one(&self.0).await?;
        Ok(count.unsigned_abs())
    }

    /// Everything that is recorded.
    pub(crate) async fn records(&self) -> Result<Vec<Record>> {
        let statement = "SELECT id, status, attempt, generation, failure_kind, failure_message FROM agent_host.tasks";
        Ok(sqlx::query_as(statement).fetch_all(&self.0).await?)
    }

    /// The name of one of the agent's tables, in whichever schema the host has given it.
    async fn table(&self, name: &str) -> Result<String> {
        let find = "
            SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
            WHERE tablename = $1 AND schemaname NOT IN ('pg_catalog', 'information_schema')";
        let found = sqlx::query_scalar(find).bind(name).fetch_one(&self.0).await;
        found.with_context(|| format!("there is no table `{name}`"))
    }

    /// Every effect.
    pub(crate) async fn ledger(&self) -> Result<Vec<Row>> {
        let table = self.table("ledger").await?;
        let statement = format!("SELECT label, task_id, attempt, follow_up FROM {table}");
        Ok(sqlx::query_as(&statement).fetch_all(&self.0).await?)
    }
}
