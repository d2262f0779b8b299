//! The writers of what became of tasks: of their ends, which somebody waits for, and of the notes on the way.
//!
//! A row may be held by the transaction of its own task, whose commit runs triggers of the agent's. So no statement waits
//! for a row for long. A batch with such a row is cut until the row is alone: a note is then dropped, and an end is handed
//! to the writer of notes, which tries it again and again, so that nobody else's end waits for it.

mod notes;
mod upsert;

pub(super) use notes::NotesWriter;
pub(super) use upsert::{signed, signed_generation};

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::upsert::{Upsert, WrittenBefore};
use super::link::{Batches, Fault, Link, Work, WriteError};
use super::noted::Sent;
use crate::records::follow::Followers;
use crate::records::{DeadLetter, Ended, Ending, Outgoing, TaskLog, TaskRecord, order};

/// What is written of a task.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) change: TaskRecord,
    pub(super) outgoing: Vec<Outgoing>,
    pub(super) dead_letter: Option<DeadLetter>,
    pub(super) log: Option<TaskLog>,
}

impl Row {
    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        let said = self.log.as_ref().map_or(0, TaskLog::weight);
        order::weight(&self.change) + order::extra_weight(&self.outgoing, self.dead_letter.as_ref()) + said
    }
}

impl From<&Ending> for Row {
    fn from(Ending { update, outgoing, dead_letter, log }: &Ending) -> Self {
        let change = TaskRecord::from(update.clone());
        Self { change, outgoing: outgoing.clone(), dead_letter: dead_letter.clone(), log: log.clone() }
    }
}

/// The end of a task, on its way to the database.
#[derive(Debug)]
pub(super) struct Finished {
    /// Boxed: it is moved from queue to queue, and sorted.
    pub(super) row: Box<Row>,
    pub(super) reply: oneshot::Sender<Result<Ended, WriteError>>,
    /// Its share of the bytes that may wait.
    pub(super) allowance: OwnedSemaphorePermit,
}

/// Ends that one batch is made of at most. Measured, a batch of 500 rows takes 8 ms and one of 1000 11 ms; larger ones
/// write no more rows a second.
const ENDS_PER_BATCH: usize = 512;

/// Bytes that one statement carries, unless a single record is larger.
const STATEMENT_BYTES_MAX: usize = 4 << 20;

/// How often messages that have left are removed from the outbox.
const SENT_EVERY: Duration = Duration::from_millis(50);

/// Writes ends.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) lane: Lane,
    /// Ends whose rows somebody else holds. Unbounded, for each has its share of the bytes that may wait.
    pub(super) stuck: mpsc::UnboundedSender<Statement>,
    pub(super) sent: Arc<Sent>,
}

/// A connection on which changes are written.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) link: Link,
    pub(super) followers: Arc<Followers>,
    pub(super) notes_dropped: Arc<AtomicU64>,
}

/// Rows that are written together.
#[derive(Debug)]
pub(super) struct Statement {
    rows: Vec<Pending>,
    /// Whether a try may have been committed.
    tried_before: bool,
}

/// One row to write, and who waits for it.
#[derive(Debug)]
struct Pending {
    row: Box<Row>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Result<Ended, WriteError>>,
    _allowance: OwnedSemaphorePermit,
    /// Whether the row is this one's end; otherwise another end of the same task came before it.
    is_its_end: bool,
}

impl Pending {
    fn note(change: TaskRecord) -> Self {
        Self { row: Box::new(Row { change, outgoing: Vec::new(), dead_letter: None, log: None }), waiting: Vec::new() }
    }
}

impl From<Finished> for Pending {
    fn from(finished: Finished) -> Self {
        let Finished { row, reply, allowance } = finished;
        Self { row, waiting: vec![Waiting { reply, _allowance: allowance, is_its_end: true }] }
    }
}

impl Writer {
    /// Writes until it is told to close, and then what is still in the channel.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Finished>, closing: CancellationToken) {
        let mut ends = Vec::with_capacity(ENDS_PER_BATCH);
        let mut batches = Batches::default();
        loop {
            let mut is_over = false;
            tokio::select! {
                received = batches.recv(&mut calls, &mut ends, ENDS_PER_BATCH) => is_over = received == 0,
                () = tokio::time::sleep(SENT_EVERY) => {}
                () = closing.cancelled(), if !calls.is_closed() => {
                    calls.close();
                    continue;
                }
            }
            let pending = ends.drain(..).map(Pending::from).collect();
            for stuck in self.lane.write(statements(pending)).await {
                // The other writer outlives this one.
                let _ = self.stuck.send(stuck);
            }
            let sent = self.sent.take();
            if !sent.is_empty() {
                self.forget_sent(&sent).await;
            }
            if is_over {
                return;
            }
        }
    }

    /// Removes messages that have left from the outbox. What cannot be removed now is sent again, which changes nothing.
    async fn forget_sent(&mut self, sent: &[Uuid]) {
        if let Err(fault) = self.lane.link.attempt(&Forget { sent }).await {
            tracing::warn!(?fault, messages = sent.len(), "messages that were sent stay in the outbox");
        }
    }
}

