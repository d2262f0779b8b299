//! A connection in the hands of one task.

mod ending;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Arguments, Column as _, Connection, Either, Executor, Row as _, Statement, ValueRef};
use tokio::sync::mpsc;

use self::ending::{end_task, end_transaction};
use super::pool::{AgentPool, Checkout, Live};
use super::{codec, lowered, statement, unreachable_database};
use crate::capability::sql::{Column, CommitError, Committed, End, Kind, RowBatch, SqlConnection, SqlError, Value};
use crate::capability::sql::{RESULT_BYTES_MAX, ROWS_DROPPED_MAX};
use crate::manifest::TransactionMode;
use crate::records::Ended;

/// What the host waits beyond `statement_timeout` for PostgreSQL to enforce it, before it does so itself: an agent can
/// change the setting, not this.
const STATEMENT_GRACE: Duration = Duration::from_secs(1);
/// How long a connection may take to begin a transaction, which waits for nothing in the server: a server that vanished
/// without a goodbye says nothing, and TCP alone would wait for a quarter of an hour.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// A batch of rows is passed on when it has so many, or so many bytes. The next is begun once it was taken, so that no more
/// than one batch and one message of the server are in memory.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

/// A connection in the hands of one task.
pub(super) struct PostgresConnection {
    pool: Arc<AgentPool>,
    mode: TransactionMode,
    state: State,
    /// Why the transaction cannot be committed any more.
    aborted: Option<String>,
    /// Whether that was the agent's own doing: a limit of its own that it passed, a value that it asked for wrongly.
    used_up: bool,
    _turn: tokio::sync::OwnedSemaphorePermit,
}

enum State {
    Ready(Live),
    Streaming(Stream),
    /// The connection is gone, or in a state that nobody knows.
    Lost,
}

/// A running query: it owns the connection until its last row has been read.
struct Stream {
    driver: Option<Pin<Box<dyn Future<Output = StreamEnd> + Send>>>,
    batches: mpsc::Receiver<RowBatch>,
    /// How the query ended, kept until its rows have been given out.
    ended: Option<StreamEnd>,
}

/// The connection after a query, and how the query ended.
type StreamEnd = (Live, Result<(), SqlError>);

impl PostgresConnection {
    /// A connection of the agent, in a transaction where the mode says so.
    pub(super) async fn open(
        pool: Arc<AgentPool>,
        mode: TransactionMode,
        statement_timeout: Duration,
    ) -> Result<Self, SqlError> {
        let Checkout { mut live, reused, turn } = pool.checkout(statement_timeout).await?;
        if let Err(error) = start(&mut live, mode, statement_timeout).await {
            if !reused {
                return Err(error);
            }
            // It died while it was idle, and most likely so did the others: the server was restarted.
            pool.retire_idle();
            live = pool.connect(statement_timeout).await?;
            start(&mut live, mode, statement_timeout).await?;
        }
        Ok(Self { pool, mode, state: State::Ready(live), aborted: None, used_up: false, _turn: turn })
    }

    /// The connection, which is put back after the statement.
    fn take(&mut self) -> Result<Live, SqlError> {
        match std::mem::replace(&mut self.state, State::Lost) {
            State::Ready(live) => Ok(live),
            other @ State::Streaming(_) => {
                self.state = other;
                let source = "another statement while the rows of a query are being read".into();
                Err(SqlError::Unavailable { what: "the connection is busy", source })
            }
            // No host's failure, which would be tried again without end.
            State::Lost if self.used_up => {
                let reason = self.aborted.as_deref().unwrap_or_default();
                Err(SqlError::LimitExceeded(format!(
                    "the connection ended with an earlier statement of this task: {reason}"
                )))
            }
            State::Lost => Err(SqlError::Unavailable {
                what: "the connection to the database broke earlier in this task",
                source: self.aborted.clone().unwrap_or_default().into(),
            }),
        }
    }

