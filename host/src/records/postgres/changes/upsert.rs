//! The statement that writes changes of tasks, and what leaves with their ends.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::Pending;
use crate::records::postgres::link::Work;
use crate::records::postgres::logs::Columns;
use crate::records::{DeadLetter, Outgoing, TaskRecord, UNSENT_AFTER, order};
use crate::task::TaskId;

pub(super) struct Upsert<'a> {
    pub(super) rows: &'a [Pending],
}

/// `order::supersedes` and `order::merge` in SQL, and of the ends that are written what leaves with them. Answers the ids
/// of the rows that were not written: mostly none.
const UPSERT: &str = "
    WITH written AS (
        INSERT INTO tasks AS t (id, agent, revision, status, attempt, output_type, output, failure_kind,
            failure_message, memory_bytes_peak, cpu_us, wall_us, host_calls, enqueued_at_ms, started_at_ms,
            finished_at_ms, generation)
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::smallint[], $5::bigint[], $6::text[],
            $7::bytea[], $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
            $14::bigint[], $15::bigint[], $16::bigint[], $17::integer[])
        ON CONFLICT (id) DO UPDATE SET
            revision = COALESCE(EXCLUDED.revision, t.revision),
            status = EXCLUDED.status,
            attempt = EXCLUDED.attempt,
            generation = EXCLUDED.generation,
            output_type = EXCLUDED.output_type,
            output = EXCLUDED.output,
            failure_kind = CASE WHEN EXCLUDED.status >= 3 OR EXCLUDED.failure_kind IS NOT NULL
                THEN EXCLUDED.failure_kind WHEN EXCLUDED.generation = t.generation THEN t.failure_kind END,
            failure_message = CASE WHEN EXCLUDED.status >= 3 OR EXCLUDED.failure_kind IS NOT NULL
                THEN EXCLUDED.failure_message WHEN EXCLUDED.generation = t.generation THEN t.failure_message END,
            progress_fraction = CASE WHEN EXCLUDED.generation <> t.generation
                OR (EXCLUDED.status = 1 AND (EXCLUDED.attempt <> t.attempt
                    OR COALESCE(EXCLUDED.started_at_ms, t.started_at_ms) IS DISTINCT FROM t.started_at_ms))
                THEN NULL ELSE t.progress_fraction END,
            progress_note = CASE WHEN EXCLUDED.generation <> t.generation
                OR (EXCLUDED.status = 1 AND (EXCLUDED.attempt <> t.attempt
                    OR COALESCE(EXCLUDED.started_at_ms, t.started_at_ms) IS DISTINCT FROM t.started_at_ms))
                THEN NULL ELSE t.progress_note END,
            memory_bytes_peak = COALESCE(EXCLUDED.memory_bytes_peak, t.memory_bytes_peak),
            cpu_us = COALESCE(EXCLUDED.cpu_us, t.cpu_us),
            wall_us = COALESCE(EXCLUDED.wall_us, t.wall_us),
            host_calls = COALESCE(EXCLUDED.host_calls, t.host_calls),
            started_at_ms = COALESCE(EXCLUDED.started_at_ms, t.started_at_ms),
            finished_at_ms = EXCLUDED.finished_at_ms,
            updated_at = now()
        WHERE t.agent = EXCLUDED.agent
            AND (EXCLUDED.generation > t.generation OR (EXCLUDED.generation = t.generation AND t.status < 3
                AND (EXCLUDED.status >= 3
                    OR (EXCLUDED.attempt, COALESCE(EXCLUDED.started_at_ms, t.started_at_ms, 0), EXCLUDED.status)
                        >= (t.attempt, COALESCE(t.started_at_ms, 0), t.status))))
        RETURNING id
    ), leaving AS (
        INSERT INTO outbox (id, payload, due_at)
        SELECT o.id, o.payload, now() + make_interval(secs => $18)
        FROM unnest($19::uuid[], $20::text[], $21::bytea[]) AS o (id, task, payload)
        JOIN written ON written.id = o.task
    ), listed AS (
        INSERT INTO dead_letters AS l (id, agent, generation, failed_at_ms, error_type, error_message, attempts,
            revision, digest, host, message, recording)
        SELECT d.* FROM unnest($22::text[], $23::text[], $24::integer[], $25::bigint[], $26::text[], $27::text[],
            $28::bigint[], $29::bigint[], $30::text[], $31::text[], $32::bytea[], $33::bytea[])
            AS d (id, agent, generation, failed_at_ms, error_type, error_message, attempts, revision, digest, host, message,
                recording)
        JOIN written ON written.id = d.id
        ON CONFLICT (id) DO UPDATE SET agent = EXCLUDED.agent, generation = EXCLUDED.generation,
            failed_at_ms = EXCLUDED.failed_at_ms, error_type = EXCLUDED.error_type,
            error_message = EXCLUDED.error_message, attempts = EXCLUDED.attempts, revision = EXCLUDED.revision,
            digest = EXCLUDED.digest, host = EXCLUDED.host, message = EXCLUDED.message,
            recording = EXCLUDED.recording
    ), said AS (
        INSERT INTO task_logs (task_id, run, generation, attempt, revision, host, is_cut, lines)
        SELECT s.* FROM unnest($34::text[], $35::uuid[], $36::integer[], $37::bigint[], $38::bigint[], $39::text[],
            $40::boolean[], $41::text[]) AS s (task_id, run, generation, attempt, revision, host, is_cut, lines)
        JOIN written ON written.id = s.task_id
    )
    SELECT new.id FROM unnest($1::text[]) AS new (id)
    WHERE NOT EXISTS (SELECT FROM written WHERE written.id = new.id)";

