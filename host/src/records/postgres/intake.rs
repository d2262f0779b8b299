//! The writer of tasks that are about to be published, and of those that then were not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::{PgConnection, Row};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::link::{Batches, Fault, Link, Work, WriteError};
use crate::records::follow::Followers;
use crate::records::{NewTask, Queued, Status, TaskRecord, order};
use crate::task::TaskId;

type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

#[derive(Debug)]
pub(super) enum Message {
    Queued { tasks: Vec<NewTask>, reply: Reply<Vec<Queued>> },
    Withdraw { ids: Vec<TaskId>, reply: Reply<()> },
}

/// Messages that one batch is made of at most.
const MESSAGES_PER_BATCH: usize = 256;

/// Tasks that one statement inserts, or little more: some 10 ms of work.
const TASKS_PER_STATEMENT: usize = 1_000;

#[derive(Debug)]
pub(super) struct Writer {
    link: Link,
    followers: Arc<Followers>,
}

impl Writer {
    pub(super) fn new(link: Link, followers: Arc<Followers>) -> Self {
        Self { link, followers }
    }

    /// Writes until it is told to close, and then what is still in the channel.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Message>, closing: CancellationToken) {
        let mut messages = Vec::with_capacity(MESSAGES_PER_BATCH);
        let mut batches = Batches::default();
        loop {
            let received = tokio::select! {
                received = batches.recv(&mut calls, &mut messages, MESSAGES_PER_BATCH) => received,
                () = closing.cancelled(), if !calls.is_closed() => {
                    // What was gathered by now is written with the rest.
                    calls.close();
                    continue;
                }
            };
            let (mut queued, mut withdrawn) = (Vec::new(), Vec::new());
            let mut tasks_gathered = 0;
            for message in messages.drain(..) {
                match message {
                    Message::Queued { tasks, reply } => {
                        tasks_gathered += tasks.len();
                        queued.push((tasks, reply));
                    }
                    Message::Withdraw { ids, reply } => withdrawn.push((ids, reply)),
                }
                if tasks_gathered >= TASKS_PER_STATEMENT {
                    self.queue(std::mem::take(&mut queued)).await;
                    tasks_gathered = 0;
                }
            }
            self.queue(queued).await;
            self.withdraw(withdrawn).await;
            if received == 0 {
                return;
            }
        }
    }

    async fn queue(&mut self, calls: Vec<(Vec<NewTask>, Reply<Vec<Queued>>)>) {
        let mut batches = vec![calls];
        while let Some(mut calls) = batches.pop() {
            // One token for every try of this batch: whoever finds it in a row knows that the row is its own, also when the
            // answer to the first try was lost.
            let claim = Uuid::new_v4();
            let mut tried_before = false;
            loop {
                calls.retain(|(_, reply)| !reply.is_closed());
                if calls.is_empty() {
                    break;
                }
                let insert = Insert::new(claim, calls.iter().flat_map(|(tasks, _)| tasks));
                let error = match self.link.attempt(&insert).await {
                    Ok(mut rows) => {
                        for (tasks, reply) in calls {
                            let answers = tasks.iter().map(|task| self.answer(task, &mut rows)).collect();
                            // Whoever stopped waiting was told so.
                            let _ = reply.send(answers);
                        }
                        break;
                    }
                    Err(Fault::Passing) => {
                        tried_before = true;
                        continue;
                    }
                    // Cut in two only where nothing of it is written: each part then has a token of its own.
                    Err(Fault::Locked) if calls.len() > 1 && !tried_before => {
                        let second = calls.split_off(calls.len() / 2);
                        batches.extend([second, calls]);
                        break;
                    }
                    // Told rather than kept waiting, with everyone behind it: whoever submits a task twice can do so again.
                    Err(Fault::Locked) => WriteError::Locked,
                    Err(Fault::Row(error) | Fault::Statement(error)) => WriteError::Refused(error),
                };
                for (_, reply) in calls {
                    let _ = reply.send(Err(error.clone()));
                }
                break;
            }
        }
    }

    fn answer(&self, task: &NewTask, rows: &mut HashMap<TaskId, Found>) -> Result<Queued, WriteError> {
        let Some(found) = rows.get_mut(&task.id) else {
            return Err(WriteError::Refused(Arc::new(sqlx::Error::RowNotFound)));
        };
        if found.body_sha256.as_ref().is_some_and(|known| *known != task.body_sha256) {
            return Ok(Queued::Conflict);
        }
        // The first of several in one batch is the new one.
        if std::mem::take(&mut found.is_ours) {
            self.followers.changed(&TaskRecord::from(task));
            return Ok(Queued::New);
        }
        Ok(Queued::Known(found.status))
    }

    async fn withdraw(&mut self, calls: Vec<(Vec<TaskId>, Reply<()>)>) {
        let mut batches = vec![calls];
        while let Some(mut calls) = batches.pop() {
            calls.retain(|(_, reply)| !reply.is_closed());
            if calls.is_empty() {
                continue;
            }
            let withdrawal = Withdrawal { ids: calls.iter().flat_map(|(ids, _)| ids).map(AsRef::as_ref).collect() };
            let result = match self.link.attempt(&withdrawal).await {
                Ok(gone) => {
                    for id in &gone {
                        self.followers.withdrawn(id);
                    }
                    Ok(())
                }
                Err(Fault::Passing) => {
                    batches.push(calls);
                    continue;
                }
                Err(Fault::Locked) if calls.len() > 1 => {
                    let second = calls.split_off(calls.len() / 2);
                    batches.extend([second, calls]);
                    continue;
                }
                Err(Fault::Locked) => Err(WriteError::Locked),
                Err(Fault::Row(error) | Fault::Statement(error)) => Err(WriteError::Refused(error)),
            };
            for (_, reply) in calls {
                let _ = reply.send(result.clone());
            }
        }
    }
}

