//! Look-ups, gathered into batches as writes are, and the reading of records that somebody follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tokio::sync::{mpsc, oneshot};

use super::link::{Batches, Fault, Link, Work, WriteError};
use crate::records::follow::Followers;
use crate::records::{IdHolder, Progress, Status, TaskRecord, order};
use crate::task::{Failure, Output, TaskId, UnixMs, Usage};

type Reply = oneshot::Sender<Result<Option<TaskRecord>, WriteError>>;

/// A record to look up.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) id: TaskId,
    pub(super) reply: Reply,
}

/// Look-ups that one query is made of at most.
const LOOKUPS_PER_QUERY: usize = 256;

/// Which records are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Those that are shown: all but those of tasks that ended longer ago than this.
    Shown(Duration),
    /// Only of tasks that have ended, or were redriven. Asked for each task, of which hardly any has.
    Ended,
}

/// Answers look-ups until nobody can ask any more.
pub(super) async fn run(mut link: Link, mut lookups: mpsc::Receiver<Lookup>, wanted: Wanted) {
    let mut batch = Vec::with_capacity(LOOKUPS_PER_QUERY);
    let mut batches = Batches::default();
    loop {
        if batches.recv(&mut lookups, &mut batch, LOOKUPS_PER_QUERY).await == 0 {
            return;
        }
        let mut waiting: HashMap<TaskId, Vec<Reply>> = HashMap::with_capacity(batch.len());
        for Lookup { id, reply } in batch.drain(..) {
            waiting.entry(id).or_default().push(reply);
        }
        let query = Query { waiting: Mutex::new(waiting), wanted };
        loop {
            let result = link.attempt(&query).await;
            let mut waiting = query.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = match result {
                Ok(()) => Ok(None),
                Err(Fault::Passing | Fault::Locked) => {
                    waiting.retain(|_, replies| {
                        replies.retain(|reply| !reply.is_closed());
                        !replies.is_empty()
                    });
                    if waiting.is_empty() {
                        break;
                    }
                    continue;
                }
                Err(Fault::Row(error) | Fault::Statement(error)) => Err(WriteError::Refused(error)),
            };
            // Whoever is left was not found.
            for (_, replies) in waiting.drain() {
                for reply in replies {
                    let _ = reply.send(answer.clone());
                }
            }
            break;
        }
    }
}

