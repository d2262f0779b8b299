//! One statement: prepared, run, its rows read, and what came of it told.

use std::future::Future;
use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Arguments, Either, Executor, Row as _, Statement, ValueRef};
use tokio::sync::{mpsc, oneshot};

use crate::capability::sql::postgres::pool::Live;
use crate::capability::sql::postgres::{codec, lowered, unreachable_database};
use crate::capability::sql::{Kind, RESULT_BYTES_MAX, ROWS_DROPPED_MAX, RowBatch, SqlError, Value};
use crate::manifest::TransactionMode;

/// What the host waits beyond `statement_timeout` for PostgreSQL to enforce it, before it does so itself: an agent can
/// change the setting, not this.
const STATEMENT_GRACE: Duration = Duration::from_secs(1);
/// A batch of rows is passed on when it has so many, or so many bytes. The next is begun once it was taken, so that no more
/// than one batch and one message of the server are in memory.
const BATCH_ROWS: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

/// Has the first statement of a task begin a transaction, in the same round trip, where the mode says so.
pub(super) fn begin(live: &mut Live, mode: TransactionMode) {
    if mode == TransactionMode::Task {
        live.connection.send_before("BEGIN");
    }
}

/// Runs a statement for the number of rows that it affects.
pub(super) async fn execute(
    live: &mut Live,
    statement: &str,
    parameters: &[Value],
    timeout: Duration,
) -> Result<u64, SqlError> {
    let work = async {
        let (statement, arguments) = prepare(live, statement, parameters, timeout).await?;
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
    told(result, live, timeout).await
}

/// Prepares the statement, or finds it prepared, and encodes the parameters for it.
pub(super) async fn prepare<'q>(
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

/// Runs a query and passes its rows on, in batches, as fast as they are taken. Tells when the server has begun to answer.
pub(super) async fn pump(
    live: &mut Live,
    statement: &PgStatement<'static>,
    arguments: PgArguments,
    kinds: &[Kind],
    answered: oneshot::Sender<()>,
    batches: &mpsc::Sender<RowBatch>,
) -> Result<(), SqlError> {
    let mut results = live.connection.fetch_many(statement.query_with(arguments));
    let mut batch = RowBatch::default();
    let mut answered = Some(answered);
    loop {
        if batch.rows.is_empty() {
            // Nobody listens any more where the cursor is gone with its session; the rest is then of no use.
            let _ = batches.reserve().await;
        }
        let result = results.try_next().await.map_err(lowered)?;
        if let Some(answered) = answered.take() {
            let _ = answered.send(());
        }
        let Some(result) = result else { break };
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
pub(super) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, SqlError>>,
) -> Option<Result<T, SqlError>> {
    tokio::time::timeout(timeout.saturating_add(STATEMENT_GRACE), work).await.ok()
}

/// What a statement came to. One that PostgreSQL itself should have ended by now is the agent's doing, which can change
/// that setting; unless PostgreSQL is not there any more, or not on this connection, and nobody said goodbye. And an end of
/// the session is the agent's doing, unless it is the end of the server.
pub(super) async fn told<T>(
    result: Option<Result<T, SqlError>>,
    live: &Live,
    timeout: Duration,
) -> Result<T, SqlError> {
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
    SqlError::Unavailable { what: "the database stopped answering".into(), source }
}