impl<'a> Upsert<'a> {
    fn column<T>(&self, value: impl Fn(&'a TaskRecord) -> T) -> Vec<T> {
        self.rows.iter().map(|pending| value(&pending.row.change)).collect()
    }

    fn outgoing<T>(&self, value: impl Fn(&'a TaskId, &'a Outgoing) -> T) -> Vec<T> {
        let of_row = |Pending { row, .. }: &'a Pending| row.outgoing.iter().map(|outgoing| (&row.change.id, outgoing));
        self.rows.iter().flat_map(of_row).map(|(id, outgoing)| value(id, outgoing)).collect()
    }

    fn letters<T>(&self, value: impl Fn(&'a DeadLetter) -> T) -> Vec<T> {
        self.rows.iter().filter_map(|pending| pending.row.dead_letter.as_ref()).map(value).collect()
    }
}

/// PostgreSQL has no unsigned numbers; a nonsensical one from a message is cut off rather than refused.
pub(in crate::records::postgres) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The same for a generation.
pub(in crate::records::postgres) fn signed_generation(generation: u32) -> i32 {
    i32::try_from(generation).unwrap_or(i32::MAX)
}

impl Work for Upsert<'_> {
    type Answer = HashSet<String>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let logs = Columns::of(self.rows.iter().filter_map(|pending| pending.row.log.as_ref()));
        let unwritten: Vec<String> = sqlx::query_scalar(UPSERT)
            .bind(self.column(|change| change.id.as_str()))
            .bind(self.column(|change| change.agent.as_str()))
            .bind(self.column(|change| change.revision.map(signed)))
            .bind(self.column(|change| order::code(change.status)))
            .bind(self.column(|change| i64::from(change.attempt)))
            .bind(self.column(|change| change.output.as_ref().and_then(|output| output.content_type.as_deref())))
            .bind(self.column(|change| change.output.as_ref().map(|output| output.body.as_ref())))
            .bind(self.column(|change| change.failure.as_ref().map(|failure| failure.kind.as_str())))
            .bind(self.column(|change| change.failure.as_ref().map(|failure| failure.message.as_str())))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.memory_bytes_peak))))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.cpu_us))))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.wall_us))))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.host_calls))))
            .bind(self.column(|change| signed(change.enqueued_at_ms)))
            .bind(self.column(|change| change.started_at_ms.map(signed)))
            .bind(self.column(|change| change.finished_at_ms.map(signed)))
            .bind(self.column(|change| signed_generation(change.generation)))
            .bind(UNSENT_AFTER.as_secs_f64())
            .bind(self.outgoing(|_, outgoing| outgoing.id))
            .bind(self.outgoing(|id, _| id.as_str()))
            .bind(self.outgoing(|_, outgoing| outgoing.payload.as_ref()))
            .bind(self.letters(|letter| letter.id.as_str()))
            .bind(self.letters(|letter| letter.agent.as_str()))
            .bind(self.letters(|letter| signed_generation(letter.generation)))
            .bind(self.letters(|letter| signed(letter.failed_at_ms)))
            .bind(self.letters(|letter| letter.error_type.as_str()))
            .bind(self.letters(|letter| letter.error_message.as_str()))
            .bind(self.letters(|letter| i64::from(letter.attempts)))
            .bind(self.letters(|letter| letter.revision.map(signed)))
            .bind(self.letters(|letter| letter.digest.as_deref()))
            .bind(self.letters(|letter| letter.host.as_str()))
            .bind(self.letters(|letter| letter.message.as_ref()))
            .bind(self.letters(|letter| letter.recording.as_deref()))
            .bind(logs.task_ids)
            .bind(logs.runs)
            .bind(logs.generations)
            .bind(logs.attempts)
            .bind(logs.revisions)
            .bind(logs.hosts)
            .bind(logs.are_cut)
            .bind(logs.lines)
            .fetch_all(connection)
            .await?;
        Ok(unwritten.into_iter().collect())
    }

    fn bytes(&self) -> usize {
        self.rows.iter().map(|pending| pending.row.weight()).sum()
    }
}

/// Which of these ends are what the database holds.
pub(super) struct WrittenBefore<'a> {
    pub(super) rows: &'a [Pending],
}

impl Work for WrittenBefore<'_> {
    type Answer = Vec<String>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
        const SELECT: &str = "
            SELECT t.id FROM tasks AS t
            JOIN unnest($1::text[], $2::integer[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[])
                AS end_ (id, generation, status, attempt, started, finished, agent)
                ON end_.id = t.id AND end_.agent = t.agent
            WHERE t.status >= 3 AND t.generation = end_.generation AND t.status = end_.status
                AND t.attempt = end_.attempt AND t.started_at_ms IS NOT DISTINCT FROM end_.started
                AND t.finished_at_ms IS NOT DISTINCT FROM end_.finished";
        let rows = Upsert { rows: self.rows };
        sqlx::query_scalar(SELECT)
            .bind(rows.column(|change| change.id.as_str()))
            .bind(rows.column(|change| signed_generation(change.generation)))
            .bind(rows.column(|change| order::code(change.status)))
            .bind(rows.column(|change| i64::from(change.attempt)))
            .bind(rows.column(|change| change.started_at_ms.map(signed)))
            .bind(rows.column(|change| change.finished_at_ms.map(signed)))
            .bind(rows.column(|change| change.agent.as_str()))
            .fetch_all(connection)
            .await
    }

    fn bytes(&self) -> usize {
        self.rows.len() * order::RECORD_BYTES
    }
}
