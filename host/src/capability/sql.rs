//! SQL: an agent's own schema in PostgreSQL, by name.
//!
//! The agent opens a database that its manifest grants and never sees an address. All statements of a task share one
//! connection under the agent's own login role; under `transaction = "task"` they are one transaction, opened with the
//! first statement and ended by `SqlSession::finish`. Statements go through the extended protocol: one statement a
//! call, values apart from the text.
//!
//! [`Database`] is the port. [`Postgres`] is a server that is there already, [`LazyDatabase`] a private one that is
//! started for the first agent that wants it; `conformance` holds both to the same rules.

#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod host;
mod lazy;
mod postgres;
mod session;
mod value;

pub use lazy::LazyDatabase;
pub use postgres::{Postgres, PostgresConfig};
pub use value::{Column, Date, DateTime, Kind, Row, Time, Value};

pub(super) use session::SqlSession;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cause;
use super::recording::forms::cause;
use crate::catalog::Migration;
use crate::manifest::{SqlGrant, TransactionMode};
use crate::memory::{Holder, NoRoom};
use crate::records::{Ended, Ending};
use crate::task::AgentName;

/// Longest statement, in bytes. Prepared statements are kept on both sides, so this bounds what a connection holds.
pub const STATEMENT_BYTES_MAX: usize = 128 << 10;
/// Most bytes of the parameters of one statement.
pub const PARAMETERS_BYTES_MAX: usize = 8 << 20;
/// Most bytes of rows that one task has read and not yet taken, over all of its cursors; also the most of one result.
pub const RESULT_BYTES_MAX: usize = 8 << 20;
/// Most bytes of one message of PostgreSQL on an agent's connection: a row, or an error. It is looked at before the message
/// is read, and a larger row could not be given out anyway.
pub const MESSAGE_BYTES_MAX: usize = RESULT_BYTES_MAX;
/// Most rows that a statement may have given that was run for the number of rows that it affected: they are read and
/// dropped, which is work of the host's.
pub const ROWS_DROPPED_MAX: u64 = 100_000;
/// Longest text of an error of PostgreSQL, in bytes; what is longer is cut. Agents raise errors of their own, and these
/// texts are copied into dead letters.
pub const ERROR_TEXT_BYTES_MAX: usize = 8 << 10;
/// Most connection handles and cursors that one task has open.
pub const HANDLES_MAX: usize = 64;

/// A database that the guest has opened: which of the manifest's grants it is.
#[derive(Clone, Copy, Debug)]
pub struct OpenDatabase {
    grant: usize,
}

/// The rows of a query, as the guest holds them.
#[derive(Debug)]
pub struct Cursor {
    id: u64,
    columns: Vec<Column>,
}

/// What PostgreSQL said of a statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message} (SQLSTATE {sqlstate})")]
pub struct DbError {
    /// Five characters.
    pub sqlstate: String,
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// What went wrong.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// The table concerned.
    pub table: Option<String>,
    /// The column concerned.
    pub column: Option<String>,
    /// The constraint concerned.
    pub constraint: Option<String>,
}

impl DbError {
    /// Whether another transaction was in the way (a serialization failure or a deadlock), so that the same work may well
    /// succeed when it is done again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self.sqlstate.as_str(), "40001" | "40P01")
    }

    /// Whether PostgreSQL ended the session with this. Agents can have it do so: by name, or with a timeout of their own.
    #[must_use]
    pub fn ended_session(&self) -> bool {
        self.severity != "ERROR"
    }
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum SqlError {
    /// The statement is one that agents may not run.
    #[error("{0}")]
    Denied(String),
    /// No connection, or it broke.
    #[error("{what}")]
    Unavailable {
        /// What could not be done, without addresses.
        what: Cow<'static, str>,
        /// Why.
        #[source]
        #[serde(with = "cause")]
        source: Cause,
    },
    /// A parameter does not fit the statement.
    #[error("{0}")]
    BadParameter(String),
    /// PostgreSQL refused the statement.
    #[error(transparent)]
    Query(#[from] Box<DbError>),
    /// A value of the result cannot be represented.
    #[error("{0}")]
    Conversion(String),
    /// A cap was reached; the text names it.
    #[error("{0}")]
    LimitExceeded(String),
    /// The memory budget has no room for what the statement gives or takes: the task is to be handed back.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl SqlError {
    /// Its kind, for a trace: what PostgreSQL refused, by SQLSTATE.
    pub(super) fn kind(&self) -> crate::trace::Value {
        match self {
            Self::Denied(_) => "access-denied".into(),
            Self::Unavailable { .. } => "connection-failed".into(),
            Self::BadParameter(_) => "bad-parameter".into(),
            Self::Query(error) => error.sqlstate.clone().into(),
            Self::Conversion(_) => "value-conversion-failed".into(),
            Self::LimitExceeded(_) => "limit-exceeded".into(),
            Self::NoRoom(_) => "no-room".into(),
        }
    }
}

/// Why effects that were to be committed were not, or perhaps not.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum CommitError {
    /// A statement had failed, or a cap was reached, and the agent went on as if it had not: there was nothing left to
    /// commit. The agent's doing; nothing was committed.
    #[error("the transaction was aborted by an earlier failure: {0}")]
    Aborted(String),
    /// PostgreSQL refused to commit: a deferred constraint, or a conflict with another transaction. Nothing was committed.
    #[error("the transaction could not be committed")]
    Refused(#[source] Box<DbError>),
    /// Rows that the agent did not take had no room. Nothing was committed, and the task is to be handed back.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The connection broke. Whether it was committed is unknown.
    #[error("the connection to the database broke during the commit")]
    Unavailable(
        #[source]
        #[serde(with = "cause")]
        Cause,
    ),
}

/// Why an agent's schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The database cannot be reached, or the host's own role may not do what it has to.
    #[error("{what}")]
    Unavailable {
        /// What could not be done.
        what: &'static str,
        /// Why.
        #[source]
        source: Cause,
    },
    /// There is no database; the text says what to install or to set.
    #[error("{0}")]
    Missing(String),
    /// A migration failed; nothing of it was kept.
    #[error("migration {name} failed")]
    Migration {
        /// The migration's file name.
        name: String,
        /// What PostgreSQL said.
        #[source]
        source: Cause,
    },
    /// A migration is not the one that was applied under its name.
    #[error("migration {name} was changed after it was applied: restore it, and put the change into a new file")]
    Changed {
        /// The migration's file name.
        name: String,
    },
}

