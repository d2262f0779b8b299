//! The list of dead letters.

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::changes::{signed, signed_generation};
use super::{PostgresRecords, read, reader, written};
use crate::records::{
    DeadLetter, DeadLetterCursor, DeadLetterFilter, DeadLetterList, RecordsError, Taken, UNSENT_AFTER, order,
};
use crate::task::{AgentName, TaskId};

#[async_trait::async_trait]
impl DeadLetterList for PostgresRecords {
    async fn dead_letters(
        &self,
        filter: DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, RecordsError> {
        list(&self.seldom, &filter, after.as_ref(), limit).await.map_err(read)
    }

    async fn dead_letter(&self, id: &TaskId) -> Result<Option<DeadLetter>, RecordsError> {
        get(&self.seldom, id).await.map_err(read)
    }

    async fn take_dead_letters(&self, taken: Vec<Taken>) -> Result<Vec<TaskId>, RecordsError> {
        take(&self.seldom, &taken).await.map_err(written)
    }

    async fn taken_dead_letters(&self, agent: &AgentName) -> Result<Vec<(TaskId, u32)>, RecordsError> {
        taken(&self.seldom, agent).await.map_err(read)
    }

    async fn forget_taken(&self, letters: Vec<(TaskId, u32)>) -> Result<(), RecordsError> {
        forget_taken(&self.seldom, &letters).await.map_err(written)
    }
}

async fn list(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    after: Option<&DeadLetterCursor>,
    limit: u32,
) -> Result<Vec<DeadLetter>, sqlx::Error> {
    const SELECT: &str = "
        SELECT id, agent, generation, failed_at_ms, error_type, error_message, attempts, revision, digest, host,
            ''::bytea AS message
        FROM dead_letters
        WHERE ($1::text IS NULL OR agent = $1) AND ($2::bigint IS NULL OR (failed_at_ms, id) < ($2, $3::text))
        ORDER BY failed_at_ms DESC, id DESC LIMIT $4";
    let rows = sqlx::query(SELECT)
        .bind(filter.agent.as_ref().map(AgentName::as_str))
        .bind(after.map(|after| signed(after.failed_at_ms)))
        .bind(after.map(|after| after.id.as_str()))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.iter().map(decoded).collect()
}

async fn get(pool: &PgPool, id: &TaskId) -> Result<Option<DeadLetter>, sqlx::Error> {
    const SELECT: &str = "
        SELECT id, agent, generation, failed_at_ms, error_type, error_message, attempts, revision, digest, host, message
        FROM dead_letters WHERE id = $1";
    let row = sqlx::query(SELECT).bind(id.as_str()).fetch_optional(pool).await?;
    row.as_ref().map(decoded).transpose()
}

async fn take(pool: &PgPool, taken: &[Taken]) -> Result<Vec<TaskId>, sqlx::Error> {
    // A task whose record was pruned gets one again.
    const TAKE: &str = "
        WITH wanted AS (
            SELECT * FROM unnest($1::text[], $2::integer[], $3::uuid[], $4::bytea[])
                AS w (id, generation, outgoing, payload)
        ), gone AS (
            DELETE FROM dead_letters AS l USING wanted AS w WHERE l.id = w.id AND l.generation = w.generation
            RETURNING l.id, l.agent, l.generation, l.failed_at_ms, w.outgoing, w.payload
        ), marked AS (
            INSERT INTO dead_letters_taken (agent, id, generation) SELECT agent, id, generation FROM gone
            ON CONFLICT DO NOTHING
        ), leaving AS (
            INSERT INTO outbox (id, payload, due_at)
            SELECT outgoing, payload, now() + make_interval(secs => $5) FROM gone WHERE outgoing IS NOT NULL
        ), again AS (
            INSERT INTO tasks AS t (id, agent, status, attempt, generation, enqueued_at_ms)
            SELECT id, agent, $6, 1, generation + 1, failed_at_ms FROM gone WHERE outgoing IS NOT NULL
            ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, attempt = 1, generation = EXCLUDED.generation,
                output = NULL, output_type = NULL, failure_kind = NULL, failure_message = NULL,
                progress_fraction = NULL, progress_note = NULL, memory_bytes_peak = NULL, cpu_us = NULL,
                wall_us = NULL, host_calls = NULL, started_at_ms = NULL, finished_at_ms = NULL, updated_at = now()
            WHERE t.generation < EXCLUDED.generation
        )
        SELECT id FROM gone";
    let ids: Vec<&str> = taken.iter().map(|taken| taken.id.as_str()).collect();
    let generations: Vec<i32> = taken.iter().map(|taken| signed_generation(taken.generation)).collect();
    let redrives = || taken.iter().map(|taken| taken.redrive.as_ref());
    let gone: Vec<String> = sqlx::query_scalar(TAKE)
        .bind(ids)
        .bind(generations)
        .bind(redrives().map(|outgoing| outgoing.map(|outgoing| outgoing.id)).collect::<Vec<_>>())
        .bind(redrives().map(|outgoing| outgoing.map(|outgoing| outgoing.payload.as_ref())).collect::<Vec<_>>())
        .bind(UNSENT_AFTER.as_secs_f64())
        .bind(order::code(crate::records::Status::Queued))
        .fetch_all(pool)
        .await?;
    gone.iter().map(|id| reader::parsed(id)).collect()
}

async fn taken(pool: &PgPool, agent: &AgentName) -> Result<Vec<(TaskId, u32)>, sqlx::Error> {
    const SELECT: &str = "SELECT id, generation FROM dead_letters_taken WHERE agent = $1";
    let rows = sqlx::query(SELECT).bind(agent.as_str()).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((reader::parsed(row.try_get::<&str, _>(0)?)?, generation(row, 1)?))).collect()
}

async fn forget_taken(pool: &PgPool, letters: &[(TaskId, u32)]) -> Result<(), sqlx::Error> {
    const DELETE: &str = "
        DELETE FROM dead_letters_taken AS t USING unnest($1::text[], $2::integer[]) AS f (id, generation)
        WHERE t.id = f.id AND t.generation = f.generation";
    sqlx::query(DELETE)
        .bind(letters.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(|(_, generation)| signed_generation(*generation)).collect::<Vec<_>>())
        .execute(pool)
        .await
        .map(drop)
}

fn decoded(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    Ok(DeadLetter {
        id: reader::parsed(row.try_get("id")?)?,
        agent: reader::parsed(row.try_get("agent")?)?,
        generation: generation(row, 2)?,
        failed_at_ms: u64::try_from(row.try_get::<i64, _>("failed_at_ms")?).unwrap_or(0),
        error_type: row.try_get("error_type")?,
        error_message: row.try_get("error_message")?,
        attempts: u32::try_from(row.try_get::<i64, _>("attempts")?).unwrap_or(u32::MAX),
        revision: row.try_get::<Option<i64>, _>("revision")?.and_then(|revision| u64::try_from(revision).ok()),
        digest: row.try_get("digest")?,
        host: row.try_get("host")?,
        message: row.try_get::<Vec<u8>, _>("message")?.into(),
    })
}

fn generation(row: &PgRow, index: usize) -> Result<u32, sqlx::Error> {
    Ok(u32::try_from(row.try_get::<i32, _>(index)?).unwrap_or(0))
}
