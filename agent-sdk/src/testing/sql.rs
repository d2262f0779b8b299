//! Statements, which the test answers.

use super::with;
pub(crate) use crate::bindings::agent::runtime::sql::{Column, DbDataType, DbError, DbValue, ParameterValue};
use crate::sql::Error;

/// What a statement comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer(Result<Rows, Error>);

#[derive(Debug, Clone, PartialEq)]
struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<DbValue>>,
    affected: u64,
}

impl Answer {
    /// Rows, of values that are made by [`params!`](crate::params).
    pub fn rows(columns: &[&str], rows: &[&[ParameterValue]]) -> Self {
        let rows: Vec<Vec<DbValue>> = rows.iter().map(|row| row.iter().cloned().map(read).collect()).collect();
        let columns = columns.iter().map(|&name| name.to_owned()).collect();
        Self(Ok(Rows { columns, affected: rows.len() as u64, rows }))
    }

    /// So many rows that were inserted, updated or deleted.
    pub fn affected(count: u64) -> Self {
        Self(Ok(Rows { columns: Vec::new(), rows: Vec::new(), affected: count }))
    }

    /// A failure.
    pub fn failed(error: Error) -> Self {
        Self(Err(error))
    }

    /// A failure of PostgreSQL's, by its SQLSTATE, such as `23505` for a key that is there already.
    pub fn refused(sqlstate: &str, message: &str) -> Self {
        let (sqlstate, message) = (sqlstate.to_owned(), message.to_owned());
        let severity = "ERROR".to_owned();
        let error = DbError { sqlstate, severity, message, detail: None, table: None, column: None, constraint: None };
        Self(Err(Error::Query(Box::new(error))))
    }
}

#[derive(Debug)]
pub(crate) struct Connection;

pub(crate) struct Cursor {
    columns: Vec<String>,
    rows: std::cell::RefCell<std::vec::IntoIter<Vec<DbValue>>>,
}

impl Connection {
    pub(crate) fn open(_name: &str) -> Result<Self, Error> {
        Ok(Self)
    }

    pub(crate) fn execute(&self, statement: &str, params: &[ParameterValue]) -> Result<u64, Error> {
        Ok(answer(statement, params)?.affected)
    }

    pub(crate) fn query(&self, statement: &str, params: &[ParameterValue]) -> Result<Cursor, Error> {
        let Rows { columns, rows, .. } = answer(statement, params)?;
        Ok(Cursor { columns, rows: rows.into_iter().into() })
    }
}

impl Cursor {
    pub(crate) fn columns(&self) -> Vec<Column> {
        let of_no_type = |name: &String| Column { name: name.clone(), data_type: DbDataType::Other(String::new()) };
        self.columns.iter().map(of_no_type).collect()
    }

    pub(crate) fn next(&self, rows_max: u32) -> Result<Vec<Vec<DbValue>>, Error> {
        Ok(self.rows.borrow_mut().by_ref().take(rows_max as usize).collect())
    }
}

/// Asks the test, which may look at its world meanwhile.
#[expect(clippy::panic, reason = "the test lacks something, and is to say so")]
fn answer(statement: &str, params: &[ParameterValue]) -> Result<Rows, Error> {
    let Some(mut answer) = with(|state| state.sql.take()) else {
        panic!("nothing answers this statement; give the test's World an answer_sql: {statement}");
    };
    let answered = answer(statement, params);
    with(|state| {
        state.sql.get_or_insert(answer);
    });
    answered.0
}

/// A parameter as it is read again.
fn read(value: ParameterValue) -> DbValue {
    match value {
        ParameterValue::Boolean(value) => DbValue::Boolean(value),
        ParameterValue::Int8(value) => DbValue::Int8(value),
        ParameterValue::Int16(value) => DbValue::Int16(value),
        ParameterValue::Int32(value) => DbValue::Int32(value),
        ParameterValue::Int64(value) => DbValue::Int64(value),
        ParameterValue::Floating32(value) => DbValue::Floating32(value),
        ParameterValue::Floating64(value) => DbValue::Floating64(value),
        ParameterValue::Str(value) => DbValue::Str(value),
        ParameterValue::Binary(value) => DbValue::Binary(value),
        ParameterValue::Date(value) => DbValue::Date(value),
        ParameterValue::Time(value) => DbValue::Time(value),
        ParameterValue::Datetime(value) => DbValue::Datetime(value),
        ParameterValue::Timestamp(value) => DbValue::Timestamp(value),
        ParameterValue::Uuid(value) => DbValue::Uuid(value),
        ParameterValue::Jsonb(value) => DbValue::Jsonb(value),
        ParameterValue::Decimal(value) => DbValue::Decimal(value),
        ParameterValue::ArrayInt32(values) => DbValue::ArrayInt32(values),
        ParameterValue::ArrayInt64(values) => DbValue::ArrayInt64(values),
        ParameterValue::ArrayDecimal(values) => DbValue::ArrayDecimal(values),
        ParameterValue::ArrayStr(values) => DbValue::ArrayStr(values),
        ParameterValue::DbNull => DbValue::DbNull,
    }
}
