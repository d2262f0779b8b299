//! Records in PostgreSQL, for a fleet.
//!
//! No task pays a round trip of its own. Three writers own one connection each and write whatever has gathered while the
//! last statement ran ([`intake`]: tasks about to be published; [`changes`]: their ends, and apart from those what is noted
//! on the way); a reader does the same for look-ups ([`reader`]). Under load the batches grow by themselves, without it a
//! record is written at once. None waits for a row that an agent's transaction holds.
//!
//! A lost connection loses nothing that somebody waits for: the batch is written again, which the statements allow for,
//! until it succeeds or its callers have waited for [`PostgresSettings::wait_max`].

mod cancel;
mod changes;
mod dead_letters;
mod end_task;
mod intake;
mod link;
mod logs;
mod noted;
mod outbox;
mod prune;
mod reader;
mod search;
mod seldom;
mod suspects;

pub use end_task::EndTask;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::link::{LOCK_TIMEOUT, Link, WriteError};
use self::seldom::Seldom;
use super::follow::Followers;
use super::{
    Cancelled, Ended, Ending, INBOX_RETENTION_DEFAULT, IdHolder, Inbox, NewTask, Progress, Queued, RETENTION_DEFAULT,
    Records, RecordsError, TaskCursor, TaskFilter, TaskLog, TaskPage, TaskRecord, TaskRecords, Update, order,
};
use crate::store::{HostDatabase, StoreError};
use crate::task::{TaskId, UnixMs};

/// How the records are kept.
#[derive(Clone, Copy, Debug)]
pub struct PostgresSettings {
    /// How long a record is shown after its task's end.
    pub retention: Duration,
    /// How long an ended task is remembered, so that it is not run again; never shorter than the retention.
    pub inbox_retention: Duration,
    /// How long a call waits for a database that is away before it fails.
    pub wait_max: Duration,
}

impl Default for PostgresSettings {
    /// 24 hours and 7 days; and 20 seconds: a busy server that crashed was seen to recover for nine, and HTTP clients mostly wait
    /// for 30 or 60.
    fn default() -> Self {
        Self {
            retention: RETENTION_DEFAULT,
            inbox_retention: INBOX_RETENTION_DEFAULT,
            wait_max: Duration::from_secs(20),
        }
    }
}

/// Calls that may wait for each writer and for the reader; past it the callers wait to be let in.
const CALLS_WAITING_MAX: usize = 4_096;

/// Bytes of records (outputs mostly) that may wait to be written; past it the callers wait. An output may be 15 MiB,
/// and the memory of the host is bounded.
const WRITE_BYTES_WAITING_MAX: usize = 32 << 20;

/// How long the question whether a task has ended waits for a database that is away. Short, because tasks that need no
/// database go on without an answer, and those that need one are put off.
const ENDED_WAIT_MAX: Duration = Duration::from_secs(2);

/// New tasks that one message to the writer carries; a larger submission is cut into such pieces.
const NEW_TASKS_PER_MESSAGE: usize = 500;

/// Task records in PostgreSQL.
#[derive(Debug)]
pub struct PostgresRecords {
    settings: PostgresSettings,
    intake: mpsc::Sender<intake::Message>,
    changes: mpsc::Sender<changes::Finished>,
    reader: mpsc::Sender<reader::Lookup>,
    ends: mpsc::Sender<reader::Lookup>,
    seldom: Seldom,
    noted: Arc<noted::Noted>,
    sent: Arc<noted::Sent>,
    followers: Arc<Followers>,
    bytes: Arc<Semaphore>,
    notes_dropped: Arc<AtomicU64>,
    closing: CancellationToken,
    writers: Mutex<Vec<JoinHandle<()>>>,
    /// Ends the tasks of records that are dropped without being closed.
    _closes: DropGuard,
}