    /// Remembers what makes a commit impossible.
    fn note(&mut self, error: &SqlError) {
        let spoils = match error {
            SqlError::Query(error) => self.mode == TransactionMode::Task || error.ended_session(),
            SqlError::Unavailable { .. } | SqlError::Conversion(_) | SqlError::LimitExceeded(_) => true,
            SqlError::Denied(_) | SqlError::BadParameter(_) => false,
        };
        if spoils && self.aborted.is_none() {
            self.aborted = Some(error.to_string());
            self.used_up = !matches!(error, SqlError::Unavailable { .. });
        }
    }
}

#[async_trait::async_trait]
impl SqlConnection for PostgresConnection {
    async fn execute(&mut self, statement: &str, parameters: &[Value], timeout: Duration) -> Result<u64, SqlError> {
        if let Some(text) = statement::refusal(statement) {
            return Err(SqlError::Denied(text));
        }
        let mut live = self.take()?;
        live.running.now = true;
        let work = async {
            let (statement, arguments) = prepare(&mut live, statement, parameters, timeout).await?;
            let mut results = live.connection.fetch_many(statement.query_with(arguments));
            let (mut affected, mut dropped) = (0u64, 0u64);
            while let Some(result) = results.try_next().await.map_err(lowered)? {
                match result {
                    Either::Left(done) => affected = affected.saturating_add(done.rows_affected()),
                    Either::Right(_) => dropped = dropped.saturating_add(1),
                }
                if dropped > ROWS_DROPPED_MAX {
                    return Err(SqlError::LimitExceeded(format!(
                        "a statement run for the number of rows that it affected gave more than {ROWS_DROPPED_MAX} rows: \
                         query it instead"
                    )));
                }
            }
            Ok(affected)
        };
        let result = within(timeout, work).await;
        let result = told(result, &live, timeout).await;
        self.put_back(live, result)
    }

    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Value],
        timeout: Duration,
    ) -> Result<Vec<Column>, SqlError> {
        if let Some(text) = statement::refusal(statement) {
            return Err(SqlError::Denied(text));
        }
        let mut live = self.take()?;
        live.running.now = true;
        let work = async {
            let (statement, arguments) = prepare(&mut live, statement, parameters, timeout).await?;
            Ok((Statement::to_owned(&statement), arguments))
        };
        let prepared = within(timeout, work).await;
        let (statement, arguments) = match told(prepared, &live, timeout).await {
            Ok(prepared) => prepared,
            Err(error) => return self.put_back(live, Err(error)),
        };
        let columns: Vec<Column> = statement
            .columns()
            .iter()
            .map(|column| Column { name: column.name().to_owned(), kind: codec::kind(column.type_info()) })
            .collect();
        let (sender, batches) = mpsc::channel(1);
        let kinds: Vec<Kind> = columns.iter().map(|column| column.kind.clone()).collect();
        let driver = Box::pin(async move {
            let result = within(timeout, pump(&mut live, &statement, arguments, &kinds, &sender)).await;
            let result = told(result, &live, timeout).await;
            (live, result)
        });
        self.state = State::Streaming(Stream { driver: Some(driver), batches, ended: None });
        Ok(columns)
    }

    async fn next_rows(&mut self) -> Result<Option<RowBatch>, SqlError> {
        let State::Streaming(stream) = &mut self.state else { return Ok(None) };
        // Held in `self` while it waits, so that a call that is dropped loses nothing.
        if let Some(driver) = &mut stream.driver {
            tokio::select! {
                biased;
                ended = driver => {
                    stream.driver = None;
                    stream.ended = Some(ended);
                }
                batch = stream.batches.recv() => return Ok(batch),
            }
        }
        let batch = stream.batches.try_recv().ok();
        let failed = stream.ended.as_ref().is_some_and(|(_, result)| result.is_err());
        if batch.is_some() && (failed || !stream.batches.is_empty()) {
            return Ok(batch);
        }
        match stream.ended.take() {
            Some((live, result)) => {
                self.put_back(live, result)?;
                Ok(batch)
            }
            None => Ok(batch),
        }
    }

    fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming(_))
    }

    fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    fn abandon(&mut self, reason: &str) {
        if self.aborted.is_none() {
            self.aborted = Some(reason.to_owned());
            self.used_up = true;
        }
        self.state = State::Lost;
    }

    async fn finish(mut self: Box<Self>, end: End<'_>) -> Result<Committed, CommitError> {
        let commit = matches!(end, End::Commit(_));
        let State::Ready(mut live) = std::mem::replace(&mut self.state, State::Lost) else {
            let reason = self.aborted.take().unwrap_or_else(|| "the connection to the database broke".to_owned());
            let lost = commit && self.mode == TransactionMode::Task;
            return if lost { Err(CommitError::Aborted(reason)) } else { Ok(Committed::Effects) };
        };
        let aborted = if commit { self.aborted.take() } else { None };
        live.running.now = true;
        let ending = match end {
            End::Commit(ending) if aborted.is_none() && self.mode == TransactionMode::Task => ending,
            End::Commit(_) | End::Rollback => None,
        };
        let committed = end_task(&mut live, self.pool.end_task(), ending).await;
        let command = match self.mode {
            TransactionMode::Statement => "",
            TransactionMode::Task => match &committed {
                Ok(Committed::Effects | Committed::WithEnd(Ended::Now)) if commit && aborted.is_none() => "COMMIT; ",
                Ok(_) | Err(_) => "ROLLBACK; ",
            },
        };
        let ended = end_transaction(&mut live, command).await;
        match &ended {
            Ok(true) => {
                live.running.now = false;
                live.timeout = live.timeout_default;
                // A large row, or large parameters, have left large buffers.
                live.connection.shrink_buffers();
                self.pool.give_back(live);
            }
            // What was committed stays committed; only the connection is not to be used again.
            Ok(false) => live.running.now = false,
            Err(_) => {}
        }
        match aborted {
            Some(reason) if self.mode == TransactionMode::Task => Err(CommitError::Aborted(reason)),
            Some(_) | None => committed.and_then(|committed| ended.map(|_| committed)),
        }
    }
}

