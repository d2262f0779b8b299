//! One task's use of SQL: its connection, and the rows that it has been promised.
//!
//! A small result is read whole with the query, which frees the connection at once. A larger one streams: its rows stay in
//! PostgreSQL until the guest asks for them. When another statement comes first, the rest is read into the cursor's
//! buffer, within the caps. A result that passes a cap is not read to its end; what the task did is then rolled back,
//! since a connection in the middle of a result can do nothing else.

use std::collections::VecDeque;

use super::{Column, Database, HANDLES_MAX, PARAMETERS_BYTES_MAX, RESULT_BYTES_MAX, Row, STATEMENT_BYTES_MAX};
use super::{CommitError, Committed, End, SqlConnection, SqlError, Value};
use crate::capability::SessionPlan;
use crate::manifest::{SqlGrant, TransactionMode};
use crate::memory::{Held, Holder, NoRoom};

/// Most rows that one call gives the guest: with [`RESULT_BYTES_MAX`] it bounds what is lowered into it at once.
const ROWS_PER_CALL_MAX: usize = 4096;

/// How often a statement's parameters are there while it runs: as the guest gave them, encoded, and as they are sent.
const PARAMETER_COPIES: usize = 3;

/// One task's use of SQL. Dropping it rolls back.
#[derive(Default)]
pub(in crate::capability) struct SqlSession {
    connection: Option<Box<dyn SqlConnection>>,
    results: Vec<Results>,
    results_made: u64,
    /// Bytes in all buffers, and their account.
    buffered_bytes: usize,
    buffered: Held,
    holder: Holder,
    /// Whether rows had no room: the task is to be handed back, whatever else it does.
    had_no_room: bool,
    /// Open database handles.
    pub(super) handles: usize,
}

/// What is known of one cursor's rows.
struct Results {
    id: u64,
    rows: VecDeque<(Row, usize)>,
    rows_read: u64,
    bytes_read: usize,
    rows_max: u32,
    streaming: bool,
    /// Told to the guest once the rows before it have been taken.
    failure: Option<SqlError>,
}

/// What a session needs to reach a database, for one of the manifest's grants.
pub(super) struct Reach<'a> {
    pub(super) database: &'a dyn Database,
    pub(super) plan: &'a SessionPlan,
    pub(super) grant: &'a SqlGrant,
}

impl SqlSession {
    /// Accounts there for rows and parameters.
    pub(in crate::capability) fn account_to(&mut self, holder: &Holder) {
        self.buffered = holder.nothing();
        self.holder = holder.clone();
    }

    /// Accounts for what a statement's call carries, as often as it is there.
    fn hold(&self, statement: &str, parameters: &[Value]) -> Result<Held, NoRoom> {
        let bytes = parameters.iter().map(Value::bytes).fold(statement.len(), usize::saturating_add);
        self.holder.hold(bytes.saturating_mul(PARAMETER_COPIES))
    }

    /// Runs a statement for the number of rows that it affected.
    pub(super) async fn execute(
        &mut self,
        reach: Reach<'_>,
        statement: &str,
        parameters: &[Value],
    ) -> Result<u64, SqlError> {
        check(statement, parameters)?;
        let _held = self.hold(statement, parameters)?;
        let timeout = reach.grant.statement_timeout;
        self.connection(&reach).await?.execute(statement, parameters, timeout).await
    }

    /// Runs a statement for its rows: the id that [`next`](Self::next) takes, and the columns.
    pub(super) async fn query(
        &mut self,
        reach: Reach<'_>,
        statement: &str,
        parameters: &[Value],
    ) -> Result<(u64, Vec<Column>), SqlError> {
        check(statement, parameters)?;
        let _held = self.hold(statement, parameters)?;
        if self.results.len() >= HANDLES_MAX {
            return Err(SqlError::LimitExceeded(format!("a task has at most {HANDLES_MAX} cursors open")));
        }
        let timeout = reach.grant.statement_timeout;
        let columns = self.connection(&reach).await?.query(statement, parameters, timeout).await?;
        self.results_made = self.results_made.saturating_add(1);
        let id = self.results_made;
        self.results.push(Results {
            id,
            rows: VecDeque::new(),
            rows_read: 0,
            bytes_read: 0,
            rows_max: reach.grant.max_rows,
            streaming: true,
            failure: None,
        });
        // A statement that fails while it runs fails here, where the guest expects it, and not at its first row.
        self.read_batch(id).await;
        match self.take_failure_of_empty(id) {
            Some(error) => {
                self.forget(id);
                Err(error)
            }
            None => Ok((id, columns)),
        }
    }

    /// The next rows of a cursor; none at its end.
    pub(super) async fn next(&mut self, id: u64, max: u32) -> Result<Vec<Row>, SqlError> {
        let max = usize::try_from(max).unwrap_or(usize::MAX).clamp(1, ROWS_PER_CALL_MAX);
        while self.results(id).is_some_and(|results| results.rows.is_empty() && results.streaming) {
            self.read_batch(id).await;
        }
        if let Some(error) = self.take_failure_of_empty(id) {
            return Err(error);
        }
        let Some(results) = self.results.iter_mut().find(|results| results.id == id) else { return Ok(Vec::new()) };
        let take = results.rows.len().min(max);
        let mut rows = Vec::with_capacity(take);
        for (row, bytes) in results.rows.drain(..take) {
            self.buffered_bytes = self.buffered_bytes.saturating_sub(bytes);
            rows.push(row);
        }
        self.account_for_less();
        Ok(rows)
    }

    fn account_for_less(&mut self) {
        // Less always has room.
        let _ = self.buffered.resize(self.buffered_bytes);
    }

