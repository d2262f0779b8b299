//! The list of dead letters.

use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

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
        self.seldom.run(async |connection| list(connection, &filter, after.as_ref(), limit).await).await.map_err(read)
    }

    async fn dead_letter(&self, id: &TaskId) -> Result<Option<DeadLetter>, RecordsError> {
        self.seldom.run(async |connection| get(connection, id).await).await.map_err(read)
    }

    async fn recording(&self, id: &TaskId) -> Result<Option<Option<Bytes>>, RecordsError> {
        self.seldom.run(async |connection| recording(connection, id).await).await.map_err(read)
    }

    async fn take_dead_letters(&self, taken: Vec<Taken>) -> Result<Vec<TaskId>, RecordsError> {
        self.seldom.run(async |connection| take(connection, &taken).await).await.map_err(written)
    }

    async fn taken_dead_letters(&self, agent: &AgentName) -> Result<Vec<(TaskId, u32)>, RecordsError> {
        self.seldom.run(async |connection| taken(connection, agent).await).await.map_err(read)
    }

    async fn agents_with_taken(&self) -> Result<Vec<AgentName>, RecordsError> {
        self.seldom.run(agents_with_taken).await.map_err(read)
    }

    async fn forget_taken(&self, letters: Vec<(TaskId, u32)>) -> Result<(), RecordsError> {
        self.seldom.run(async |connection| forget_taken(connection, &letters).await).await.map_err(written)
    }
}

async fn list(
    connection: &mut PgConnection,
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
        .fetch_all(connection)
        .await?;
    rows.iter().map(decoded).collect()
}

async fn get(connection: &mut PgConnection, id: &TaskId) -> Result<Option<DeadLetter>, sqlx::Error> {
    const SELECT: &str = "
        SELECT id, agent, generation, failed_at_ms, error_type, error_message, attempts, revision, digest, host, message
        FROM dead_letters WHERE id = $1";
    let row = sqlx::query(SELECT).bind(id.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(decoded).transpose()
}

async fn recording(connection: &mut PgConnection, id: &TaskId) -> Result<Option<Option<Bytes>>, sqlx::Error> {
    const SELECT: &str = "SELECT recording FROM dead_letters WHERE id = $1";
    let found: Option<Option<Vec<u8>>> =
        sqlx::query_scalar(SELECT).bind(id.as_str()).fetch_optional(connection).await?;
    Ok(found.map(|recording| recording.map(Bytes::from)))
}

async fn take(connection: &mut PgConnection, taken: &[Taken]) -> Result<Vec<TaskId>, sqlx::Error> {
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
            SELECT id, agent, $6, 1, LEAST(generation::bigint + 1, 2147483647)::integer, failed_at_ms FROM gone WHERE outgoing IS NOT NULL
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
        .fetch_all(connection)
        .await?;
    gone.iter().map(|id| reader::parsed(id)).collect()
}

async fn taken(connection: &mut PgConnection, agent: &AgentName) -> Result<Vec<(TaskId, u32)>, sqlx::Error> {
    const SELECT: &str = "SELECT id, generation FROM dead_letters_taken WHERE agent = $1";
    let rows = sqlx::query(SELECT).bind(agent.as_str()).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((reader::parsed(row.try_get::<&str, _>(0)?)?, generation(row, 1)?))).collect()
}

async fn agents_with_taken(connection: &mut PgConnection) -> Result<Vec<AgentName>, sqlx::Error> {
    let agents: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT agent FROM dead_letters_taken").fetch_all(connection).await?;
    agents.iter().map(|agent| reader::parsed(agent)).collect()
}

async fn forget_taken(connection: &mut PgConnection, letters: &[(TaskId, u32)]) -> Result<(), sqlx::Error> {
    const DELETE: &str = "
        DELETE FROM dead_letters_taken AS t USING unnest($1::text[], $2::integer[]) AS f (id, generation)
        WHERE t.id = f.id AND t.generation = f.generation";
    sqlx::query(DELETE)
        .bind(letters.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(|(_, generation)| signed_generation(*generation)).collect::<Vec<_>>())
        .execute(connection)
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
        recording: None,
    })
}

fn generation(row: &PgRow, index: usize) -> Result<u32, sqlx::Error> {
    Ok(u32::try_from(row.try_get::<i32, _>(index)?).unwrap_or(0))
}
