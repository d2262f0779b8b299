//! PostgreSQL. The agent opens a database by the name in its manifest, and works in a schema of its own.
//!
//! ```no_run
//! use agent_sdk::{params, sql};
//!
//! # fn example() -> Result<(), sql::Error> {
//! let database = sql::Connection::open("main")?;
//! database.execute("INSERT INTO visits (page) VALUES ($1)", params!["/"])?;
//! for row in database.query("SELECT page, count(*) FROM visits GROUP BY page", params![])? {
//!     let row = row?;
//!     let (page, count): (String, i64) = (row.get("page")?, row.get(1)?);
//!     agent_sdk::info!("{page}: {count}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Under the manifest's `transaction = "task"` (the default) all statements of a task are one transaction, which
//! commits if the task succeeds. A statement that fails leaves it aborted: prefer `ON CONFLICT` to catching errors.

mod error;
mod time;
mod value;

use std::fmt;
use std::rc::Rc;

pub use error::{Error, QueryError};
pub use value::{FromValue, ToParam};

#[cfg(target_family = "wasm")]
use crate::bindings::agent::runtime::sql as raw;
use crate::bindings::agent::runtime::sql as types;
#[cfg(not(target_family = "wasm"))]
use crate::testing::sql as raw;

/// A value for a parameter; see [`params!`](crate::params).
pub use types::ParameterValue as Param;

/// A value of a row, as the database gave it.
pub use types::DbValue as Value;

/// How many rows one call to the host fetches: enough to make its cost small, few enough to hold in memory.
const BATCH_ROWS: u32 = 256;

/// Makes the parameters of a statement from values that implement [`ToParam`], in the order of
/// `$1`, `$2`, …
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::sql::ToParam::to_param(&$value)),*] };
}

/// An open database.
#[derive(Debug)]
pub struct Connection(raw::Connection);

impl Connection {
    /// Opens a database that the manifest grants by this name.
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self(raw::Connection::open(name)?))
    }

    /// Runs a statement and gives the number of rows that it affected.
    #[cfg_attr(
        not(target_family = "wasm"),
        expect(clippy::needless_question_mark, reason = "a test's world fails with this error itself")
    )]
    pub fn execute(&self, statement: &str, params: &[Param]) -> Result<u64, Error> {
        Ok(self.0.execute(statement, params)?)
    }

    /// Runs a statement and streams its rows.
    pub fn query(&self, statement: &str, params: &[Param]) -> Result<Rows, Error> {
        self.query_by(BATCH_ROWS, statement, params)
    }

    fn query_by(&self, batch_rows: u32, statement: &str, params: &[Param]) -> Result<Rows, Error> {
        let cursor = self.0.query(statement, params)?;
        let columns = cursor.columns().into_iter().map(|column| column.name).collect();
        Ok(Rows { cursor, columns, batch_rows, batch: Vec::new().into_iter(), done: false })
    }

    /// Runs a statement and gives its first row. [`Error::NoRow`] where there is none.
    pub fn query_one(&self, statement: &str, params: &[Param]) -> Result<Row, Error> {
        self.query_opt(statement, params)?.ok_or(Error::NoRow)
    }

    /// Runs a statement and gives its first row, if there is one.
    pub fn query_opt(&self, statement: &str, params: &[Param]) -> Result<Option<Row>, Error> {
        self.query_by(1, statement, params)?.next().transpose()
    }

    /// Runs a statement and gives all its rows.
    pub fn query_all(&self, statement: &str, params: &[Param]) -> Result<Vec<Row>, Error> {
        self.query(statement, params)?.collect()
    }
}

/// The rows of a query, fetched in batches as they are read. After an error there are no more.
pub struct Rows {
    cursor: raw::Cursor,
    columns: Rc<[String]>,
    batch_rows: u32,
    batch: std::vec::IntoIter<Vec<Value>>,
    done: bool,
}

impl Rows {
    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

impl Iterator for Rows {
    type Item = Result<Row, Error>;

    #[cfg_attr(
        not(target_family = "wasm"),
        expect(clippy::useless_conversion, reason = "a test's world fails with this error itself")
    )]
    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.len() == 0 && !self.done {
            match self.cursor.next(self.batch_rows) {
                Ok(batch) => {
                    self.done = batch.is_empty();
                    self.batch = batch.into_iter();
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error.into()));
                }
            }
        }
        let values = self.batch.next()?;
        Some(Ok(Row { columns: Rc::clone(&self.columns), values }))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    columns: Rc<[String]>,
    values: Vec<Value>,
}

impl Row {
    /// The value of a column, by its name or its position (from 0), as a type that holds all of it.
    pub fn get<T: FromValue>(&self, column: impl Column) -> Result<T, Error> {
        let value = column
            .position(&self.columns)
            .and_then(|position| self.values.get(position))
            .ok_or_else(|| Error::NoColumn(column.to_string()))?;
        T::from_value(value.clone()).map_err(|value| Error::Column {
            column: column.to_string(),
            expected: std::any::type_name::<T>(),
            found: value::kind(&value),
        })
    }

    /// The values in the order of the columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// How a column is named: its name, or its position.
pub trait Column: fmt::Display {
    /// The column's position.
    fn position(&self, columns: &[String]) -> Option<usize>;
}

impl Column for &str {
    fn position(&self, columns: &[String]) -> Option<usize> {
        columns.iter().position(|name| name == self)
    }
}

impl Column for usize {
    fn position(&self, _columns: &[String]) -> Option<usize> {
        Some(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row { columns: Rc::from(["id".to_owned(), "name".to_owned()]), values: vec![Value::Int64(7), Value::DbNull] }
    }

    #[test]
    fn a_value_is_read_by_name_and_by_position() {
        assert_eq!(row().get::<i64>("id"), Ok(7));
        assert_eq!(row().get::<i64>(0), Ok(7));
        assert_eq!(row().get::<Option<String>>("name"), Ok(None));
    }

    #[test]
    fn what_does_not_fit_says_which_column_and_what_it_holds() {
        let error = row().get::<String>("name").unwrap_err();
        assert_eq!(error.to_string(), "the column `name` holds NULL, which is no alloc::string::String");
        assert_eq!(row().get::<i64>("nmae"), Err(Error::NoColumn("nmae".into())));
        assert_eq!(row().get::<i64>(2), Err(Error::NoColumn("2".into())));
    }

    #[test]
    fn parameters_keep_their_order_and_types() {
        let params: &[Param] = params![1_i32, "two", None::<String>, Some(true)];
        assert_eq!(params, [Param::Int32(1), Param::Str("two".into()), Param::DbNull, Param::Boolean(true)]);
        let none: &[Param] = params![];
        assert_eq!(none, []);
    }
}