impl PostgresConnection {
    /// Puts the connection back after a statement, unless it is in a state that nobody knows.
    fn put_back<T>(&mut self, mut live: Live, result: Result<T, SqlError>) -> Result<T, SqlError> {
        match &result {
            Ok(_) => {
                live.running.now = false;
                self.state = State::Ready(live);
            }
            Err(error) => {
                self.note(error);
                let clean = match error {
                    SqlError::Query(error) => !error.ended_session(),
                    SqlError::BadParameter(_) | SqlError::Denied(_) => true,
                    SqlError::Unavailable { .. } | SqlError::Conversion(_) | SqlError::LimitExceeded(_) => false,
                };
                if clean {
                    live.running.now = false;
                    self.state = State::Ready(live);
                } else {
                    // Dropped in the middle of something: the server is told to end it, unless it has.
                    self.state = State::Lost;
                }
            }
        }
        result
    }
}

/// The first thing that a task does with a connection, in one round trip.
async fn start(live: &mut Live, mode: TransactionMode, timeout: Duration) -> Result<(), SqlError> {
    let mut batch = String::new();
    if live.timeout != timeout {
        batch = format!("SET statement_timeout = {}; ", timeout.as_millis());
    }
    if mode == TransactionMode::Task {
        batch.push_str("BEGIN");
    }
    if !batch.is_empty() {
        match tokio::time::timeout(START_TIMEOUT, live.connection.execute(batch.as_str())).await {
            Ok(started) => started.map_err(lowered)?,
            Err(elapsed) => return Err(silent(elapsed.into())),
        };
        live.timeout = timeout;
    }
    Ok(())
}