/// What the database holds for a task after the insert.
#[derive(Debug)]
struct Found {
    status: Status,
    body_sha256: Option<[u8; 32]>,
    is_ours: bool,
}

/// Inserts queued tasks and reads those that are known, in one statement, so that nothing changes in between.
#[derive(Debug)]
struct Insert<'a> {
    claim: Uuid,
    ids: Vec<&'a str>,
    agents: Vec<&'a str>,
    body_sha256: Vec<&'a [u8]>,
    enqueued_at_ms: Vec<i64>,
    shared: Vec<bool>,
}

/// `shared` once somebody else submits the same task: then the one who made the row may not withdraw it any more.
const INSERT: &str = "
    INSERT INTO tasks AS t (id, agent, status, attempt, body_sha256, enqueued_at_ms, shared, claim)
    SELECT id, agent, 0, 1, sha, at, shared, $6::uuid
    FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::boolean[]) AS new (id, agent, sha, at, shared)
    ON CONFLICT (id) DO UPDATE SET shared = t.shared
        OR (t.claim IS DISTINCT FROM EXCLUDED.claim AND t.body_sha256 IS NOT DISTINCT FROM EXCLUDED.body_sha256)
        OR EXCLUDED.shared
    RETURNING t.id, t.status, t.body_sha256, t.claim = $6::uuid";

impl<'a> Insert<'a> {
    fn new(claim: Uuid, tasks: impl Iterator<Item = &'a NewTask>) -> Self {
        let mut tasks: Vec<&NewTask> = tasks.collect();
        // In order of the id: two hosts that insert the same tasks then wait for each other in the same order.
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        let mut insert = Self {
            claim,
            ids: Vec::with_capacity(tasks.len()),
            agents: Vec::with_capacity(tasks.len()),
            body_sha256: Vec::with_capacity(tasks.len()),
            enqueued_at_ms: Vec::with_capacity(tasks.len()),
            shared: Vec::with_capacity(tasks.len()),
        };
        for task in tasks {
            if insert.ids.last() == Some(&task.id.as_str()) {
                // A statement may touch a row only once.
                if let Some(shared) = insert.shared.last_mut() {
                    *shared = true;
                }
                continue;
            }
            insert.ids.push(task.id.as_str());
            insert.agents.push(task.agent.as_str());
            insert.body_sha256.push(&task.body_sha256);
            insert.enqueued_at_ms.push(i64::try_from(task.enqueued_at_ms).unwrap_or(i64::MAX));
            insert.shared.push(false);
        }
        insert
    }
}

impl Work for Insert<'_> {
    type Answer = HashMap<TaskId, Found>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let rows = sqlx::query(INSERT)
            .bind(&self.ids)
            .bind(&self.agents)
            .bind(&self.body_sha256)
            .bind(&self.enqueued_at_ms)
            .bind(&self.shared)
            .bind(self.claim)
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| {
                let id: TaskId = super::reader::parsed(row.try_get::<&str, _>(0)?)?;
                let status = super::reader::status(row.try_get(1)?)?;
                let body_sha256: Option<&[u8]> = row.try_get(2)?;
                let body_sha256 = body_sha256.and_then(|bytes| bytes.try_into().ok());
                let is_ours = row.try_get::<Option<bool>, _>(3)?.unwrap_or(false) && status == Status::Queued;
                Ok((id, Found { status, body_sha256, is_ours }))
            })
            .collect()
    }

    fn bytes(&self) -> usize {
        self.ids.len() * order::RECORD_BYTES
    }
}

#[derive(Debug)]
struct Withdrawal<'a> {
    ids: HashSet<&'a str>,
}

impl Work for Withdrawal<'_> {
    type Answer = Vec<TaskId>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        const DELETE: &str = "
            DELETE FROM tasks WHERE id = ANY($1) AND status = 0 AND claim IS NOT NULL AND NOT shared RETURNING id";
        let ids: Vec<&str> = self.ids.iter().copied().collect();
        let gone: Vec<String> = sqlx::query_scalar(DELETE).bind(ids).fetch_all(connection).await?;
        gone.iter().map(|id| super::reader::parsed(id)).collect()
    }

    fn bytes(&self) -> usize {
        self.ids.len() * order::RECORD_BYTES
    }
}
