//! Cancelling tasks, and finding out which are cancelled.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::Instant;

use super::changes::signed;
use super::reader;
use super::seldom::Seldom;
use crate::records::{Cancelled, Status, order};
use crate::task::{Outcome, TaskId, UnixMs};

/// How long a task is waited for that is being ended at this moment: longer than a commit mostly takes.
const ENDING_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const ENDING_POLL: Duration = Duration::from_millis(20);

/// Ends a task as cancelled. A task whose own transaction is committing is looked at again and again, instead of waiting
/// for its row: the commit runs triggers of the agent's, for seconds if it likes, and the connections here are few and
/// everybody's.
pub(super) async fn cancel(seldom: &Seldom, id: &TaskId, at_ms: UnixMs) -> Result<Cancelled, sqlx::Error> {
    let until = Instant::now() + ENDING_WAIT_MAX;
    loop {
        if let Some(cancelled) = seldom.run(async |connection| attempt(connection, id, at_ms).await).await? {
            return Ok(cancelled);
        }
        if Instant::now() >= until {
            let what = "the task is being ended at this moment; ask again later whether it was cancelled in time";
            return Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what)));
        }
        tokio::time::sleep(ENDING_POLL).await;
    }
}

/// Nothing where somebody else is changing the task at this moment.
async fn attempt(connection: &mut PgConnection, id: &TaskId, at_ms: UnixMs) -> Result<Option<Cancelled>, sqlx::Error> {
    const UPDATE: &str = "
        WITH free AS (
            SELECT id FROM tasks WHERE id = $1 AND status < 3 FOR UPDATE SKIP LOCKED
        ), ended AS (
            UPDATE tasks AS t SET status = $2, failure_kind = $3, failure_message = $4, output = NULL, output_type = NULL,
                finished_at_ms = $5, updated_at = now()
            FROM free WHERE t.id = free.id
            RETURNING t.id
        )
        SELECT status, EXISTS (SELECT FROM ended) FROM tasks WHERE id = $1";
    let failure = Outcome::Cancelled.failure().unwrap_or_default();
    let found: Option<(i16, bool)> = sqlx::query_as(UPDATE)
        .bind(id.as_str())
        .bind(order::code(Status::Cancelled))
        .bind(failure.kind)
        .bind(failure.message)
        .bind(signed(at_ms))
        .fetch_optional(connection)
        .await?;
    // The status is the one that the statement began with.
    let Some((before, is_cancelled)) = found else { return Ok(Some(Cancelled::Unknown)) };
    let before = reader::status(before)?;
    Ok(match (is_cancelled, before.is_terminal()) {
        (true, _) => Some(Cancelled::Now),
        (false, true) => Some(Cancelled::Finished(before)),
        (false, false) => None,
    })
}

pub(super) async fn cancelled(connection: &mut PgConnection, ids: &[TaskId]) -> Result<Vec<TaskId>, sqlx::Error> {
    const SELECT: &str = "SELECT id FROM tasks WHERE id = ANY($1) AND status = $2";
    let ids: Vec<&str> = ids.iter().map(TaskId::as_str).collect();
    let cancelled: Vec<String> =
        sqlx::query_scalar(SELECT).bind(ids).bind(order::code(Status::Cancelled)).fetch_all(connection).await?;
    cancelled.iter().map(|id| reader::parsed(id)).collect()
}