/// Connections of the host to its databases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// In use by a task.
    pub used: usize,
    /// Open, and waiting for a task.
    pub idle: usize,
    /// Most that may be open.
    pub max: usize,
}

/// A database server with a schema and a login role for each agent.
#[async_trait::async_trait]
pub trait Database: Send + Sync + 'static {
    /// Makes the agent's role and schema and applies what is new of its migrations, in order, each in a transaction,
    /// under a lock that holds the fleet's other hosts off. Doing it again changes nothing.
    async fn provision(
        &self,
        agent: &AgentName,
        grants: &[SqlGrant],
        migrations: &[Migration],
    ) -> Result<(), ProvisionError>;

    /// A connection in the agent's name, in a transaction where the mode says so. Waits while all are in use.
    async fn open(
        &self,
        agent: &AgentName,
        mode: TransactionMode,
        statement_timeout: Duration,
    ) -> Result<Box<dyn SqlConnection>, SqlError>;

    /// How many connections there are.
    fn connections(&self) -> ConnectionCounts;

    /// Closes all connections; a private server is stopped.
    async fn close(&self);
}

/// How a task's use of SQL is to end.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// Nothing of it stays.
    Rollback,
    /// All of it stays, and in the same commit this end of the task, where the database keeps the records too.
    Commit(Option<&'a Ending>),
}

/// What a commit was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Of effects alone, or there were none: the task's end is still to be recorded.
    Effects,
    /// Of the task's end too; after [`Ended::Before`] the effects were rolled back.
    WithEnd(Ended),
}

/// Some rows of a result.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RowBatch {
    /// The rows.
    pub rows: Vec<Row>,
    /// What they take in memory, about.
    pub bytes: usize,
}

/// A connection in the hands of one task. Dropping it rolls back and closes it.
#[async_trait::async_trait]
pub trait SqlConnection: Send {
    /// Accounts there, before they are read, for large messages of the server.
    fn account_to(&mut self, holder: &Holder);

    /// Runs a statement and gives the number of rows that it affected.
    async fn execute(&mut self, statement: &str, parameters: &[Value], timeout: Duration) -> Result<u64, SqlError>;

    /// Runs a statement and gives the columns of its result; [`next_rows`](Self::next_rows) gives the rows. No other
    /// statement may run before those have ended.
    async fn query(
        &mut self,
        statement: &str,
        parameters: &[Value],
        timeout: Duration,
    ) -> Result<Vec<Column>, SqlError>;

    /// The next rows of the running query; nothing at its end.
    async fn next_rows(&mut self) -> Result<Option<RowBatch>, SqlError>;

    /// Whether a query's rows have not all been read.
    fn is_streaming(&self) -> bool;

    /// Whether the connection is gone, and a transaction with it.
    fn is_lost(&self) -> bool;

    /// Makes sure that nothing is committed: for a result that is not to be read to its end.
    fn abandon(&mut self, reason: &str);

    /// Commits or rolls back, and gives the connection back where it is as good as new. After a rollback it answers `Ok`.
    async fn finish(self: Box<Self>, end: End<'_>) -> Result<Committed, CommitError>;
}
