//! A connection in the hands of one task.

mod ending;
mod run;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::MessageRoom;
use sqlx::{Column as _, Connection, Statement};
use tokio::sync::{mpsc, oneshot};

use self::ending::{COMMIT, end_task, end_transaction};
use self::run::{begin, execute, prepare, pump, told, within};
use super::pool::{AgentPool, Checkout, Live};
use super::{codec, statement};
use crate::capability::sql::{Column, CommitError, Committed, End, Kind, RowBatch};
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
    /// Whether the connection was open before this task, and so may have died unnoticed.
    reused: bool,
    /// Who is asked for room for the server's messages.
    room: Option<MessageRoom>,
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
    /// A connection of the agent. Where the mode says so, its first statement begins a transaction.
    pub(super) async fn open(
        pool: Arc<AgentPool>,
        mode: TransactionMode,
        statement_timeout: Duration,
    ) -> Result<Self, SqlError> {
        let Checkout { mut live, reused, turn } = pool.checkout(statement_timeout).await?;
        begin(&mut live, mode);
        let state = State::Ready(live);
        Ok(Self { pool, mode, state, aborted: None, used_up: false, reused, room: None, _turn: turn })
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

    /// Whether a statement failed because its connection had died while it was idle. Not even the transaction had begun then,
    /// so nothing is lost by running it on another.
    fn had_died_idle<T>(&self, live: &Live, result: &Result<T, SqlError>) -> bool {
        let is_lost = match result {
            Err(SqlError::Unavailable { .. }) => true,
            Err(SqlError::Query(error)) => error.ended_session(),
            Ok(_) | Err(_) => false,
        };
        self.reused && is_lost && live.connection.is_before_unanswered()
    }

    /// A new connection in the place of such a one.
    async fn replace(&mut self, dead: Live, statement_timeout: Duration) -> Result<Live, SqlError> {
        // Its slot may be the last.
        drop(dead);
        self.reused = false;
        // Most likely the others died with it: the server was restarted.
        self.pool.retire_idle();
        let connected = self.pool.connect(statement_timeout).await;
        let mut live = connected.inspect_err(|error| self.note(error))?;
        begin(&mut live, self.mode);
        live.connection.set_message_room(self.room.clone());
        live.running.now = true;
        Ok(live)
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
            self.room = Some(Arc::new(has_room));
            live.connection.set_message_room(self.room.clone());
        }
    }

    async fn execute(&mut self, statement: &str, parameters: &[Value], timeout: Duration) -> Result<u64, SqlError> {
        if let Some(text) = statement::refusal(statement) {
            return Err(SqlError::Denied(text));
        }
        let mut live = self.take()?;
        live.running.now = true;
        let mut result = execute(&mut live, statement, parameters, timeout).await;
        if self.had_died_idle(&live, &result) {
            live = self.replace(live, timeout).await?;
            result = execute(&mut live, statement, parameters, timeout).await;
        }
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
        let (columns, stream) = loop {
            let (columns, stream) = match start_query(live, statement, parameters, timeout).await {
                Ok(started) => started,
                Err((dead, error)) => {
                    let failed = Err(error);
                    if self.had_died_idle(&dead, &failed) {
                        live = self.replace(dead, timeout).await?;
                        continue;
                    }
                    return self.put_back(dead, failed);
                }
            };
            match stream {
                Stream { ended: Some((dead, failed)), .. } if self.had_died_idle(&dead, &failed) => {
                    live = self.replace(dead, timeout).await?;
                }
                stream => break (columns, stream),
            }
        };
        self.state = State::Streaming(stream);
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
        // No statement got as far as the server, and so neither did the beginning of the transaction.
        let untouched = live.connection.cancel_before();
        let ending = match end {
            End::Commit(ending) if aborted.is_none() && self.mode == TransactionMode::Task && !untouched => ending,
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
        let ended = if untouched { Ok(true) } else { end_transaction(&mut live, command).await };
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

/// Prepares a query and starts it: its columns, and its rows as they come. Answers once the server has, so that what a dead
/// connection costs is known.
async fn start_query(
    mut live: Live,
    statement: &str,
    parameters: &[Value],
    timeout: Duration,
) -> Result<(Vec<Column>, Stream), (Live, SqlError)> {
    let work = async {
        let (statement, arguments) = prepare(&mut live, statement, parameters, timeout).await?;
        Ok((Statement::to_owned(&statement), arguments))
    };
    let prepared = within(timeout, work).await;
    let (statement, arguments) = match told(prepared, &live, timeout).await {
        Ok(prepared) => prepared,
        Err(error) => return Err((live, error)),
    };
    let columns: Vec<Column> = statement
        .columns()
        .iter()
        .map(|column| Column { name: column.name().to_owned(), kind: codec::kind(column.type_info()) })
        .collect();
    let (sender, batches) = mpsc::channel(1);
    let (answered, is_answered) = oneshot::channel();
    let kinds: Vec<Kind> = columns.iter().map(|column| column.kind.clone()).collect();
    let mut driver = Box::pin(async move {
        let result = within(timeout, pump(&mut live, &statement, arguments, &kinds, answered, &sender)).await;
        let result = told(result, &live, timeout).await;
        (live, result)
    });
    let ended = tokio::select! {
        biased;
        ended = &mut driver => Some(ended),
        // It is dropped where the query failed before, and what came of that is then to be known.
        Ok(()) = is_answered => None,
    };
    let driver = if ended.is_none() { Some(driver as Pin<Box<_>>) } else { None };
    Ok((columns, Stream { driver, batches, ended }))
}