/// Reads followed records, while there are any.
pub(super) async fn poll(followers: Arc<Followers>, reader: mpsc::Sender<Lookup>) {
    loop {
        let Some((due, next)) = followers.due() else {
            followers.wake.notified().await;
            continue;
        };
        let mut answers = Vec::with_capacity(due.len());
        for id in due {
            let (reply, answer) = oneshot::channel();
            if reader.send(Lookup { id, reply }).await.is_err() {
                return;
            }
            answers.push(answer);
        }
        for answer in answers {
            // A failure was logged by the reader, and the next round tries again.
            if let Ok(Ok(Some(record))) = answer.await {
                followers.read(record);
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = followers.wake.notified() => {}
        }
    }
}

/// Hands out each record as it arrives, so that many large outputs are never held at once.
#[derive(Debug)]
struct Query {
    waiting: Mutex<HashMap<TaskId, Vec<Reply>>>,
    wanted: Wanted,
}

const SELECT: &str = "
    SELECT id, agent, revision, status, attempt, output_type, output, failure_kind, failure_message,
        progress_fraction, progress_note, memory_bytes_peak, cpu_us, wall_us, host_calls,
        enqueued_at_ms, started_at_ms, finished_at_ms, generation
    FROM tasks WHERE id = ANY($1)";
const SHOWN: &str = " AND (status < 3 OR updated_at > now() - make_interval(secs => $2))";
const ENDED: &str = " AND (status >= 3 OR generation > 0)";

impl Work for Query {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let ids: Vec<String> = {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.keys().map(|id| id.as_str().to_owned()).collect()
        };
        let (statement, kept_for) = match self.wanted {
            Wanted::Shown(kept_for) => ([SELECT, SHOWN].concat(), Some(kept_for)),
            Wanted::Ended => ([SELECT, ENDED].concat(), None),
        };
        let mut query = sqlx::query(&statement).bind(ids);
        if let Some(kept_for) = kept_for {
            query = query.bind(kept_for.as_secs_f64());
        }
        let mut rows = query.fetch(connection);
        while let Some(row) = rows.try_next().await? {
            let record = decoded(&row)?;
            let replies = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.id);
            for reply in replies.into_iter().flatten() {
                let _ = reply.send(Ok(Some(record.clone())));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        match self.wanted {
            // What comes back may be large.
            Wanted::Shown(_) => usize::MAX,
            Wanted::Ended => 0,
        }
    }
}

/// Whose task has this id.
pub(super) async fn holder(connection: &mut PgConnection, id: &TaskId) -> Result<Option<IdHolder>, sqlx::Error> {
    const SELECT: &str = "SELECT agent, enqueued_at_ms, status >= 3 FROM tasks WHERE id = $1";
    let found: Option<(String, i64, bool)> =
        sqlx::query_as(SELECT).bind(id.as_str()).fetch_optional(connection).await?;
    let holder = |(agent, enqueued_at_ms, has_ended): (String, i64, bool)| {
        let enqueued_at_ms = u64::try_from(enqueued_at_ms).unwrap_or(0);
        Ok(IdHolder { agent: parsed(&agent)?, enqueued_at_ms, has_ended })
    };
    found.map(holder).transpose()
}

/// A record from a row of the columns that are selected here, in their order.
pub(super) fn decoded(row: &PgRow) -> Result<TaskRecord, sqlx::Error> {
    let unsigned = |index: usize| -> Result<Option<u64>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(index)?.map(|number| UnixMs::try_from(number).unwrap_or(0)))
    };
    let output = match row.try_get::<Option<Vec<u8>>, _>(6)? {
        Some(body) => Some(Output { content_type: row.try_get(5)?, body: body.into(), ..Output::default() }),
        None => None,
    };
    let failure = match row.try_get::<Option<String>, _>(7)? {
        Some(kind) => Some(Failure { kind, message: row.try_get::<Option<String>, _>(8)?.unwrap_or_default() }),
        None => None,
    };
    let progress = match row.try_get::<Option<f32>, _>(9)? {
        Some(fraction) => Some(Progress { fraction, note: row.try_get::<Option<String>, _>(10)?.unwrap_or_default() }),
        None => None,
    };
    let usage = match (unsigned(11)?, unsigned(12)?, unsigned(13)?, unsigned(14)?) {
        (Some(memory_bytes_peak), Some(cpu_us), Some(wall_us), Some(host_calls)) => {
            Some(Usage { memory_bytes_peak, cpu_us, wall_us, host_calls })
        }
        _ => None,
    };
    Ok(TaskRecord {
        id: parsed(row.try_get(0)?)?,
        agent: parsed(row.try_get(1)?)?,
        revision: unsigned(2)?,
        status: status(row.try_get(3)?)?,
        attempt: u32::try_from(row.try_get::<i64, _>(4)?).unwrap_or(u32::MAX),
        generation: u32::try_from(row.try_get::<i32, _>(18)?).unwrap_or(0),
        output,
        failure,
        progress,
        usage,
        enqueued_at_ms: unsigned(15)?.unwrap_or(0),
        started_at_ms: unsigned(16)?,
        finished_at_ms: unsigned(17)?,
    })
}

/// A checked name from the database.
pub(super) fn parsed<T>(text: &str) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr<Err = crate::task::InvalidName>,
{
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// A status from the database.
pub(super) fn status(code: i16) -> Result<Status, sqlx::Error> {
    order::from_code(code).ok_or_else(|| sqlx::Error::Decode(format!("{code} is no status of a task").into()))
}