impl PostgresRecords {
    /// Connects, and starts the writers, the reader and the pruning on the calling runtime.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn start(database: &HostDatabase, settings: PostgresSettings) -> Result<Self, StoreError> {
        let closing = CancellationToken::new();
        let followers = Arc::new(Followers::default());
        let noted = Arc::new(noted::Noted::default());
        let notes_dropped = Arc::new(AtomicU64::new(0));
        let (intake, intake_calls) = mpsc::channel(CALLS_WAITING_MAX);
        let (changes, changes_calls) = mpsc::channel(CALLS_WAITING_MAX);
        let (reader, lookups) = mpsc::channel(CALLS_WAITING_MAX);
        let (ends, ends_lookups) = mpsc::channel(CALLS_WAITING_MAX);
        let sent = Arc::new(noted::Sent::default());
        // What these write is of many agents' tasks, and one agent may hold the row of a task of its own.
        let impatient = database.with_lock_timeout(LOCK_TIMEOUT);
        let intake_writer = intake::Writer::new(Link::open(&impatient, "intake").await?, Arc::clone(&followers));
        let lane = async |purpose| {
            let link = Link::open(&impatient, purpose).await?;
            let (followers, notes_dropped) = (Arc::clone(&followers), Arc::clone(&notes_dropped));
            Ok::<_, StoreError>(changes::Lane { link, followers, notes_dropped })
        };
        let (stuck, stuck_ends) = mpsc::unbounded_channel();
        let changes_writer = changes::Writer { lane: lane("changes").await?, stuck, sent: Arc::clone(&sent) };
        let notes_writer =
            changes::NotesWriter { lane: lane("notes").await?, noted: Arc::clone(&noted), stuck: stuck_ends };
        let look_up =
            reader::run(Link::open(database, "reader").await?, lookups, reader::Wanted::Shown(settings.retention));
        let look_for_ends = reader::run(Link::open(database, "inbox").await?, ends_lookups, reader::Wanted::Ended);
        let writers = vec![
            tokio::spawn(intake_writer.run(intake_calls, closing.clone())),
            tokio::spawn(changes_writer.run(changes_calls, closing.clone())),
            tokio::spawn(notes_writer.run()),
        ];
        tokio::spawn(closing.clone().run_until_cancelled_owned(look_up));
        tokio::spawn(closing.clone().run_until_cancelled_owned(look_for_ends));
        let poll = reader::poll(Arc::clone(&followers), reader.clone());
        tokio::spawn(closing.clone().run_until_cancelled_owned(poll));
        let prune = prune::run(database.clone(), settings);
        tokio::spawn(closing.clone().run_until_cancelled_owned(prune));
        Ok(Self {
            settings,
            intake,
            changes,
            reader,
            ends,
            seldom: Seldom::new(database),
            noted,
            sent,
            followers,
            bytes: Arc::new(Semaphore::new(WRITE_BYTES_WAITING_MAX)),
            notes_dropped,
            _closes: closing.clone().drop_guard(),
            closing,
            writers: Mutex::new(writers),
        })
    }

    /// How many noted changes were given up since the start: the database was away, or too many waited.
    #[must_use]
    pub fn notes_dropped(&self) -> u64 {
        self.notes_dropped.load(Ordering::Relaxed)
    }

    /// Sends one message to a task behind a channel, and waits for its answer up to the time limit.
    fn ask<'a, M: Send, T: Send>(
        &'a self,
        action: &'static str,
        channel: &'a mpsc::Sender<M>,
        message: impl FnOnce(oneshot::Sender<Result<T, WriteError>>) -> M,
    ) -> impl Future<Output = Result<T, RecordsError>> + Send {
        Self::ask_within(self.settings.wait_max, action, channel, message)
    }

    /// Sends where there is room, which is nearly always, before it gives the future: that then holds no message.
    fn ask_within<M: Send, T: Send>(
        wait_max: Duration,
        action: &'static str,
        channel: &mpsc::Sender<M>,
        message: impl FnOnce(oneshot::Sender<Result<T, WriteError>>) -> M,
    ) -> impl Future<Output = Result<T, RecordsError>> + Send {
        let (reply, answer) = oneshot::channel();
        let waits = channel.try_send(message(reply)).err().map(|unsent| Box::pin(channel.send(unsent.into_inner())));
        let asked = async move {
            if let Some(sent) = waits {
                sent.await.map_err(|_| WriteError::Closed)?;
            }
            answer.await.map_err(|_| WriteError::Closed)?
        };
        let answered = tokio::time::timeout(wait_max, asked);
        answered.map(move |answered| answered.unwrap_or(Err(WriteError::Waited(wait_max))).map_err(failed(action)))
    }

    /// Writes an end where the bytes that wait leave room for it, otherwise gives it back.
    fn write(
        &self,
        row: Box<changes::Row>,
    ) -> Result<impl Future<Output = Result<Ended, RecordsError>> + Send, Box<changes::Row>> {
        match Arc::clone(&self.bytes).try_acquire_many_owned(allowance(&row)) {
            Ok(allowance) => Ok(self.write_within(row, allowance)),
            Err(_) => Err(row),
        }
    }

    fn write_within(
        &self,
        row: Box<changes::Row>,
        allowance: OwnedSemaphorePermit,
    ) -> impl Future<Output = Result<Ended, RecordsError>> + Send {
        self.ask("written", &self.changes, |reply| changes::Finished { row, reply, allowance })
    }

    /// Writes an end once there is room for it.
    async fn write_later(&self, row: Box<changes::Row>) -> Result<Ended, RecordsError> {
        let wait_max = self.settings.wait_max;
        let allowance = Arc::clone(&self.bytes).acquire_many_owned(allowance(&row));
        match tokio::time::timeout(wait_max, allowance).await {
            Ok(Ok(allowance)) => self.write_within(row, allowance).await,
            Ok(Err(_)) | Err(_) => Err(failed("written")(WriteError::Waited(wait_max))),
        }
    }
}

fn failed(action: &'static str) -> impl Fn(WriteError) -> RecordsError {
    move |error| RecordsError {
        action,
        is_passing: matches!(error, WriteError::Waited(_) | WriteError::Locked),
        source: Box::new(error),
    }
}

