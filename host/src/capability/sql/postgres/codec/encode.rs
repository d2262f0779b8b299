//! To PostgreSQL's binary format.

use chrono::{NaiveDate, NaiveTime};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgTypeKind};
use sqlx::{Postgres, TypeInfo};

use super::{EPOCH, EPOCH_UNIX_SECONDS, MICROSECONDS_PER_SECOND, numeric, oid};
use crate::capability::sql::{Date, DateTime, Time, Value};

/// A parameter as it goes over the wire; nothing for NULL.
#[derive(Debug)]
pub(in super::super) struct Bound(Option<Vec<u8>>);

impl sqlx::Type<Postgres> for Bound {
    /// Never looked at: the statement is prepared already, with the types that PostgreSQL gave its parameters.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(oid::UNKNOWN))
    }
}

impl sqlx::Encode<'_, Postgres> for Bound {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn size_hint(&self) -> usize {
        self.0.as_ref().map_or(0, Vec::len)
    }
}

/// A value as a parameter of this type, the `number`th of the statement.
///
/// # Errors
/// A text for the guest: the value does not convert, or not without loss.
pub(in super::super) fn encode(value: &Value, of: &PgTypeInfo, number: usize) -> Result<Bound, String> {
    if matches!(value, Value::Null) {
        return Ok(Bound(None));
    }
    let bytes = match of.kind() {
        PgTypeKind::Enum(_) => as_text(value),
        PgTypeKind::Domain(base) => return encode(value, base, number),
        PgTypeKind::Simple
        | PgTypeKind::Pseudo
        | PgTypeKind::Composite(_)
        | PgTypeKind::Array(_)
        | PgTypeKind::Range(_) => by_oid(value, of.oid().map_or(0, |oid| oid.0)),
    };
    let wrong = || {
        let (name, given) = (of.name(), name(value));
        format!(
            "parameter ${number} is of type {name} and cannot be given as {given} without loss; `${number}::text::{name}` takes text"
        )
    };
    bytes.map(|bytes| Bound(Some(bytes))).ok_or_else(wrong)
}

fn by_oid(value: &Value, of: u32) -> Option<Vec<u8>> {
    match of {
        oid::BOOL => match value {
            Value::Boolean(value) => Some(vec![u8::from(*value)]),
            _ => None,
        },
        oid::CHAR => i8::try_from(as_integer(value)?).ok().map(|value| value.to_be_bytes().to_vec()),
        oid::INT2 => i16::try_from(as_integer(value)?).ok().map(|value| value.to_be_bytes().to_vec()),
        oid::INT4 => i32::try_from(as_integer(value)?).ok().map(|value| value.to_be_bytes().to_vec()),
        oid::INT8 => as_integer(value).map(|value| value.to_be_bytes().to_vec()),
        oid::OID => u32::try_from(as_integer(value)?).ok().map(|value| value.to_be_bytes().to_vec()),
        oid::FLOAT4 => as_float32(value).map(|value| value.to_be_bytes().to_vec()),
        oid::FLOAT8 => as_float64(value).map(|value| value.to_be_bytes().to_vec()),
        oid::NUMERIC => numeric::encode(&as_decimal(value)?),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UNKNOWN => as_text(value),
        oid::BYTEA => match value {
            Value::Binary(bytes) => Some(bytes.clone()),
            _ => None,
        },
        oid::JSON => as_json(value),
        // The version of the format, and then the text.
        oid::JSONB => as_json(value).map(|text| [&[1], text.as_slice()].concat()),
        oid::UUID => match value {
            Value::Uuid(text) | Value::Text(text) => uuid::Uuid::parse_str(text).ok().map(|id| id.as_bytes().to_vec()),
            _ => None,
        },
        oid::DATE => match value {
            Value::Date(date) => days(*date).map(|days| days.to_be_bytes().to_vec()),
            _ => None,
        },
        oid::TIME => match value {
            Value::Time(time) => microseconds(*time).map(|span| span.to_be_bytes().to_vec()),
            _ => None,
        },
        oid::TIMESTAMP | oid::TIMESTAMPTZ => as_timestamp(value).map(|span| span.to_be_bytes().to_vec()),
        oid::INT4_ARRAY | oid::INT8_ARRAY | oid::NUMERIC_ARRAY => number_array(value, of),
        oid::TEXT_ARRAY | oid::VARCHAR_ARRAY | oid::BPCHAR_ARRAY | oid::NAME_ARRAY => text_array(value, of),
        _ => None,
    }
}

