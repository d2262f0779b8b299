//! The last things that a task does with a connection: its end is recorded, its transaction ended, the session reset.

use std::future::Future;
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{Connection, Either, Executor, Row};

use crate::capability::sql::postgres::lowered;
use crate::capability::sql::postgres::pool::Live;
use crate::capability::sql::postgres::running::Running;
use crate::capability::sql::{CommitError, Committed, DbError, SqlError};
use crate::records::{EndTask, Ending};

/// Ends a transaction's session state in the same round trip as the transaction: all that `DISCARD ALL` ends but the
/// prepared statements, which the driver goes on using. Those are looked at instead, for code in the server can prepare some
/// of its own, and drop the driver's. The functions with their schema, for the agent's search path is still in force and
/// could lead to some of its own.
///
/// One row for each of them: summing them up, or a `FROM`, takes the server half as long again (measured: 30 µs of its
/// processor's time beside the 10 of all before; 45 with a sum), and it buys that no statement is trusted for its text.
const RESET: &str = "\
    CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; \
    SELECT (pg_catalog.pg_prepared_statement()).from_sql, pg_catalog.pg_advisory_unlock_all()";
/// Ends a transaction, before [`RESET`].
pub(super) const COMMIT: &str = "COMMIT; ";
/// How long the end of a task, and then its commit, may take: the commit runs the agent's own deferred triggers.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the task's end part of its transaction, where the records are in this database. What ends the transaction goes out in
/// the same write, for [`end_transaction`] to read what came of it: a round trip less.
pub(super) async fn end_task(
    live: &mut Live,
    end_task: Option<&EndTask>,
    ending: Option<&Ending>,
) -> Result<Committed, CommitError> {
    let (Some(end_task), Some(function), Some(ending)) = (end_task, live.end_task, ending) else {
        return Ok(Committed::Effects);
    };
    let call = async {
        let ended = end_task.call(&mut live.connection, function, ending, [COMMIT, RESET].concat()).await;
        ended.map_err(|error| failed(lowered(error)))
    };
    within(&live.running, call).await.map(Committed::WithEnd)
}

/// Ends the transaction and resets the session in one round trip. Answers whether the connection is as good as new.
pub(super) async fn end_transaction(live: &mut Live, end: &str) -> Result<bool, CommitError> {
    let batch = [end, RESET].concat();
    let connection = &mut live.connection;
    let ending = async {
        let mut results = connection.fetch_many(batch.as_str());
        if !end.is_empty() {
            // The first answer is that of COMMIT, whatever becomes of the rest.
            loop {
                match results.try_next().await {
                    Ok(Some(Either::Left(_))) => break,
                    Ok(Some(Either::Right(_))) => {}
                    Ok(None) => return Ok(None),
                    Err(error) => return Err(failed(lowered(error))),
                }
            }
        }
        let mut kept = Kept::default();
        loop {
            match results.try_next().await {
                Ok(Some(Either::Right(row))) => kept.count(&row),
                Ok(Some(Either::Left(_))) => {}
                Ok(None) => return Ok(Some(kept)),
                Err(error) => {
                    let error = crate::capability::chain(&error);
                    tracing::debug!(error, "a connection could not be reset and is closed");
                    return Ok(None);
                }
            }
        }
    };
    let Some(kept) = within(&live.running, ending).await? else { return Ok(false) };
    Ok(kept.are_the_drivers(live.connection.cached_statements_size()) && live.connection.is_idle())
}

/// The statements that a session has prepared.
#[derive(Default)]
struct Kept {
    from_protocol: usize,
    others: usize,
}

impl Kept {
    /// Counts one by its row of [`RESET`]'s last answer.
    fn count(&mut self, row: &PgRow) {
        // As text: `t` for one that SQL has prepared, which the driver never does.
        match row.try_get_raw(0).map(|value| value.as_str().map(|text| text == "f")) {
            Ok(Ok(true)) => self.from_protocol = self.from_protocol.saturating_add(1),
            Ok(Ok(false) | Err(_)) | Err(_) => self.others = self.others.saturating_add(1),
        }
    }

    /// Whether they are the ones that the driver keeps. With none there was no row, and locks were not given back.
    fn are_the_drivers(&self, drivers: usize) -> bool {
        self.others == 0 && self.from_protocol == drivers && drivers > 0
    }
}

/// Runs it no longer than [`COMMIT_TIMEOUT`]. What takes longer, or ends the session, is the agent's doing, which may run
/// code at its commit, unless PostgreSQL is not there any more: else its task would be tried again without end.
async fn within<T>(running: &Running, work: impl Future<Output = Result<T, CommitError>>) -> Result<T, CommitError> {
    match tokio::time::timeout(COMMIT_TIMEOUT, work).await {
        Ok(Err(CommitError::Refused(error))) if error.ended_session() && !running.server_is_up().await => {
            Err(CommitError::Unavailable(error.into()))
        }
        Ok(result) => result,
        Err(_) if running.is_there().await => {
            // Once it is gone there is nothing that could still be committed.
            running.end().await;
            Err(CommitError::Refused(Box::new(too_long())))
        }
        Err(elapsed) => Err(CommitError::Unavailable(elapsed.into())),
    }
}

fn failed(error: SqlError) -> CommitError {
    match error {
        SqlError::Query(error) => CommitError::Refused(error),
        other => CommitError::Unavailable(other.into()),
    }
}

/// The commit that the host has ended.
fn too_long() -> DbError {
    DbError {
        // "query canceled"
        sqlstate: "57014".to_owned(),
        severity: "FATAL".to_owned(),
        message: format!("the commit took longer than {} s", COMMIT_TIMEOUT.as_secs()),
        detail: None,
        table: None,
        column: None,
        constraint: None,
    }
}
