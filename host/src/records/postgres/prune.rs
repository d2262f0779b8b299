//! Forgetting: what ended longer ago than the retention, and what nobody will end any more.

use std::time::Duration;

use sqlx::PgConnection;

use crate::records::UNFINISHED_RETENTION;
use crate::store::HostDatabase;

/// How often a host looks for records to forget.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Rows that one statement deletes: some 10 ms of work, so that writers never wait long for it.
const ROWS_PER_DELETE: i64 = 1_000;

/// The pause between two such statements of one round.
const PAUSE: Duration = Duration::from_millis(10);

/// Prunes for ever. Connects for each round only: one connection less to hold, and nothing to repair.
pub(super) async fn run(database: HostDatabase, retention: Duration) {
    loop {
        match database.connect().await {
            Ok(mut connection) => match round(&mut connection, retention).await {
                Ok(0) => {}
                Ok(records) => tracing::debug!(records, "task records: forgot those past the retention"),
                Err(error) => tracing::warn!(%error, "task records: pruning failed, trying again later"),
            },
            Err(error) => tracing::warn!(%error, "task records: pruning failed, trying again later"),
        }
        tokio::time::sleep(PRUNE_EVERY).await;
    }
}

async fn round(connection: &mut PgConnection, retention: Duration) -> Result<u64, sqlx::Error> {
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
    for (statement, kept_for) in [(ENDED, retention), (UNFINISHED, UNFINISHED_RETENTION)] {
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