/// Largest whole number up to which every whole number is a float of 64 bits.
const FLOAT64_EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// The same for 32 bits.
const FLOAT32_EXACT_MAX: i64 = 1 << 24;

fn as_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int8(value) => Some((*value).into()),
        Value::Int16(value) => Some((*value).into()),
        Value::Int32(value) => Some((*value).into()),
        Value::Int64(value) => Some(*value),
        // Languages whose only number is a float mean whole numbers by it.
        #[expect(clippy::cast_possible_truncation, reason = "whole, and inside the range where floats are exact")]
        Value::Float64(value) if value.fract() == 0.0 && value.abs() <= FLOAT64_EXACT_MAX => Some(*value as i64),
        Value::Decimal(text) => text.parse().ok(),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "checked to be exact")]
fn as_float32(value: &Value) -> Option<f32> {
    match value {
        Value::Float32(value) => Some(*value),
        // What a float of 64 bits holds is rounded, as PostgreSQL itself does on `float8::float4`, but not to infinity.
        Value::Float64(value) => Some(*value as f32).filter(|narrow| narrow.is_finite() || !value.is_finite()),
        _ => as_integer(value).filter(|value| value.abs() <= FLOAT32_EXACT_MAX).map(|value| value as f32),
    }
}

#[expect(clippy::cast_precision_loss, reason = "checked to be exact")]
fn as_float64(value: &Value) -> Option<f64> {
    match value {
        Value::Float32(value) => Some((*value).into()),
        Value::Float64(value) => Some(*value),
        _ => as_integer(value).map(|value| value as f64).filter(|value| value.abs() <= FLOAT64_EXACT_MAX),
    }
}

fn as_decimal(value: &Value) -> Option<String> {
    match value {
        Value::Decimal(text) | Value::Text(text) => Some(text.clone()),
        Value::Float64(value) if value.is_finite() => Some(value.to_string()),
        Value::Float32(value) if value.is_finite() => Some(value.to_string()),
        _ => as_integer(value).map(|value| value.to_string()),
    }
}

fn as_text(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Text(text) | Value::Uuid(text) | Value::Decimal(text) => Some(text.clone().into_bytes()),
        Value::Json(text) => Some(text.clone()),
        _ => None,
    }
}

/// PostgreSQL checks the text itself.
fn as_json(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Json(text) => Some(text.clone()),
        Value::Text(text) => Some(text.clone().into_bytes()),
        _ => None,
    }
}

/// Microseconds since 2000.
fn as_timestamp(value: &Value) -> Option<i64> {
    match value {
        Value::DateTime(DateTime { date, time }) => {
            let days = i64::from(days(*date)?);
            days.checked_mul(24 * 3600)?.checked_mul(MICROSECONDS_PER_SECOND)?.checked_add(microseconds(*time)?)
        }
        Value::Timestamp(seconds) => seconds.checked_sub(EPOCH_UNIX_SECONDS)?.checked_mul(MICROSECONDS_PER_SECOND),
        _ => None,
    }
}

fn days(date: Date) -> Option<i32> {
    let date = NaiveDate::from_ymd_opt(date.year, date.month.into(), date.day.into())?;
    i32::try_from(date.signed_duration_since(EPOCH).num_days()).ok()
}

fn microseconds(time: Time) -> Option<i64> {
    let time = NaiveTime::from_hms_nano_opt(time.hour.into(), time.minute.into(), time.second.into(), time.nanosecond)?;
    time.signed_duration_since(NaiveTime::MIN).num_microseconds()
}

