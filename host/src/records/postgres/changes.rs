//! The writer of what became of tasks: their ends, which somebody waits for, and the notes on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::link::{Fault, Link, Work, WriteError};
use super::noted::Noted;
use crate::records::follow::Followers;
use crate::records::{Progress, TaskRecord, order};
use crate::task::TaskId;

/// The end of a task, on its way to the database.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) change: TaskRecord,
    pub(super) reply: oneshot::Sender<Result<(), WriteError>>,
    /// Its share of the bytes that may wait.
    pub(super) allowance: OwnedSemaphorePermit,
}

/// Ends that one batch is made of at most. Measured, a batch of 500 rows takes 8 ms and one of 1000 11 ms; larger ones
/// write no more rows a second.
const ENDS_PER_BATCH: usize = 512;

/// Bytes that one statement carries, unless a single record is larger.
const STATEMENT_BYTES_MAX: usize = 4 << 20;

/// How often notes that have been kept back long enough are looked for.
const NOTES_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) link: Link,
    pub(super) noted: Arc<Noted>,
    pub(super) followers: Arc<Followers>,
    pub(super) notes_dropped: Arc<AtomicU64>,
}

/// One row to write, and who waits for it.
#[derive(Debug)]
struct Pending {
    change: TaskRecord,
    waiting: Vec<(oneshot::Sender<Result<(), WriteError>>, OwnedSemaphorePermit)>,
}

