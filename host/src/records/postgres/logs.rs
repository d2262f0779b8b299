//! What the runs of tasks said.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::changes::{signed, signed_generation};
use super::link::Work;
use crate::records::{RUNS_KEPT_MAX, TaskLog};
use crate::task::{RunLog, TaskId};

/// Rows of `task_logs` as arrays, to be bound in the order of these fields.
pub(super) struct Columns<'a> {
    pub(super) task_ids: Vec<&'a str>,
    pub(super) runs: Vec<Uuid>,
    pub(super) generations: Vec<i32>,
    pub(super) attempts: Vec<i64>,
    pub(super) revisions: Vec<Option<i64>>,
    pub(super) hosts: Vec<&'a str>,
    pub(super) are_cut: Vec<bool>,
    pub(super) lines: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(logs: impl Iterator<Item = &'a TaskLog> + Clone) -> Self {
        Self {
            task_ids: logs.clone().map(|log| log.task.as_str()).collect(),
            runs: logs.clone().map(|log| log.run).collect(),
            generations: logs.clone().map(|log| signed_generation(log.generation)).collect(),
            attempts: logs.clone().map(|log| i64::from(log.attempt)).collect(),
            revisions: logs.clone().map(|log| log.revision.map(signed)).collect(),
            hosts: logs.clone().map(|log| log.host.as_ref()).collect(),
            are_cut: logs.clone().map(|log| log.log.is_cut()).collect(),
            lines: logs.map(|log| log.log.lines()).collect(),
        }
    }
}

/// Keeps what runs said that were not their tasks' last.
pub(super) struct Keep<'a> {
    pub(super) logs: &'a [TaskLog],
}

impl Work for Keep<'_> {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // A try that was committed, with its answer lost, is found.
        const INSERT: &str = "
            INSERT INTO task_logs (task_id, run, generation, attempt, revision, host, is_cut, lines)
            SELECT * FROM unnest($1::text[], $2::uuid[], $3::integer[], $4::bigint[], $5::bigint[], $6::text[], $7::boolean[],
                $8::text[])
            ON CONFLICT (task_id, run) DO NOTHING";
        const TRIM: &str = "
            DELETE FROM task_logs AS l USING unnest($1::text[]) AS t (id)
            WHERE l.task_id = t.id AND l.run <= (
                SELECT k.run FROM task_logs AS k WHERE k.task_id = t.id ORDER BY k.run DESC OFFSET $2 LIMIT 1)";
        let columns = Columns::of(self.logs.iter());
        sqlx::query(INSERT)
            .bind(&columns.task_ids)
            .bind(columns.runs)
            .bind(columns.generations)
            .bind(columns.attempts)
            .bind(columns.revisions)
            .bind(columns.hosts)
            .bind(columns.are_cut)
            .bind(columns.lines)
            .execute(&mut *connection)
            .await?;
        let kept = i64::try_from(RUNS_KEPT_MAX).unwrap_or(i64::MAX);
        sqlx::query(TRIM).bind(columns.task_ids).bind(kept).execute(connection).await.map(drop)
    }

    fn bytes(&self) -> usize {
        self.logs.iter().map(TaskLog::weight).sum()
    }
}

/// What the last runs of a task said, in their order.
pub(super) async fn read(connection: &mut PgConnection, id: &TaskId) -> Result<Vec<TaskLog>, sqlx::Error> {
    const SELECT: &str = "
        SELECT run, generation, attempt, revision, host, is_cut, lines FROM task_logs WHERE task_id = $1
        ORDER BY run DESC LIMIT $2";
    let kept = i64::try_from(RUNS_KEPT_MAX).unwrap_or(i64::MAX);
    let rows = sqlx::query(SELECT).bind(id.as_str()).bind(kept).fetch_all(connection).await?;
    rows.iter().rev().map(|row| decoded(id, row)).collect()
}

fn decoded(id: &TaskId, row: &PgRow) -> Result<TaskLog, sqlx::Error> {
    let host: &str = row.try_get("host")?;
    Ok(TaskLog {
        run: row.try_get("run")?,
        task: id.clone(),
        generation: u32::try_from(row.try_get::<i32, _>("generation")?).unwrap_or(0),
        attempt: u32::try_from(row.try_get::<i64, _>("attempt")?).unwrap_or(u32::MAX),
        revision: row.try_get::<Option<i64>, _>("revision")?.map(|number| u64::try_from(number).unwrap_or(0)),
        host: host.into(),
        log: Arc::new(RunLog::new(row.try_get("lines")?, row.try_get("is_cut")?, Vec::new())),
    })
}

/// Forgets what was said by runs of tasks that are not shown any more. Answers whether there may be more to forget.
pub(super) async fn forget(
    connection: &mut PgConnection,
    retention: Duration,
    rows_max: i64,
) -> Result<bool, sqlx::Error> {
    const FORGET: &str = "
        DELETE FROM task_logs WHERE (task_id, run) IN (
            SELECT l.task_id, l.run FROM task_logs AS l
            WHERE l.created_at <= now() - make_interval(secs => $1) AND NOT EXISTS (
                SELECT FROM tasks AS t WHERE t.id = l.task_id
                    AND (t.status < 3 OR t.updated_at > now() - make_interval(secs => $1)))
            ORDER BY l.created_at LIMIT $2 FOR UPDATE SKIP LOCKED)";
    let forgotten =
        sqlx::query(FORGET).bind(retention.as_secs_f64()).bind(rows_max).execute(connection).await?.rows_affected();
    Ok(forgotten >= rows_max.unsigned_abs())
}
