//! `agent:runtime/sql` in terms of [`SqlSession`](super::SqlSession).

use wasmtime::component::Resource;

use super::session::Reach;
use super::{Column, Cursor, Date, DateTime, DbError, HANDLES_MAX, Kind, OpenDatabase, SqlError, Time, Value};
use crate::capability::calls::On;
use crate::capability::{View, denied, quoted};
use crate::trace::Span;
use crate::wit::capabilities::agent::runtime::sql as wit;

/// The outer error traps, the inner one is the guest's to handle.
type Answer<T> = wasmtime::Result<Result<T, wit::Error>>;

impl wit::Host for View<'_> {}

impl wit::HostConnection for View<'_> {
    fn open(&mut self, name: String) -> Answer<Resource<OpenDatabase>> {
        self.session.count_call();
        let Some((grant, _)) = self.session.plan().sql_grant(&name) else {
            let name = quoted(&name);
            let line = format!("[grants] sql = [{{ name = {name} }}]");
            self.session.note_denied("sql", &name, &line);
            return Ok(Err(wit::Error::AccessDenied(denied(&format!("the database {name}"), &line))));
        };
        if self.session.sql.handles >= HANDLES_MAX {
            let text = format!("a task has at most {HANDLES_MAX} connections open");
            return Ok(Err(wit::Error::LimitExceeded(text)));
        }
        self.session.sql.handles = self.session.sql.handles.saturating_add(1);
        Ok(Ok(self.table.push(OpenDatabase { grant })?))
    }

    async fn query(
        &mut self,
        database: Resource<OpenDatabase>,
        statement: String,
        parameters: Vec<wit::ParameterValue>,
    ) -> Answer<Resource<Cursor>> {
        self.session.count_call();
        let open = *self.table.get(&database)?;
        let parameters: Vec<Value> = parameters.into_iter().map(Value::from).collect();
        let span = self.session.calls().operation(On::Sql, "query");
        let (sql, database, plan) = self.session.sql_parts();
        let Some(grant) = plan.manifest().grants.sql.get(open.grant) else { return Ok(Err(no_grant())) };
        let answer = sql.query(Reach { database, plan, grant }, &statement, &parameters).await;
        match answer {
            Ok((id, columns)) => Ok(Ok(self.table.push(Cursor { id, columns })?)),
            Err(error) => self.sql_failed(span, error),
        }
    }

    async fn execute(
        &mut self,
        database: Resource<OpenDatabase>,
        statement: String,
        parameters: Vec<wit::ParameterValue>,
    ) -> Answer<u64> {
        self.session.count_call();
        let open = *self.table.get(&database)?;
        let parameters: Vec<Value> = parameters.into_iter().map(Value::from).collect();
        let span = self.session.calls().operation(On::Sql, "execute");
        let (sql, database, plan) = self.session.sql_parts();
        let Some(grant) = plan.manifest().grants.sql.get(open.grant) else { return Ok(Err(no_grant())) };
        let answer = sql.execute(Reach { database, plan, grant }, &statement, &parameters).await;
        match answer {
            Ok(rows) => Ok(Ok(rows)),
            Err(error) => self.sql_failed(span, error),
        }
    }

    async fn drop(&mut self, database: Resource<OpenDatabase>) -> wasmtime::Result<()> {
        self.table.delete(database)?;
        self.session.sql.handles = self.session.sql.handles.saturating_sub(1);
        Ok(())
    }
}

impl wit::HostCursor for View<'_> {
    fn columns(&mut self, cursor: Resource<Cursor>) -> wasmtime::Result<Vec<wit::Column>> {
        self.session.count_call();
        Ok(self.table.get(&cursor)?.columns.iter().map(wit::Column::from).collect())
    }

    async fn next(&mut self, cursor: Resource<Cursor>, max: u32) -> Answer<Vec<wit::Row>> {
        self.session.count_call();
        let id = self.table.get(&cursor)?.id;
        let span = self.session.calls().operation(On::Sql, "next");
        match self.session.sql.next(id, max).await {
            Ok(rows) => {
                let lower = |row: Vec<Value>| row.into_iter().map(wit::DbValue::from).collect();
                Ok(Ok(rows.into_iter().map(lower).collect()))
            }
            Err(error) => self.sql_failed(span, error),
        }
    }

    async fn drop(&mut self, cursor: Resource<Cursor>) -> wasmtime::Result<()> {
        let cursor = self.table.delete(cursor)?;
        self.session.sql.forget(cursor.id);
        Ok(())
    }
}

impl View<'_> {
    fn sql_failed<T>(&mut self, mut span: Span, error: SqlError) -> Answer<T> {
        span.fail(error.kind());
        self.sql_told(error)
    }

    /// What the guest is told of a failure; where there was no room for its answer, the task ends here.
    fn sql_told<T>(&mut self, error: SqlError) -> Answer<T> {
        Ok(Err(match error {
            SqlError::Denied(text) => wit::Error::AccessDenied(text),
            SqlError::Unavailable { ref what, .. } => {
                self.session.note_failed("sql", &error);
                wit::Error::ConnectionFailed(what.clone().into_owned())
            }
            SqlError::BadParameter(text) => wit::Error::BadParameter(text),
            SqlError::Query(error) => {
                if error.is_conflict() {
                    self.session.note_conflict();
                }
                wit::Error::QueryFailed((*error).into())
            }
            SqlError::Conversion(text) => wit::Error::ValueConversionFailed(text),
            SqlError::LimitExceeded(text) => wit::Error::LimitExceeded(text),
            SqlError::NoRoom(error) => return Err(error.into()),
        }))
    }
}