    /// Forgets a cursor; what it has not read is read and dropped, within the caps, before the next statement.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(results) = self.results.iter_mut().find(|results| results.id == id) {
            let bytes: usize = results.rows.drain(..).map(|(_, bytes)| bytes).sum();
            self.buffered_bytes = self.buffered_bytes.saturating_sub(bytes);
            if results.streaming {
                // Nobody will ask for it by this id again; see `settle_stream`.
                results.id = FORGOTTEN;
            } else {
                self.results.retain(|results| results.id != id);
            }
            self.account_for_less();
        }
    }

    /// Whether there is anything to commit.
    pub(in crate::capability) fn was_used(&self) -> bool {
        self.connection.is_some()
    }

    /// Commits or rolls back.
    pub(in crate::capability) async fn finish(mut self, end: End<'_>) -> Result<Committed, CommitError> {
        let commit = matches!(end, End::Commit(_));
        if commit {
            self.settle_stream().await;
        }
        if commit && self.had_no_room {
            let alone = self.holder.was_refused_alone();
            return Err(if alone { CommitError::Aborted(NoRoom.to_string()) } else { NoRoom.into() });
        }
        let Some(connection) = self.connection else { return Ok(Committed::Effects) };
        let result = connection.finish(end).await;
        if commit { result } else { Ok(Committed::Effects) }
    }

    /// The connection, ready for a statement.
    async fn connection(&mut self, reach: &Reach<'_>) -> Result<&mut Box<dyn SqlConnection>, SqlError> {
        self.settle_stream().await;
        if self.had_no_room {
            return Err(NoRoom.into());
        }
        let mode = reach.plan.manifest().effects.transaction;
        // Under `statement` each statement commits by itself, so that losing the connection loses nothing else.
        let replaceable = mode == TransactionMode::Statement;
        // Not `get_or_insert_with`: opening waits, and may fail.
        let connection = match self.connection.take() {
            // A lost transaction stays lost: its later statements must not run outside of it.
            Some(connection) if !(replaceable && connection.is_lost()) => connection,
            Some(_) | None => {
                let opened = reach.database.open(reach.plan.agent(), mode, reach.grant.statement_timeout).await;
                let mut connection = opened?;
                connection.account_to(&self.holder);
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Reads the rest of a streaming result into its buffer, so that the connection is free.
    async fn settle_stream(&mut self) {
        while let Some(id) = self.results.iter().find(|results| results.streaming).map(|results| results.id) {
            self.read_batch(id).await;
        }
        self.results.retain(|results| results.id != FORGOTTEN);
    }

    /// Reads one batch of a streaming result into its buffer, or ends the stream.
    async fn read_batch(&mut self, id: u64) {
        let Some(results) = self.results.iter_mut().find(|results| results.id == id && results.streaming) else {
            return;
        };
        let Some(connection) = &mut self.connection else {
            results.streaming = false;
            return;
        };
        match connection.next_rows().await {
            Ok(Some(batch)) => {
                let mut over = None;
                results.bytes_read = results.bytes_read.saturating_add(batch.bytes);
                for row in batch.rows {
                    results.rows_read = results.rows_read.saturating_add(1);
                    if results.rows_read > u64::from(results.rows_max) {
                        over = Some(format!("the result has more rows than max_rows = {}", results.rows_max));
                        break;
                    }
                    let bytes = row_bytes(&row);
                    if results.bytes_read > RESULT_BYTES_MAX
                        || self.buffered_bytes.saturating_add(bytes) > RESULT_BYTES_MAX
                    {
                        over = Some(format!("the rows read and not yet taken are more than {RESULT_BYTES_MAX} bytes"));
                        break;
                    }
                    if id != FORGOTTEN {
                        self.buffered_bytes = self.buffered_bytes.saturating_add(bytes);
                        results.rows.push_back((row, bytes));
                    }
                }
                if let Err(error) = self.buffered.resize(self.buffered_bytes) {
                    connection.abandon(&error.to_string());
                    results.streaming = false;
                    let dropped: usize = results.rows.drain(..).map(|(_, bytes)| bytes).sum();
                    self.buffered_bytes = self.buffered_bytes.saturating_sub(dropped);
                    self.had_no_room = true;
                    results.failure = Some(error.into());
                } else if let Some(text) = over {
                    connection.abandon(&text);
                    results.streaming = false;
                    results.failure = Some(SqlError::LimitExceeded(text));
                } else {
                    results.streaming = connection.is_streaming();
                }
            }
            Ok(None) => results.streaming = false,
            Err(error) => {
                results.streaming = false;
                self.had_no_room |= matches!(error, SqlError::NoRoom(_));
                results.failure = Some(error);
            }
        }
    }

    fn results(&self, id: u64) -> Option<&Results> {
        self.results.iter().find(|results| results.id == id)
    }

    fn take_failure_of_empty(&mut self, id: u64) -> Option<SqlError> {
        let results = self.results.iter_mut().find(|results| results.id == id)?;
        if results.rows.is_empty() { results.failure.take() } else { None }
    }
}

/// The id of a result whose cursor is gone. Ids start at 1.
const FORGOTTEN: u64 = 0;

fn row_bytes(row: &Row) -> usize {
    row.iter().map(Value::bytes).sum()
}

fn check(statement: &str, parameters: &[Value]) -> Result<(), SqlError> {
    if statement.len() > STATEMENT_BYTES_MAX {
        let text = format!("a statement of {} bytes: at most {STATEMENT_BYTES_MAX}", statement.len());
        return Err(SqlError::LimitExceeded(text));
    }
    let bytes: usize = parameters.iter().map(Value::bytes).sum();
    if bytes > PARAMETERS_BYTES_MAX {
        let text = format!("parameters of {bytes} bytes: at most {PARAMETERS_BYTES_MAX}");
        return Err(SqlError::LimitExceeded(text));
    }
    Ok(())
}
