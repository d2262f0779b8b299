//! One connection that is kept, and opened again when it is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use crate::store::{HostDatabase, StoreError};

/// How long a statement may take before its connection counts as lost: a server that vanished without a goodbye says
/// nothing, and TCP alone would wait for a quarter of an hour.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the statements of the writers, which carry what many agents' tasks have become, wait for a row that another
/// transaction holds. Hosts hold rows for the milliseconds of a statement; but the transaction of a task that ends holds its
/// row while the commit runs triggers of the agent's, for seconds if the agent likes.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_millis(50);

/// The pause before the second time that something is tried again, doubled each time. The first time there is none: a
/// server that closed one connection mostly takes the next.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest pause before trying again: a server that is back is noticed this soon.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// After a statement larger than this the connection's buffers are given back.
const BUFFERS_KEPT_BYTES: usize = 1 << 20;

/// A batch of at least this many says that there is load.
const LOAD_FROM: usize = 16;
/// So does one of at least this many that took so long: with processors to itself, a server takes one or two milliseconds. Measured:
/// whatever they took, callers who go on with each answer, 8 and 16 of them, were less than half as fast; from 3 ms on, 16 were a
/// sixth slower; from 5 ms on none is.
const SLOW_FROM: usize = 4;
const SLOW: Duration = Duration::from_millis(5);
/// How long the next batch gathers under load: the latency of one more statement, for far fewer statements and commits.
const GATHERED_FOR: Duration = Duration::from_millis(4);

/// Makes batches of calls, by how it went with the last one.
#[derive(Debug, Default)]
pub(super) struct Batches {
    last: usize,
    /// When the last one was given out, until the next is asked for.
    given_at: Option<Instant>,
    took: Duration,
}

impl Batches {
    /// Receives a batch. Without load whatever is there, at once; under load what gathers in a moment. Nothing when nobody can
    /// send any more. Where it is not waited for to its end, what it has received is in `batch`.
    pub(super) async fn recv<T>(
        &mut self,
        calls: &mut mpsc::Receiver<T>,
        batch: &mut Vec<T>,
        batch_max: usize,
    ) -> usize {
        if let Some(given_at) = self.given_at.take() {
            self.took = given_at.elapsed();
        }
        let mut received = calls.recv_many(batch, batch_max).await;
        let is_slow = self.last >= SLOW_FROM && self.took >= SLOW;
        if (is_slow || self.last >= LOAD_FROM) && received > 0 && received < batch_max {
            tokio::time::sleep(GATHERED_FOR).await;
            while received < batch_max
                && let Ok(call) = calls.try_recv()
            {
                batch.push(call);
                received += 1;
            }
        }
        self.last = received;
        self.given_at = Some(Instant::now());
        received
    }
}

/// Why a call to the records failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("the database refused the statement")]
    Refused(#[source] Arc<sqlx::Error>),
    #[error("the database was not there for {0:?}; it may be restarting")]
    Waited(Duration),
    #[error("the task is being ended at this moment")]
    Locked,
    #[error("the records are closed, because this host is stopping")]
    Closed,
}

/// What became of an attempt that failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection, or the server's readiness; worth another try.
    Passing,
    /// Another transaction holds one of the rows for longer than [`LOCK_TIMEOUT`]; nothing was written.
    Locked,
    /// One of the rows; the others may fare better without it.
    Row(Arc<sqlx::Error>),
    /// The statement, whatever it holds.
    Statement(Arc<sqlx::Error>),
}

/// One statement, which may be run again.
pub(super) trait Work: Sync {
    type Answer: Send;
    fn run(&self, connection: &mut PgConnection) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
    /// Bytes that it carries, roughly.
    fn bytes(&self) -> usize;
}

#[derive(Debug)]
pub(super) struct Link {
    database: HostDatabase,
    connection: Option<PgConnection>,
    /// What it is for, in the log.
    purpose: &'static str,
    pause: Duration,
}

impl Link {
    pub(super) async fn open(database: &HostDatabase, purpose: &'static str) -> Result<Self, StoreError> {
        let connection = Some(database.connect().await?);
        Ok(Self { database: database.clone(), connection, purpose, pause: Duration::ZERO })
    }

    /// Runs the work once. After [`Fault::Passing`] a pause has been made, and the caller decides whether to try again.
    pub(super) async fn attempt<W: Work>(&mut self, work: &W) -> Result<W::Answer, Fault> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.database.connect().await {
                Ok(connection) => {
                    tracing::info!(purpose = self.purpose, "task records: connected to the database again");
                    connection
                }
                Err(error) => return Err(self.pause_after(&error).await),
            },
        };
        let result = match tokio::time::timeout(STATEMENT_TIMEOUT, work.run(&mut connection)).await {
            Ok(result) => result,
            // The connection is in the middle of something: dropping it is the only way on.
            Err(_) => return Err(self.pause_after(&StoreError::Timeout(STATEMENT_TIMEOUT)).await),
        };
        let error = match result {
            Ok(answer) => {
                if work.bytes() > BUFFERS_KEPT_BYTES {
                    connection.shrink_buffers();
                }
                self.connection = Some(connection);
                self.pause = Duration::ZERO;
                return Ok(answer);
            }
            Err(error) => error,
        };
        match judged(&error) {
            Judgement::Passing => Err(self.pause_after(&error).await),
            Judgement::Locked => {
                self.connection = Some(connection);
                Err(Fault::Locked)
            }
            Judgement::Row => {
                self.connection = Some(connection);
                Err(Fault::Row(Arc::new(error)))
            }
            Judgement::Statement => {
                self.connection = Some(connection);
                Err(Fault::Statement(Arc::new(error)))
            }
        }
    }

    async fn pause_after(&mut self, error: &(dyn std::error::Error + Sync)) -> Fault {
        let cause = error.source().map(ToString::to_string);
        tracing::warn!(purpose = self.purpose, %error, cause, "task records: the database is away, trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        Fault::Passing
    }
}

/// Whether an error is worth another try.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    matches!(judged(error), Judgement::Passing | Judgement::Locked)
}

enum Judgement {
    Passing,
    Locked,
    Row,
    Statement,
}

/// What to make of an error, by the class of its SQLSTATE (PostgreSQL's appendix A).
fn judged(error: &sqlx::Error) -> Judgement {
    let Some(code) = error.as_database_error().and_then(|error| error.code()) else {
        // Input and output, TLS, the protocol: all of the connection, except what our own side could not encode.
        return match error {
            sqlx::Error::Encode(_) => Judgement::Row,
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => {
                Judgement::Statement
            }
            _ => Judgement::Passing,
        };
    };
    // 25006: a former primary, which only reads until the address points to the new one.
    if code == "25006" {
        return Judgement::Passing;
    }
    if code == "55P03" {
        return Judgement::Locked;
    }
    match code.get(..2) {
        // Connection, rollback (deadlock), resources, object in use, operator intervention (restart), system.
        Some("08" | "40" | "53" | "55" | "57" | "58") => Judgement::Passing,
        // Data, integrity, limits of a value's size.
        Some("22" | "23" | "54") => Judgement::Row,
        _ => Judgement::Statement,
    }
}