impl Writer {
    /// Writes until it is told to close, and then what is still in the channel and every note.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Finished>, closing: CancellationToken) {
        let mut ends = Vec::with_capacity(ENDS_PER_BATCH);
        let mut notes_at = Instant::now();
        loop {
            let mut is_over = false;
            tokio::select! {
                received = calls.recv_many(&mut ends, ENDS_PER_BATCH) => is_over = received == 0,
                () = tokio::time::sleep_until(notes_at.into()) => {}
                () = closing.cancelled(), if !calls.is_closed() => {
                    calls.close();
                    continue;
                }
            }
            let mut progress = Vec::new();
            let mut pending = Vec::with_capacity(ends.len());
            if is_over || notes_at <= Instant::now() {
                notes_at = Instant::now() + NOTES_EVERY;
                for (id, note) in self.noted.take(is_over) {
                    pending.extend(note.change.map(|change| Pending { change, waiting: Vec::new() }));
                    progress.extend(note.progress.map(|progress| (id, progress)));
                }
            }
            pending.extend(
                ends.drain(..)
                    .map(|Finished { change, reply, allowance }| Pending { change, waiting: vec![(reply, allowance)] }),
            );
            if !pending.is_empty() {
                self.write(coalesced(pending)).await;
            }
            if !progress.is_empty() {
                self.write_progress(progress).await;
            }
            if is_over {
                return;
            }
        }
    }

    async fn write(&mut self, pending: Vec<Pending>) {
        let mut statements = cut(pending);
        while let Some(mut rows) = statements.pop() {
            match self.link.attempt(&Upsert { rows: &rows }).await {
                Ok(written) => self.settle(rows, written),
                Err(Fault::Passing) => {
                    let before = rows.len();
                    for row in &mut rows {
                        row.waiting.retain(|(reply, _)| !reply.is_closed());
                    }
                    // Notes nobody waits for: their tasks are still running, or their ends are about to come.
                    rows.retain(|row| !row.waiting.is_empty());
                    self.notes_dropped.fetch_add((before - rows.len()) as u64, Ordering::Relaxed);
                    if !rows.is_empty() {
                        statements.push(rows);
                    }
                }
                Err(Fault::Row(_)) if rows.len() > 1 => {
                    let second = rows.split_off(rows.len() / 2);
                    statements.extend([second, rows]);
                }
                Err(Fault::Row(error) | Fault::Statement(error)) => {
                    tracing::error!(%error, tasks = rows.len(), "task records: the database refuses them");
                    for (reply, _) in rows.into_iter().flat_map(|row| row.waiting) {
                        let _ = reply.send(Err(WriteError::Refused(Arc::clone(&error))));
                    }
                }
            }
        }
    }

    fn settle(&self, rows: Vec<Pending>, written: u64) {
        // Some were refused because something later is there; which ones, only a look can tell.
        let all_written = written == rows.len() as u64;
        for row in rows {
            if all_written {
                self.followers.changed(&row.change);
            } else {
                self.followers.read_soon(&row.change.id);
            }
            for (reply, allowance) in row.waiting {
                drop(allowance);
                // Whoever stopped waiting was told so.
                let _ = reply.send(Ok(()));
            }
        }
    }

    async fn write_progress(&mut self, mut progress: Vec<(TaskId, Progress)>) {
        progress.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Err(fault) = self.link.attempt(&ProgressUpdate { progress: &progress }).await {
            tracing::warn!(?fault, tasks = progress.len(), "task records: progress is not written");
            self.notes_dropped.fetch_add(progress.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Several changes of one task become one, for a statement may touch a row only once. In order of the id, so that two
/// hosts that write the same tasks wait for each other in the same order.
fn coalesced(mut pending: Vec<Pending>) -> Vec<Pending> {
    pending.sort_by(|a, b| a.change.id.cmp(&b.change.id));
    let mut rows: Vec<Pending> = Vec::with_capacity(pending.len());
    for next in pending {
        match rows.last_mut() {
            Some(last) if last.change.id == next.change.id => {
                if order::supersedes(&next.change, &last.change) {
                    order::merge(&mut last.change, &next.change);
                }
                last.waiting.extend(next.waiting);
            }
            Some(_) | None => rows.push(next),
        }
    }
    rows
}

/// Cuts a batch into statements of bounded size.
fn cut(pending: Vec<Pending>) -> Vec<Vec<Pending>> {
    let mut statements = vec![Vec::with_capacity(pending.len())];
    let mut bytes = 0;
    for row in pending {
        let weight = order::weight(&row.change);
        if bytes > 0 && bytes + weight > STATEMENT_BYTES_MAX {
            statements.push(Vec::new());
            bytes = 0;
        }
        bytes += weight;
        if let Some(statement) = statements.last_mut() {
            statement.push(row);
        }
    }
    statements
}

struct Upsert<'a> {
    rows: &'a [Pending],
}

/// `order::supersedes` and `order::merge` in SQL.
const UPSERT: &str = "
    INSERT INTO tasks AS t (id, agent, revision, status, attempt, output_type, output, failure_kind, failure_message,
        memory_bytes_peak, cpu_us, wall_us, host_calls, enqueued_at_ms, started_at_ms, finished_at_ms)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::smallint[], $5::bigint[], $6::text[], $7::bytea[],
        $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
        $15::bigint[], $16::bigint[])
    ON CONFLICT (id) DO UPDATE SET
        revision = COALESCE(EXCLUDED.revision, t.revision),
        status = EXCLUDED.status,
        attempt = EXCLUDED.attempt,
        output_type = EXCLUDED.output_type,
        output = EXCLUDED.output,
        failure_kind = CASE WHEN EXCLUDED.status >= 3 OR EXCLUDED.failure_kind IS NOT NULL
            THEN EXCLUDED.failure_kind ELSE t.failure_kind END,
        failure_message = CASE WHEN EXCLUDED.status >= 3 OR EXCLUDED.failure_kind IS NOT NULL
            THEN EXCLUDED.failure_message ELSE t.failure_message END,
        progress_fraction = CASE WHEN EXCLUDED.status = 1 AND (EXCLUDED.attempt <> t.attempt
            OR COALESCE(EXCLUDED.started_at_ms, t.started_at_ms) IS DISTINCT FROM t.started_at_ms)
            THEN NULL ELSE t.progress_fraction END,
        progress_note = CASE WHEN EXCLUDED.status = 1 AND (EXCLUDED.attempt <> t.attempt
            OR COALESCE(EXCLUDED.started_at_ms, t.started_at_ms) IS DISTINCT FROM t.started_at_ms)
            THEN NULL ELSE t.progress_note END,
        memory_bytes_peak = COALESCE(EXCLUDED.memory_bytes_peak, t.memory_bytes_peak),
        cpu_us = COALESCE(EXCLUDED.cpu_us, t.cpu_us),
        wall_us = COALESCE(EXCLUDED.wall_us, t.wall_us),
        host_calls = COALESCE(EXCLUDED.host_calls, t.host_calls),
        started_at_ms = COALESCE(EXCLUDED.started_at_ms, t.started_at_ms),
        finished_at_ms = EXCLUDED.finished_at_ms,
        updated_at = now()
    WHERE t.status < 3 AND (EXCLUDED.status >= 3
        OR (EXCLUDED.attempt, COALESCE(EXCLUDED.started_at_ms, t.started_at_ms, 0), EXCLUDED.status)
            >= (t.attempt, COALESCE(t.started_at_ms, 0), t.status))";

impl Upsert<'_> {
    fn column<T>(&self, value: impl Fn(&TaskRecord) -> T) -> Vec<T> {
        self.rows.iter().map(|row| value(&row.change)).collect()
    }

    /// The same with the rows' lifetime, for what is borrowed from them.
    fn borrowed<'b, T>(&'b self, value: impl Fn(&'b TaskRecord) -> T) -> Vec<T> {
        self.rows.iter().map(|row| value(&row.change)).collect()
    }
}

