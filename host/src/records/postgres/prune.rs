//! Forgetting: outputs that are not shown any more, tasks that ended longer ago than the inbox remembers, and what nobody
//! will end any more.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::types::chrono::{DateTime, Utc};

use super::PostgresSettings;
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

/// Prunes for ever. Connects for each round only: one connection less to hold, and nothing to repair.
pub(super) async fn run(database: HostDatabase, settings: PostgresSettings) {
    // Up to where outputs were forgotten, so that a round looks only at rows that have come of age since the last one.
    let mut outputs_forgotten_to = DateTime::<Utc>::UNIX_EPOCH;
    loop {
        match database.connect().await {
            Ok(mut connection) => match round(&mut connection, settings, &mut outputs_forgotten_to).await {
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
    outputs_forgotten_to: &mut DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    forget_outputs(connection, settings.retention, outputs_forgotten_to).await?;
    sqlx::query("DELETE FROM dead_letters_taken WHERE taken_at <= now() - make_interval(secs => $1)")
        .bind(TAKEN_KEPT.as_secs_f64())
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM suspects WHERE updated_at <= now() - make_interval(secs => $1)")
        .bind(TAKEN_KEPT.as_secs_f64())
        .execute(&mut *connection)
        .await?;
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

/// Empties the rows of tasks that are not shown any more: what is left of them is that they have ended. A task that was
/// unfinished when its row came of age keeps its output until the row goes.
async fn forget_outputs(
    connection: &mut PgConnection,
    retention: Duration,
    forgotten_to: &mut DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    const FORGET: &str = "
        WITH old AS (
            SELECT id, created_at FROM tasks
            WHERE created_at >= $1 AND created_at <= now() - make_interval(secs => $2)
                AND updated_at <= now() - make_interval(secs => $2) AND status >= 3 AND output IS NOT NULL
            ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
        ), emptied AS (
            UPDATE tasks AS t SET output = NULL FROM old WHERE t.id = old.id
        )
        SELECT count(*), max(created_at) FROM old";
    loop {
        let (rows, newest): (i64, Option<DateTime<Utc>>) = sqlx::query_as(FORGET)
            .bind(*forgotten_to)
            .bind(retention.as_secs_f64())
            .bind(ROWS_PER_DELETE)
            .fetch_one(&mut *connection)
            .await?;
        *forgotten_to = newest.unwrap_or(*forgotten_to);
        if rows < ROWS_PER_DELETE {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