/// An end's share of [`WRITE_BYTES_WAITING_MAX`]. More than the whole of it is let in alone.
fn allowance(row: &changes::Row) -> u32 {
    u32::try_from(row.weight().min(WRITE_BYTES_WAITING_MAX)).unwrap_or(u32::MAX)
}

#[async_trait::async_trait]
impl TaskRecords for PostgresRecords {
    async fn queued(&self, tasks: Vec<NewTask>) -> Result<Vec<Queued>, RecordsError> {
        let messages = tasks.chunks(NEW_TASKS_PER_MESSAGE).map(|tasks| {
            self.ask("written", &self.intake, |reply| intake::Message::Queued { tasks: tasks.to_vec(), reply })
        });
        Ok(futures::future::try_join_all(messages).await?.concat())
    }

    async fn withdraw(&self, ids: Vec<TaskId>) -> Result<(), RecordsError> {
        self.ask("written", &self.intake, |reply| intake::Message::Withdraw { ids, reply }).await
    }

    async fn cancel(&self, id: &TaskId, at_ms: UnixMs) -> Result<Cancelled, RecordsError> {
        let cancelled = cancel::cancel(&self.seldom, id, at_ms).await.map_err(written)?;
        self.followers.read_soon(id);
        Ok(cancelled)
    }

    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, RecordsError> {
        self.ask("read", &self.reader, |reply| reader::Lookup { id: id.clone(), reply }).await
    }

    async fn logs(&self, id: &TaskId) -> Result<Vec<TaskLog>, RecordsError> {
        self.seldom.run(async |connection| logs::read(connection, id).await).await.map_err(read)
    }

    async fn search(
        &self,
        filter: TaskFilter,
        after: Option<TaskCursor>,
        limit: u32,
    ) -> Result<TaskPage, RecordsError> {
        let found =
            self.seldom.run(async |connection| search::search(connection, &filter, after.as_ref(), limit).await);
        found.await.map_err(read)
    }

    fn follow(&self, id: &TaskId) -> watch::Receiver<Option<TaskRecord>> {
        self.followers.follow(id, None)
    }
}

#[async_trait::async_trait]
impl Inbox for PostgresRecords {
    fn note(&self, update: Update) {
        let change = TaskRecord::from(update);
        self.followers.changed(&change);
        if !self.noted.change(change) {
            self.notes_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_progress(&self, id: &TaskId, progress: Progress) {
        let progress = order::storable_progress(progress);
        self.followers.progressed(id, &progress);
        if !self.noted.progress(id, progress) {
            self.notes_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn note_log(&self, log: TaskLog) {
        if !self.noted.log(log) {
            self.notes_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn finished(&self, ending: &Ending) -> Result<Ended, RecordsError> {
        let row = Box::new(changes::Row::from(ending));
        self.noted.overtaken(&row.change);
        match self.write(row) {
            Ok(written) => written.await,
            // Boxed, for it is rare, and each task's future would be larger by it.
            Err(row) => Box::pin(self.write_later(row)).await,
        }
    }

    fn was_finished(&self, update: &Update) {
        let change = TaskRecord::from(update.clone());
        self.noted.overtaken(&change);
        self.followers.changed(&change);
    }

    async fn ended(&self, id: &TaskId, generation: u32) -> Result<Option<TaskRecord>, RecordsError> {
        let lookup = |reply| reader::Lookup { id: id.clone(), reply };
        let record = Self::ask_within(ENDED_WAIT_MAX, "read", &self.ends, lookup).await?;
        Ok(record.filter(|record| order::has_ended(record, generation)))
    }

    async fn holder(&self, id: &TaskId) -> Result<Option<IdHolder>, RecordsError> {
        self.seldom.run(async |connection| reader::holder(connection, id).await).await.map_err(read)
    }

    async fn cancelled(&self, ids: Vec<TaskId>) -> Result<Vec<TaskId>, RecordsError> {
        self.seldom.run(async |connection| cancel::cancelled(connection, &ids).await).await.map_err(read)
    }

    async fn suspect_begins(&self, message: &str) -> Result<u32, RecordsError> {
        self.seldom.run(async |connection| suspects::begins(connection, message).await).await.map_err(written)
    }

    async fn suspect_ends(&self, message: &str) -> Result<(), RecordsError> {
        self.seldom.run(async |connection| suspects::ends(connection, message).await).await.map_err(written)
    }
}

#[async_trait::async_trait]
impl Records for PostgresRecords {
    async fn close(&self) {
        self.closing.cancel();
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for writer in writers {
            if let Err(error) = writer.await {
                tracing::error!(%error, "a writer of task records stopped early");
            }
        }
    }
}

fn read(error: sqlx::Error) -> RecordsError {
    RecordsError { action: "read", is_passing: link::is_passing(&error), source: Box::new(error) }
}

fn written(error: sqlx::Error) -> RecordsError {
    RecordsError { action: "written", is_passing: link::is_passing(&error), source: Box::new(error) }
}