/// PostgreSQL has no unsigned numbers; a nonsensical one from a message is cut off rather than refused.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Work for Upsert<'_> {
    type Answer = u64;

    async fn run(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        sqlx::query(UPSERT)
            .bind(self.borrowed(|change| change.id.as_str()))
            .bind(self.borrowed(|change| change.agent.as_str()))
            .bind(self.column(|change| change.revision.map(signed)))
            .bind(self.column(|change| order::code(change.status)))
            .bind(self.column(|change| i64::from(change.attempt)))
            .bind(self.borrowed(|change| change.output.as_ref().and_then(|output| output.content_type.as_deref())))
            .bind(self.borrowed(|change| change.output.as_ref().map(|output| output.body.as_ref())))
            .bind(self.borrowed(|change| change.failure.as_ref().map(|failure| failure.kind.as_str())))
            .bind(self.borrowed(|change| change.failure.as_ref().map(|failure| failure.message.as_str())))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.memory_bytes_peak))))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.cpu_us))))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.wall_us))))
            .bind(self.column(|change| change.usage.map(|usage| signed(usage.host_calls))))
            .bind(self.column(|change| signed(change.enqueued_at_ms)))
            .bind(self.column(|change| change.started_at_ms.map(signed)))
            .bind(self.column(|change| change.finished_at_ms.map(signed)))
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
    }

    fn bytes(&self) -> usize {
        self.rows.iter().map(|row| order::weight(&row.change)).sum()
    }
}

struct ProgressUpdate<'a> {
    progress: &'a [(TaskId, Progress)],
}

impl Work for ProgressUpdate<'_> {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        const UPDATE: &str = "
            UPDATE tasks AS t SET progress_fraction = p.fraction, progress_note = p.note, updated_at = now()
            FROM unnest($1::text[], $2::real[], $3::text[]) AS p (id, fraction, note)
            WHERE t.id = p.id AND t.status = 1";
        sqlx::query(UPDATE)
            .bind(self.progress.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
            .bind(self.progress.iter().map(|(_, progress)| progress.fraction).collect::<Vec<_>>())
            .bind(self.progress.iter().map(|(_, progress)| progress.note.as_str()).collect::<Vec<_>>())
            .execute(connection)
            .await
            .map(drop)
    }

    fn bytes(&self) -> usize {
        self.progress.iter().map(|(_, progress)| progress.note.len()).sum()
    }
}