/// A handle outlives no session, and a session's manifest does not change; still not a reason to trap.
fn no_grant() -> wit::Error {
    wit::Error::AccessDenied("the manifest does not grant this database".to_owned())
}

impl From<DbError> for wit::DbError {
    fn from(error: DbError) -> Self {
        Self {
            sqlstate: error.sqlstate,
            severity: error.severity,
            message: error.message,
            detail: error.detail,
            table: error.table,
            column: error.column,
            constraint: error.constraint,
        }
    }
}

impl From<&Column> for wit::Column {
    fn from(column: &Column) -> Self {
        let data_type = match &column.kind {
            Kind::Boolean => wit::DbDataType::Boolean,
            Kind::Int8 => wit::DbDataType::Int8,
            Kind::Int16 => wit::DbDataType::Int16,
            Kind::Int32 => wit::DbDataType::Int32,
            Kind::Int64 => wit::DbDataType::Int64,
            Kind::Float32 => wit::DbDataType::Floating32,
            Kind::Float64 => wit::DbDataType::Floating64,
            Kind::Text => wit::DbDataType::Str,
            Kind::Binary => wit::DbDataType::Binary,
            Kind::Date => wit::DbDataType::Date,
            Kind::Time => wit::DbDataType::Time,
            Kind::DateTime => wit::DbDataType::Datetime,
            Kind::Uuid => wit::DbDataType::Uuid,
            Kind::Json => wit::DbDataType::Jsonb,
            Kind::Decimal => wit::DbDataType::Decimal,
            Kind::ArrayInt32 => wit::DbDataType::ArrayInt32,
            Kind::ArrayInt64 => wit::DbDataType::ArrayInt64,
            Kind::ArrayDecimal => wit::DbDataType::ArrayDecimal,
            Kind::ArrayText => wit::DbDataType::ArrayStr,
            Kind::Other(name) => wit::DbDataType::Other(name.clone()),
        };
        Self { name: column.name.clone(), data_type }
    }
}

fn date_out(date: Date) -> wit::Date {
    (date.year, date.month, date.day)
}

fn date_in((year, month, day): wit::Date) -> Date {
    Date { year, month, day }
}

fn time_out(time: Time) -> wit::Time {
    (time.hour, time.minute, time.second, time.nanosecond)
}

fn time_in((hour, minute, second, nanosecond): wit::Time) -> Time {
    Time { hour, minute, second, nanosecond }
}

fn date_time_out(DateTime { date, time }: DateTime) -> wit::Datetime {
    (date.year, date.month, date.day, time.hour, time.minute, time.second, time.nanosecond)
}

fn date_time_in((year, month, day, hour, minute, second, nanosecond): wit::Datetime) -> DateTime {
    DateTime { date: Date { year, month, day }, time: Time { hour, minute, second, nanosecond } }
}

impl From<Value> for wit::DbValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::DbNull,
            Value::Boolean(value) => Self::Boolean(value),
            Value::Int8(value) => Self::Int8(value),
            Value::Int16(value) => Self::Int16(value),
            Value::Int32(value) => Self::Int32(value),
            Value::Int64(value) => Self::Int64(value),
            Value::Float32(value) => Self::Floating32(value),
            Value::Float64(value) => Self::Floating64(value),
            Value::Text(value) => Self::Str(value),
            Value::Binary(value) => Self::Binary(value),
            Value::Date(value) => Self::Date(date_out(value)),
            Value::Time(value) => Self::Time(time_out(value)),
            Value::DateTime(value) => Self::Datetime(date_time_out(value)),
            Value::Timestamp(value) => Self::Timestamp(value),
            Value::Uuid(value) => Self::Uuid(value),
            Value::Json(value) => Self::Jsonb(value),
            Value::Decimal(value) => Self::Decimal(value),
            Value::ArrayInt32(value) => Self::ArrayInt32(value),
            Value::ArrayInt64(value) => Self::ArrayInt64(value),
            Value::ArrayDecimal(value) => Self::ArrayDecimal(value),
            Value::ArrayText(value) => Self::ArrayStr(value),
            Value::Unsupported(value) => Self::Unsupported(value),
        }
    }
}

impl From<wit::ParameterValue> for Value {
    fn from(value: wit::ParameterValue) -> Self {
        use wit::ParameterValue as Given;
        match value {
            Given::Boolean(value) => Self::Boolean(value),
            Given::Int8(value) => Self::Int8(value),
            Given::Int16(value) => Self::Int16(value),
            Given::Int32(value) => Self::Int32(value),
            Given::Int64(value) => Self::Int64(value),
            Given::Floating32(value) => Self::Float32(value),
            Given::Floating64(value) => Self::Float64(value),
            Given::Str(value) => Self::Text(value),
            Given::Binary(value) => Self::Binary(value),
            Given::Date(value) => Self::Date(date_in(value)),
            Given::Time(value) => Self::Time(time_in(value)),
            Given::Datetime(value) => Self::DateTime(date_time_in(value)),
            Given::Timestamp(value) => Self::Timestamp(value),
            Given::Uuid(value) => Self::Uuid(value),
            Given::Jsonb(value) => Self::Json(value),
            Given::Decimal(value) => Self::Decimal(value),
            Given::ArrayInt32(value) => Self::ArrayInt32(value),
            Given::ArrayInt64(value) => Self::ArrayInt64(value),
            Given::ArrayDecimal(value) => Self::ArrayDecimal(value),
            Given::ArrayStr(value) => Self::ArrayText(value),
            Given::DbNull => Self::Null,
        }
    }
}
