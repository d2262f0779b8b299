//! A connection in the hands of one task.

mod ending;
mod run;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::{Column as _, Connection, Either, Executor, Statement};
use tokio::sync::mpsc;

use self::ending::{COMMIT, end_task, end_transaction};
use self::run::{prepare, pump, start, told, within};
use super::pool::{AgentPool, Checkout, Live};
use super::{codec, lowered, statement};
use crate::capability::sql::{Column, CommitError, Committed, End, Kind, ROWS_DROPPED_MAX, RowBatch};
use crate::capability::sql::{SqlConnection, SqlError, Value};
use crate::manifest::TransactionMode;
use crate::memory::Holder;
use crate::records::Ended;

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
                Err(SqlError::Unavailable { what: "the connection is busy".into(), source })
            }
            // No host's failure, which would be tried again without end.
            State::Lost if self.used_up => {
                let reason = self.aborted.as_deref().unwrap_or_default();
                Err(SqlError::LimitExceeded(format!(
                    "the connection ended with an earlier statement of this task: {reason}"
                )))
            }
            State::Lost => Err(SqlError::Unavailable {
                what: "the connection to the database broke earlier in this task".into(),
                source: self.aborted.clone().unwrap_or_default().into(),
            }),
        }
    }

    /// Remembers what makes a commit impossible.
    fn note(&mut self, error: &SqlError) {
        let spoils = match error {
            SqlError::Query(error) => self.mode == TransactionMode::Task || error.ended_session(),
            SqlError::Unavailable { .. }
            | SqlError::Conversion(_)
            | SqlError::LimitExceeded(_)
            | SqlError::NoRoom(_) => true,
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
    fn account_to(&mut self, holder: &Holder) {
        if let State::Ready(live) = &mut self.state {
            // The largest message so far: the driver's buffer stays as large until the task has ended.
            let largest = Mutex::new((0, holder.nothing()));
            let has_room = move |bytes: usize| {
                let mut largest = largest.lock().unwrap_or_else(PoisonError::into_inner);
                bytes <= largest.0 || largest.1.resize(bytes).map(|()| largest.0 = bytes).is_ok()
            };
            live.connection.set_message_room(Some(Arc::new(has_room)));
        }
    }

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
            // It went out with the end of the task, and commits nothing where that one failed.
            TransactionMode::Task if live.connection.is_sent_ahead() => COMMIT,
            TransactionMode::Task => match &committed {
                Ok(Committed::Effects | Committed::WithEnd(Ended::Now)) if commit && aborted.is_none() => COMMIT,
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
                live.connection.set_message_room(None);
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
                    SqlError::Unavailable { .. }
                    | SqlError::Conversion(_)
                    | SqlError::LimitExceeded(_)
                    | SqlError::NoRoom(_) => false,
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
