//! The last things that a task does with a connection: its end is recorded, its transaction ended, the session reset.

use std::time::Duration;

use futures::TryStreamExt;
use sqlx::{Either, Executor};

use crate::capability::sql::postgres::lowered;
use crate::capability::sql::postgres::pool::Live;
use crate::capability::sql::{CommitError, Committed, SqlError};
use crate::records::{EndTask, Ending};

/// Ends a transaction's session state in the same round trip as the transaction. Not `DISCARD ALL`: that drops the
/// prepared statements, which the driver goes on using. The function with its schema, for the agent's search path is
/// still in force and could lead to one of its own.
const RESET: &str =
    "SELECT pg_catalog.pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; RESET ALL";
/// How long a commit may take.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the task's end part of its transaction, where the records are in this database.
pub(super) async fn end_task(
    live: &mut Live,
    end_task: Option<&EndTask>,
    ending: Option<&Ending>,
) -> Result<Committed, CommitError> {
    let (Some(end_task), Some(ending)) = (end_task, ending) else { return Ok(Committed::Effects) };
    match tokio::time::timeout(COMMIT_TIMEOUT, end_task.call(&mut live.connection, ending)).await {
        Ok(Ok(ended)) => Ok(Committed::WithEnd(ended)),
        Ok(Err(error)) => Err(match lowered(error) {
            SqlError::Query(error) => CommitError::Refused(error),
            other => CommitError::Unavailable(other.into()),
        }),
        Err(elapsed) => Err(CommitError::Unavailable(elapsed.into())),
    }
}

/// Ends the transaction and resets the session in one round trip. Answers whether the connection is as good as new.
pub(super) async fn end_transaction(live: &mut Live, end: &str) -> Result<bool, CommitError> {
    let batch = [end, RESET].concat();
    let mut results = live.connection.fetch_many(batch.as_str());
    if !end.is_empty() {
        // The first answer is that of COMMIT, whatever becomes of the rest.
        loop {
            match results.try_next().await {
                Ok(Some(Either::Left(_))) => break,
                Ok(Some(Either::Right(_))) => {}
                Ok(None) => return Ok(false),
                Err(error) => {
                    return Err(match lowered(error) {
                        SqlError::Query(error) => CommitError::Refused(error),
                        other => CommitError::Unavailable(other.into()),
                    });
                }
            }
        }
    }
    loop {
        match results.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(true),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be reset and is closed");
                return Ok(false);
            }
        }
    }
}