fn number_array(value: &Value, of: u32) -> Option<Vec<u8>> {
    let whole: Vec<Option<i64>> = match value {
        Value::ArrayInt32(items) => items.iter().map(|item| item.map(i64::from)).collect(),
        Value::ArrayInt64(items) => items.clone(),
        Value::ArrayDecimal(items) if of == oid::NUMERIC_ARRAY => {
            let item = |text: &Option<String>| text.as_deref().map(|text| numeric::encode(text).ok_or(())).transpose();
            return array(oid::NUMERIC, items.iter().map(item));
        }
        _ => return None,
    };
    let small = |item: i64| i32::try_from(item).map(|item| item.to_be_bytes().to_vec()).map_err(|_| ());
    let decimal = |item: i64| numeric::encode(&item.to_string()).ok_or(());
    match of {
        oid::INT4_ARRAY => array(oid::INT4, whole.iter().map(|item| item.map(small).transpose())),
        oid::INT8_ARRAY => array(oid::INT8, whole.iter().map(|item| Ok(item.map(|item| item.to_be_bytes().to_vec())))),
        _ => array(oid::NUMERIC, whole.iter().map(|item| item.map(decimal).transpose())),
    }
}

fn text_array(value: &Value, of: u32) -> Option<Vec<u8>> {
    let Value::ArrayText(items) = value else { return None };
    let item_type = match of {
        oid::VARCHAR_ARRAY => oid::VARCHAR,
        oid::BPCHAR_ARRAY => oid::BPCHAR,
        oid::NAME_ARRAY => oid::NAME,
        _ => oid::TEXT,
    };
    array(item_type, items.iter().map(|item| Ok(item.as_ref().map(|text| text.clone().into_bytes()))))
}

/// A one-dimensional array; nothing where an item does not convert.
fn array(item_type: u32, items: impl ExactSizeIterator<Item = Result<Option<Vec<u8>>, ()>>) -> Option<Vec<u8>> {
    let count = i32::try_from(items.len()).ok()?;
    let mut out = Vec::with_capacity(items.len().saturating_mul(12).saturating_add(20));
    // Dimensions, whether there may be NULLs, the items' type, their number, the first index.
    let dimensions: i32 = if count == 0 { 0 } else { 1 };
    out.extend(dimensions.to_be_bytes());
    out.extend(1i32.to_be_bytes());
    out.extend(item_type.to_be_bytes());
    if count > 0 {
        out.extend(count.to_be_bytes());
        out.extend(1i32.to_be_bytes());
    }
    for item in items {
        match item.ok()? {
            None => out.extend((-1i32).to_be_bytes()),
            Some(bytes) => {
                out.extend(i32::try_from(bytes.len()).ok()?.to_be_bytes());
                out.extend(bytes);
            }
        }
    }
    Some(out)
}

/// What the guest calls this kind of value.
fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "db-null",
        Value::Boolean(_) => "boolean",
        Value::Int8(_) => "int8",
        Value::Int16(_) => "int16",
        Value::Int32(_) => "int32",
        Value::Int64(_) => "int64",
        Value::Float32(_) => "floating32",
        Value::Float64(_) => "floating64",
        Value::Text(_) => "str",
        Value::Binary(_) => "binary",
        Value::Date(_) => "date",
        Value::Time(_) => "time",
        Value::DateTime(_) => "datetime",
        Value::Timestamp(_) => "timestamp",
        Value::Uuid(_) => "uuid",
        Value::Json(_) => "jsonb",
        Value::Decimal(_) => "decimal",
        Value::ArrayInt32(_) => "array-int32",
        Value::ArrayInt64(_) => "array-int64",
        Value::ArrayDecimal(_) => "array-decimal",
        Value::ArrayText(_) => "array-str",
        Value::Unsupported(_) => "unsupported",
    }
}