/// Prepares the statement, or finds it prepared, and encodes the parameters for it.
async fn prepare<'q>(
    live: &mut Live,
    statement: &'q str,
    parameters: &[Value],
    timeout: Duration,
) -> Result<(PgStatement<'q>, PgArguments), SqlError> {
    if live.timeout != timeout {
        // Another of the manifest's grants than the one before, with another timeout.
        let set = format!("SET statement_timeout = {}", timeout.as_millis());
        live.connection.execute(set.as_str()).await.map_err(lowered)?;
        live.timeout = timeout;
    }
    if statement.contains('\0') {
        return Err(SqlError::BadParameter("a statement cannot contain the character NUL".to_owned()));
    }
    live.kept.make_room(&mut live.connection, statement).await.map_err(lowered)?;
    let prepared = live.connection.prepare_with(statement, &[]).await.map_err(lowered)?;
    let types = match prepared.parameters() {
        Some(Either::Left(types)) => types,
        Some(Either::Right(_)) | None => &[],
    };
    live.kept.note(statement, prepared.columns().len().saturating_add(types.len()));
    if types.len() != parameters.len() {
        let text = format!("the statement has {} parameters, and {} were given", types.len(), parameters.len());
        return Err(SqlError::BadParameter(text));
    }
    let mut arguments = PgArguments::default();
    for (index, (value, of)) in parameters.iter().zip(types).enumerate() {
        let bound = codec::encode(value, of, index.saturating_add(1)).map_err(SqlError::BadParameter)?;
        arguments.add(bound).map_err(|error| SqlError::BadParameter(error.to_string()))?;
    }
    Ok((prepared, arguments))
}

/// Runs a query and passes its rows on, in batches, as fast as they are taken.
async fn pump(
    live: &mut Live,
    statement: &PgStatement<'static>,
    arguments: PgArguments,
    kinds: &[Kind],
    batches: &mpsc::Sender<RowBatch>,
) -> Result<(), SqlError> {
    let mut results = live.connection.fetch_many(statement.query_with(arguments));
    let mut batch = RowBatch::default();
    loop {
        if batch.rows.is_empty() {
            // Nobody listens any more where the cursor is gone with its session; the rest is then of no use.
            let _ = batches.reserve().await;
        }
        let Some(result) = results.try_next().await.map_err(lowered)? else { break };
        let Either::Right(row) = result else { continue };
        let mut values = Vec::with_capacity(kinds.len());
        for (index, kind) in kinds.iter().enumerate() {
            let raw = row.try_get_raw(index).map_err(lowered)?;
            let value = if raw.is_null() {
                Value::Null
            } else {
                let bytes = raw.as_bytes().map_err(|error| SqlError::Conversion(error.to_string()))?;
                let bytes_left = RESULT_BYTES_MAX.saturating_sub(batch.bytes);
                codec::decode(&raw.type_info(), kind, bytes, bytes_left)?
            };
            batch.bytes = batch.bytes.saturating_add(value.bytes());
            values.push(value);
        }
        batch.rows.push(values);
        if batch.rows.len() >= BATCH_ROWS || batch.bytes >= BATCH_BYTES {
            let _ = batches.send(std::mem::take(&mut batch)).await;
        }
    }
    if !batch.rows.is_empty() {
        let _ = batches.send(batch).await;
    }
    Ok(())
}

/// Runs a statement no longer than `timeout` and a little; nothing where it took longer.
async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, SqlError>>) -> Option<Result<T, SqlError>> {
    tokio::time::timeout(timeout.saturating_add(STATEMENT_GRACE), work).await.ok()
}

/// What a statement came to. One that PostgreSQL itself should have ended by now is the agent's doing, which can change
/// that setting; unless PostgreSQL is not there any more, or not on this connection, and nobody said goodbye. And an end of
/// the session is the agent's doing, unless it is the end of the server.
async fn told<T>(result: Option<Result<T, SqlError>>, live: &Live, timeout: Duration) -> Result<T, SqlError> {
    match result {
        Some(Err(SqlError::Query(error))) if error.ended_session() && !live.running.server_is_up().await => {
            return Err(unreachable_database(error.into()));
        }
        Some(result) => return result,
        None => {}
    }
    if !live.running.is_there().await {
        return Err(silent("no answer to a statement".into()));
    }
    let timeout = crate::units::format_duration(timeout);
    Err(SqlError::LimitExceeded(format!("the statement ran past statement_timeout = {timeout}")))
}

fn silent(source: crate::capability::Cause) -> SqlError {
    SqlError::Unavailable { what: "the database stopped answering", source }
}
