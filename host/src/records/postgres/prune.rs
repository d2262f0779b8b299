//! Forgetting: outputs that are not shown any more, tasks that ended longer ago than the inbox remembers, and what nobody
//! will end any more.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::types::chrono::{DateTime, Utc};

use super::{PostgresSettings, logs};
use crate::records::UNFINISHED_RETENTION;
use crate::store::HostDatabase;

/// How often a host looks for records to forget.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Rows that one statement deletes: some 10 ms of work, so that writers never wait long for it.
const ROWS_PER_DELETE: i64 = 1_000;

/// The pause between two such statements of one round.
const PAUSE: Duration = Duration::from_millis(10);

/// Dead letters that were taken off the list are forgotten after this, found in the broker's queue or not; and so are
/// suspects that nobody met again.
const TAKEN_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// How far back a round looks for outputs beyond what came of age since the last one. A task's retention begins at its end,
/// which most tasks reach within this of their row's making; some hundred thousand rows under heavy load.
const ENDED_WITHIN: Duration = Duration::from_secs(600);

/// How often all rows are looked at for the outputs of tasks that took longer.
const ALL_OUTPUTS_EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Prunes for ever. Connects for each round only: one connection less to hold, and nothing to repair.
pub(super) async fn run(database: HostDatabase, settings: PostgresSettings) {
    let mut outputs = Outputs::default();
    loop {
        match database.connect().await {
            Ok(mut connection) => match round(&mut connection, settings, &mut outputs).await {
                Ok(0) => {}
                Ok(records) => tracing::debug!(records, "task records: forgot those past the retention"),
                Err(error) => tracing::warn!(%error, "task records: pruning failed, trying again later"),
            },
            Err(error) => tracing::warn!(%error, "task records: pruning failed, trying again later"),
        }
        tokio::time::sleep(PRUNE_EVERY).await;
    }
}

async fn round(
    connection: &mut PgConnection,
    settings: PostgresSettings,
    outputs: &mut Outputs,
) -> Result<u64, sqlx::Error> {
    outputs.forget(connection, settings.retention).await?;
    sqlx::query("DELETE FROM dead_letters_taken WHERE taken_at <= now() - make_interval(secs => $1)")
        .bind(TAKEN_KEPT.as_secs_f64())
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM suspects WHERE updated_at <= now() - make_interval(secs => $1)")
        .bind(TAKEN_KEPT.as_secs_f64())
        .execute(&mut *connection)
        .await?;
    while logs::forget(connection, settings.retention, ROWS_PER_DELETE).await? {
        tokio::time::sleep(PAUSE).await;
    }
    // By age of the row first, for which there is an index: a task cannot have ended before its row was made.
    const ENDED: &str = "
        DELETE FROM tasks WHERE id IN (
            SELECT id FROM tasks
            WHERE created_at <= now() - make_interval(secs => $1) AND updated_at <= now() - make_interval(secs => $1)
                AND status >= 3
            ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    const UNFINISHED: &str = "
        DELETE FROM tasks WHERE id IN (
            SELECT id FROM tasks
            WHERE created_at <= now() - make_interval(secs => $1) AND updated_at <= now() - make_interval(secs => $1)
                AND status < 3
            ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let mut forgotten = 0;
    let ended_kept = settings.inbox_retention.max(settings.retention);
    for (statement, kept_for) in [(ENDED, ended_kept), (UNFINISHED, UNFINISHED_RETENTION)] {
        loop {
            let deleted = sqlx::query(statement)
                .bind(kept_for.as_secs_f64())
                .bind(ROWS_PER_DELETE)
                .execute(&mut *connection)
                .await?
                .rows_affected();
            forgotten += deleted;
            if deleted < ROWS_PER_DELETE.unsigned_abs() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(forgotten)
}

/// Where the forgetting of outputs stands: a round need not look at every row.
#[derive(Debug, Default)]
struct Outputs {
    /// Rows that were made before this had come of age in the last round.
    looked_to: Option<DateTime<Utc>>,
    looked_at_all: Option<Instant>,
}

impl Outputs {
    /// Empties the rows of tasks that are not shown any more: what is left of them is that they have ended.
    async fn forget(&mut self, connection: &mut PgConnection, retention: Duration) -> Result<(), sqlx::Error> {
        const FORGET: &str = "
            WITH old AS (
                SELECT id, created_at FROM tasks
                WHERE created_at >= $1 AND created_at <= now() - make_interval(secs => $2)
                    AND updated_at <= now() - make_interval(secs => $2) AND status >= 3 AND output IS NOT NULL
                ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
            ), emptied AS (
                UPDATE tasks AS t SET output = NULL FROM old WHERE t.id = old.id
            )
            SELECT count(*), max(created_at), now() - make_interval(secs => $2) FROM old";
        let began = Instant::now();
        let is_all = self.looked_at_all.is_none_or(|at| at.elapsed() >= ALL_OUTPUTS_EVERY);
        let looked_to = self.looked_to.filter(|_| !is_all);
        let mut from = looked_to.map_or(DateTime::UNIX_EPOCH, |to| to - ENDED_WITHIN);
        loop {
            let (rows, newest, of_age): (i64, Option<DateTime<Utc>>, DateTime<Utc>) = sqlx::query_as(FORGET)
                .bind(from)
                .bind(retention.as_secs_f64())
                .bind(ROWS_PER_DELETE)
                .fetch_one(&mut *connection)
                .await?;
            if rows < ROWS_PER_DELETE {
                self.looked_to = Some(of_age);
                if is_all {
                    self.looked_at_all = Some(began);
                }
                return Ok(());
            }
            from = newest.unwrap_or(from);
            tokio::time::sleep(PAUSE).await;
        }
    }
}
