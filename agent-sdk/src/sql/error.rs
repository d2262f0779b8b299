//! What can go wrong with a statement.

use crate::bindings::agent::runtime::sql as raw;

/// What PostgreSQL says of a statement that failed: SQLSTATE, severity, message, detail, table, column, constraint.
pub use raw::DbError as QueryError;

/// Why an operation on a database failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest does not grant this database.
    #[error("the database is not granted: {0}")]
    AccessDenied(String),
    /// No connection could be had, or it broke.
    #[error("no connection to the database: {0}")]
    ConnectionFailed(String),
    /// A parameter cannot be given to the statement.
    #[error("a parameter does not fit the statement: {0}")]
    BadParameter(String),
    /// PostgreSQL refused the statement.
    #[error("{} (SQLSTATE {})", .0.message, .0.sqlstate)]
    Query(Box<QueryError>),
    /// A value of the result cannot be represented.
    #[error("a value of the result cannot be represented: {0}")]
    ValueConversion(String),
    /// A cap on rows, bytes, connections or cursors was reached.
    #[error("a limit on SQL was reached: {0}")]
    LimitExceeded(String),
    /// A row was expected.
    #[error("the query gave no row")]
    NoRow,
    /// The result has no such column.
    #[error("the result has no column `{0}`")]
    NoColumn(String),
    /// A column holds something else than was asked for.
    #[error("the column `{column}` holds {found}, which is no {expected}")]
    Column {
        /// The column's name or position.
        column: String,
        /// The type that was asked for.
        expected: &'static str,
        /// The type that it holds.
        found: &'static str,
    },
}

impl Error {
    /// The SQLSTATE, where PostgreSQL refused the statement.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Query(error) => Some(&error.sqlstate),
            _ => None,
        }
    }

    /// Whether a unique constraint was violated.
    pub fn is_unique_violation(&self) -> bool {
        self.sqlstate() == Some("23505")
    }

    /// Whether the same task may succeed later: the connection was lost, the server is busy or going down, or the
    /// transaction met another one.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::ConnectionFailed(_) => true,
            Self::Query(error) => is_transient(&error.sqlstate),
            _ => false,
        }
    }
}

/// The classes of PostgreSQL's Appendix A that say nothing against the statement itself.
fn is_transient(sqlstate: &str) -> bool {
    const CLASSES: [&str; 3] = [
        "08", // connection exception
        "40", // transaction rollback: serialization failure, deadlock
        "53", // insufficient resources: too many connections, disk full
    ];
    const STATES: [&str; 5] = [
        "55P03", // lock not available
        "57014", // query cancelled: the statement's timeout
        "57P01", // admin shutdown
        "57P02", // crash shutdown
        "57P03", // cannot connect now
    ];
    STATES.contains(&sqlstate) || CLASSES.iter().any(|class| sqlstate.starts_with(class))
}

impl From<raw::Error> for Error {
    fn from(error: raw::Error) -> Self {
        match error {
            raw::Error::AccessDenied(text) => Self::AccessDenied(text),
            raw::Error::ConnectionFailed(text) => Self::ConnectionFailed(text),
            raw::Error::BadParameter(text) => Self::BadParameter(text),
            raw::Error::QueryFailed(error) => Self::Query(Box::new(error)),
            raw::Error::ValueConversionFailed(text) => Self::ValueConversion(text),
            raw::Error::LimitExceeded(text) => Self::LimitExceeded(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sqlstate: &str) -> Error {
        Error::Query(Box::new(QueryError {
            sqlstate: sqlstate.into(),
            severity: "ERROR".into(),
            message: "no".into(),
            detail: None,
            table: None,
            column: None,
            constraint: None,
        }))
    }

    #[test]
    fn meeting_another_transaction_is_transient_and_breaking_a_rule_is_not() {
        for sqlstate in ["40001", "40P01", "08006", "53300", "57P01", "57014"] {
            assert!(refused(sqlstate).is_transient(), "{sqlstate}");
        }
        for sqlstate in ["23505", "42P01", "22P02", "25P02"] {
            assert!(!refused(sqlstate).is_transient(), "{sqlstate}");
        }
        assert!(refused("23505").is_unique_violation());
        assert!(!Error::NoRow.is_transient());
    }
}
