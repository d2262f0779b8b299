//! Looking through the tasks.

use sqlx::{PgConnection, Row};

use super::reader::decoded;
use crate::records::{TaskCursor, TaskFilter, TaskPage, order};
use crate::task::{AgentName, TaskId};

/// Rows that one search looks at, from its place on: some 20 ms of work. Where fewer match than were asked for, the next
/// search goes on behind them.
const ROWS_LOOKED_AT: i64 = 20_000;

/// `$1` and `$2` are the place from which on, `$3` how many rows are looked at at most.
macro_rules! looked_at {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            ", (extract(epoch FROM created_at) * 1000000)::bigint AS at FROM tasks
            WHERE $1::bigint IS NULL OR (created_at <= 'epoch'::timestamptz + $1 * interval '1 microsecond'
                AND (created_at, id) < ('epoch'::timestamptz + $1 * interval '1 microsecond', $2::text COLLATE \"C\"))
            ORDER BY created_at DESC, id DESC LIMIT $3"
        )
    };
}

pub(super) async fn search(
    connection: &mut PgConnection,
    filter: &TaskFilter,
    after: Option<&TaskCursor>,
    limit: u32,
) -> Result<TaskPage, sqlx::Error> {
    const SELECT: &str = concat!(
        "WITH looked_at AS (",
        looked_at!(
            "id, agent, revision, status, attempt, NULL::text AS output_type, NULL::bytea AS output, failure_kind,
            failure_message, progress_fraction, progress_note, memory_bytes_peak, cpu_us, wall_us, host_calls,
            enqueued_at_ms, started_at_ms, finished_at_ms, generation, created_at"
        ),
        ")
        SELECT id, agent, revision, status, attempt, output_type, output, failure_kind, failure_message,
            progress_fraction, progress_note, memory_bytes_peak, cpu_us, wall_us, host_calls, enqueued_at_ms,
            started_at_ms, finished_at_ms, generation, at
        FROM looked_at WHERE ($4::text IS NULL OR agent = $4) AND ($5::smallint IS NULL OR status = $5)
        ORDER BY created_at DESC, id DESC LIMIT $6"
    );
    let (at, id) = (after.map(|after| after.at), after.map(|after| after.id.as_str()));
    let rows = sqlx::query(SELECT)
        .bind(at)
        .bind(id)
        .bind(ROWS_LOOKED_AT)
        .bind(filter.agent.as_ref().map(AgentName::as_str))
        .bind(filter.status.map(order::code))
        .bind(i64::from(limit))
        .fetch_all(&mut *connection)
        .await?;
    let tasks: Vec<_> = rows.iter().map(decoded).collect::<Result<_, _>>()?;
    let is_full = u32::try_from(tasks.len()).is_ok_and(|found| found >= limit);
    let next = match (rows.last(), tasks.last()) {
        (Some(row), Some(last)) if is_full => Some(TaskCursor { at: row.try_get("at")?, id: last.id.clone() }),
        _ => last_looked_at(connection, at, id).await?,
    };
    Ok(TaskPage { tasks, next })
}

/// The place behind the last row that a search looks at; nothing where that is the last one that there is.
async fn last_looked_at(
    connection: &mut PgConnection,
    at: Option<i64>,
    id: Option<&str>,
) -> Result<Option<TaskCursor>, sqlx::Error> {
    const LAST: &str = concat!(looked_at!("id"), " OFFSET $4");
    let row =
        sqlx::query(LAST).bind(at).bind(id).bind(1_i64).bind(ROWS_LOOKED_AT - 1).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(None) };
    let id: &str = row.try_get("id")?;
    let id = TaskId::parse(id).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Some(TaskCursor { at: row.try_get("at")?, id }))
}
