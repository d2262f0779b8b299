//! Cancelling tasks, and finding out which are cancelled.

use sqlx::PgConnection;

use super::changes::signed;
use super::reader;
use crate::records::{Cancelled, Status, order};
use crate::task::{Outcome, TaskId, UnixMs};

pub(super) async fn cancel(
    connection: &mut PgConnection,
    id: &TaskId,
    at_ms: UnixMs,
) -> Result<Cancelled, sqlx::Error> {
    const UPDATE: &str = "
        UPDATE tasks SET status = $2, failure_kind = $3, failure_message = $4, output = NULL, output_type = NULL,
            finished_at_ms = $5, updated_at = now()
        WHERE id = $1 AND status < 3";
    let failure = Outcome::Cancelled.failure().unwrap_or_default();
    let updated = sqlx::query(UPDATE)
        .bind(id.as_str())
        .bind(order::code(Status::Cancelled))
        .bind(failure.kind)
        .bind(failure.message)
        .bind(signed(at_ms))
        .execute(&mut *connection)
        .await?;
    if updated.rows_affected() > 0 {
        return Ok(Cancelled::Now);
    }
    let status: Option<i16> = sqlx::query_scalar("SELECT status FROM tasks WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(match status {
        Some(status) => Cancelled::Finished(reader::status(status)?),
        None => Cancelled::Unknown,
    })
}

pub(super) async fn cancelled(connection: &mut PgConnection, ids: &[TaskId]) -> Result<Vec<TaskId>, sqlx::Error> {
    const SELECT: &str = "SELECT id FROM tasks WHERE id = ANY($1) AND status = $2";
    let ids: Vec<&str> = ids.iter().map(TaskId::as_str).collect();
    let cancelled: Vec<String> =
        sqlx::query_scalar(SELECT).bind(ids).bind(order::code(Status::Cancelled)).fetch_all(connection).await?;
    cancelled.iter().map(|id| reader::parsed(id)).collect()
}