impl Lane {
    /// Writes, in as many statements as it takes. Answers those rows, one by one, that somebody else holds and that somebody
    /// waits for.
    async fn write(&mut self, mut statements: Vec<Statement>) -> Vec<Statement> {
        let mut stuck = Vec::new();
        while let Some(Statement { mut rows, tried_before }) = statements.pop() {
            match self.attempt(&rows, tried_before).await {
                Ok(unwritten) => self.settle(rows, &unwritten),
                Err(Fault::Passing) => {
                    self.drop_unawaited(&mut rows);
                    if !rows.is_empty() {
                        statements.push(Statement { rows, tried_before: true });
                    }
                }
                Err(Fault::Locked | Fault::Row(_)) if rows.len() > 1 => {
                    let second = rows.split_off(rows.len() / 2);
                    statements.extend([second, rows].map(|rows| Statement { rows, tried_before }));
                }
                Err(Fault::Locked) => {
                    self.drop_unawaited(&mut rows);
                    if !rows.is_empty() {
                        stuck.push(Statement { rows, tried_before });
                    }
                }
                Err(Fault::Row(error) | Fault::Statement(error)) => {
                    tracing::error!(%error, tasks = rows.len(), "task records: the database refuses them");
                    for waiting in rows.into_iter().flat_map(|row| row.waiting) {
                        let _ = waiting.reply.send(Err(WriteError::Refused(Arc::clone(&error))));
                    }
                }
            }
        }
        stuck
    }

    /// Leaves the rows that somebody still waits for. Notes nobody waits for: their tasks are still running, or their ends
    /// are about to come.
    fn drop_unawaited(&self, rows: &mut Vec<Pending>) {
        let before = rows.len();
        for row in &mut *rows {
            row.waiting.retain(|waiting| !waiting.reply.is_closed());
        }
        rows.retain(|row| !row.waiting.is_empty());
        self.notes_dropped.fetch_add((before - rows.len()) as u64, Ordering::Relaxed);
    }

    /// Writes rows once. Answers those for which something later is there.
    async fn attempt(&mut self, rows: &[Pending], tried_before: bool) -> Result<HashSet<String>, Fault> {
        let mut unwritten = self.link.attempt(&Upsert { rows }).await?;
        if tried_before && !unwritten.is_empty() {
            // The first try may have been committed, with its answer lost: then what is there is what was written.
            for id in self.link.attempt(&WrittenBefore { rows }).await? {
                unwritten.remove(&id);
            }
        }
        Ok(unwritten)
    }

    fn settle(&self, rows: Vec<Pending>, unwritten: &HashSet<String>) {
        for Pending { row, waiting } in rows {
            let is_written = !unwritten.contains(row.change.id.as_str());
            if is_written {
                self.followers.changed(&row.change);
            } else {
                self.followers.read_soon(&row.change.id);
            }
            for waiting in waiting {
                let ended = if is_written && waiting.is_its_end { Ended::Now } else { Ended::Before };
                // Whoever stopped waiting was told so.
                let _ = waiting.reply.send(Ok(ended));
            }
        }
    }
}

/// Several changes of one task become one, for a statement may touch a row only once. In order of the id, so that two
/// hosts that write the same tasks wait for each other in the same order. (Two agents' tasks of one id stay two.)
fn coalesced(mut pending: Vec<Pending>) -> Vec<Pending> {
    // Stable: what came first stays first.
    pending.sort_by(|a, b| (&a.row.change.id, &a.row.change.agent).cmp(&(&b.row.change.id, &b.row.change.agent)));
    let mut rows: Vec<Pending> = Vec::with_capacity(pending.len());
    for next in pending {
        match rows.last_mut() {
            Some(last)
                if (&last.row.change.id, &last.row.change.agent) == (&next.row.change.id, &next.row.change.agent) =>
            {
                let Pending { row, waiting } = next;
                let supersedes = order::supersedes(&row.change, &last.row.change);
                if supersedes {
                    order::merge(&mut last.row.change, &row.change);
                    last.waiting.iter_mut().for_each(|waiting| waiting.is_its_end = false);
                    (last.row.outgoing, last.row.dead_letter) = (row.outgoing, row.dead_letter);
                    last.row.log = row.log;
                }
                let joining = waiting.into_iter();
                last.waiting.extend(joining.map(|waiting| Waiting { is_its_end: supersedes, ..waiting }));
            }
            Some(_) | None => rows.push(next),
        }
    }
    rows
}

/// Statements of bounded size.
fn statements(pending: Vec<Pending>) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    let mut bytes = 0;
    for pending in coalesced(pending) {
        let weight = pending.row.weight();
        match statements.last_mut() {
            // Of two agents' tasks under one id the second is for the next statement.
            Some(statement)
                if bytes + weight <= STATEMENT_BYTES_MAX
                    && statement.rows.last().is_none_or(|last| last.row.change.id != pending.row.change.id) =>
            {
                statement.rows.push(pending);
                bytes += weight;
            }
            Some(_) | None => {
                statements.push(Statement { rows: vec![pending], tried_before: false });
                bytes = weight;
            }
        }
    }
    statements
}

struct Forget<'a> {
    sent: &'a [Uuid],
}

impl Work for Forget<'_> {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM outbox WHERE id = ANY($1)").bind(self.sent).execute(connection).await.map(drop)
    }

    fn bytes(&self) -> usize {
        size_of_val(self.sent)
    }
}
