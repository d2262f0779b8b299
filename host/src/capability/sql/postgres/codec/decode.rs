//! From PostgreSQL's binary format.

use chrono::{Datelike, NaiveDate, NaiveDateTime, TimeDelta, Timelike};
use sqlx::TypeInfo;
use sqlx::postgres::{PgTypeInfo, PgTypeKind};

use super::{EPOCH, numeric, oid};
use crate::capability::sql::{Date, DateTime, Kind, RESULT_BYTES_MAX, SqlError, Time, Value};

/// Which values a column of this type has.
pub(in super::super) fn kind(of: &PgTypeInfo) -> Kind {
    match of.kind() {
        PgTypeKind::Enum(_) => return Kind::Text,
        PgTypeKind::Domain(base) => return kind(base),
        PgTypeKind::Simple
        | PgTypeKind::Pseudo
        | PgTypeKind::Composite(_)
        | PgTypeKind::Array(_)
        | PgTypeKind::Range(_) => {}
    }
    match of.oid().map_or(0, |oid| oid.0) {
        oid::BOOL => Kind::Boolean,
        oid::CHAR => Kind::Int8,
        oid::INT2 => Kind::Int16,
        oid::INT4 => Kind::Int32,
        oid::INT8 => Kind::Int64,
        oid::FLOAT4 => Kind::Float32,
        oid::FLOAT8 => Kind::Float64,
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::UNKNOWN => Kind::Text,
        oid::BYTEA => Kind::Binary,
        oid::DATE => Kind::Date,
        oid::TIME => Kind::Time,
        oid::TIMESTAMP | oid::TIMESTAMPTZ => Kind::DateTime,
        oid::UUID => Kind::Uuid,
        oid::JSON | oid::JSONB => Kind::Json,
        oid::NUMERIC => Kind::Decimal,
        oid::INT4_ARRAY => Kind::ArrayInt32,
        oid::INT8_ARRAY => Kind::ArrayInt64,
        oid::NUMERIC_ARRAY => Kind::ArrayDecimal,
        oid::TEXT_ARRAY | oid::VARCHAR_ARRAY | oid::BPCHAR_ARRAY | oid::NAME_ARRAY => Kind::ArrayText,
        _ => Kind::Other(of.name().to_owned()),
    }
}

/// Why bytes are no value.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    /// A text for the guest: a value that has no counterpart, such as an infinite date.
    NoCounterpart(String),
    /// The value would take more bytes than are left.
    TooLarge,
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self::NoCounterpart(text)
    }
}

impl From<Refusal> for SqlError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoCounterpart(text) => Self::Conversion(text),
            Refusal::TooLarge => Self::LimitExceeded(format!("the result is larger than {RESULT_BYTES_MAX} bytes")),
        }
    }
}

/// The value that these bytes are, in a column of this type. It is not made where it would take more than `bytes_max`: some
/// values are far larger than their bytes, `1e131071::numeric` ten thousand times, and an array of NULLs six times.
///
/// # Errors
/// See [`Refusal`].
pub(in super::super) fn decode(of: &PgTypeInfo, kind: &Kind, bytes: &[u8], bytes_max: usize) -> Result<Value, Refusal> {
    if bytes.len() > bytes_max {
        return Err(Refusal::TooLarge);
    }
    let broken = || format!("a value of type {} is not in PostgreSQL's binary format", of.name());
    Ok(match kind {
        Kind::Boolean => Value::Boolean(*bytes.first().ok_or_else(broken)? != 0),
        Kind::Int8 => Value::Int8(i8::from_be_bytes(fixed(bytes).ok_or_else(broken)?)),
        Kind::Int16 => Value::Int16(i16::from_be_bytes(fixed(bytes).ok_or_else(broken)?)),
        Kind::Int32 => Value::Int32(i32::from_be_bytes(fixed(bytes).ok_or_else(broken)?)),
        Kind::Int64 => Value::Int64(i64::from_be_bytes(fixed(bytes).ok_or_else(broken)?)),
        Kind::Float32 => Value::Float32(f32::from_be_bytes(fixed(bytes).ok_or_else(broken)?)),
        Kind::Float64 => Value::Float64(f64::from_be_bytes(fixed(bytes).ok_or_else(broken)?)),
        Kind::Text => Value::Text(text(bytes).ok_or_else(broken)?),
        Kind::Binary => Value::Binary(bytes.to_vec()),
        Kind::Date => Value::Date(date(i32::from_be_bytes(fixed(bytes).ok_or_else(broken)?))?),
        Kind::Time => Value::Time(time(i64::from_be_bytes(fixed(bytes).ok_or_else(broken)?))?),
        Kind::DateTime => Value::DateTime(date_time(i64::from_be_bytes(fixed(bytes).ok_or_else(broken)?))?),
        Kind::Uuid => Value::Uuid(uuid::Uuid::from_bytes(fixed(bytes).ok_or_else(broken)?).to_string()),
        Kind::Json => Value::Json(json(of, bytes).ok_or_else(broken)?.to_vec()),
        Kind::Decimal if numeric::digits(bytes).is_some_and(|digits| digits > bytes_max) => {
            return Err(Refusal::TooLarge);
        }
        Kind::Decimal => Value::Decimal(numeric::decode(bytes).ok_or_else(broken)?),
        Kind::ArrayInt32 => {
            Value::ArrayInt32(array(bytes, bytes_max, &|_| 0, &|item| fixed(item).map(i32::from_be_bytes))?)
        }
        Kind::ArrayInt64 => {
            Value::ArrayInt64(array(bytes, bytes_max, &|_| 0, &|item| fixed(item).map(i64::from_be_bytes))?)
        }
        Kind::ArrayDecimal => Value::ArrayDecimal(array(
            bytes,
            bytes_max,
            &|item| numeric::digits(item).unwrap_or_default(),
            &numeric::decode,
        )?),
        Kind::ArrayText => Value::ArrayText(array(bytes, bytes_max, &<[u8]>::len, &text)?),
        Kind::Other(_) => Value::Unsupported(bytes.to_vec()),
    })
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// JSONB carries a version byte before the text, JSON is the text.
fn json<'a>(of: &PgTypeInfo, bytes: &'a [u8]) -> Option<&'a [u8]> {
    if of.oid().is_some_and(|oid| oid.0 == oid::JSONB) { bytes.strip_prefix(&[1]) } else { Some(bytes) }
}

const INFINITE: &str = "an infinite date or timestamp has no counterpart: cast it with ::text";
const FAR: &str = "the date is too far from now to be represented: cast it with ::text";

fn date(days: i32) -> Result<Date, String> {
    if days == i32::MAX || days == i32::MIN {
        return Err(INFINITE.to_owned());
    }
    let date = TimeDelta::try_days(days.into()).and_then(|span| EPOCH.checked_add_signed(span));
    Ok(date_of(date.ok_or_else(|| FAR.to_owned())?))
}

fn date_time(microseconds: i64) -> Result<DateTime, String> {
    if microseconds == i64::MAX || microseconds == i64::MIN {
        return Err(INFINITE.to_owned());
    }
    let start = NaiveDateTime::from(EPOCH);
    let at = start.checked_add_signed(TimeDelta::microseconds(microseconds)).ok_or_else(|| FAR.to_owned())?;
    Ok(DateTime { date: date_of(at.date()), time: time_of(at.time()) })
}

fn time(microseconds: i64) -> Result<Time, String> {
    let second = u32::try_from(microseconds.div_euclid(1_000_000)).ok();
    let nanosecond = u32::try_from(microseconds.rem_euclid(1_000_000)).unwrap_or(0).saturating_mul(1_000);
    let time = second.and_then(|second| chrono::NaiveTime::from_num_seconds_from_midnight_opt(second, nanosecond));
    // PostgreSQL alone has 24:00.
    Ok(time_of(time.ok_or_else(|| "the time 24:00 has no counterpart: cast it with ::text".to_owned())?))
}

fn date_of(date: NaiveDate) -> Date {
    let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    Date { year: date.year(), month: small(date.month()), day: small(date.day()) }
}

fn time_of(time: chrono::NaiveTime) -> Time {
    let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    Time {
        hour: small(time.hour()),
        minute: small(time.minute()),
        second: small(time.second()),
        nanosecond: time.nanosecond(),
    }
}

/// The items of a one-dimensional array, where they take no more than `bytes_max`: each its own size, and what it holds
/// beside that.
fn array<T>(
    bytes: &[u8],
    bytes_max: usize,
    held: &dyn Fn(&[u8]) -> usize,
    item: &dyn Fn(&[u8]) -> Option<T>,
) -> Result<Vec<Option<T>>, Refusal> {
    let broken = || "an array is not in PostgreSQL's binary format".to_owned();
    let mut rest = bytes;
    let word = |rest: &mut &[u8]| -> Result<i32, String> {
        let (first, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
        *rest = after;
        Ok(i32::from_be_bytes(*first))
    };
    let dimensions = word(&mut rest)?;
    let (_has_null, _item_type) = (word(&mut rest)?, word(&mut rest)?);
    match dimensions {
        0 => return Ok(Vec::new()),
        1 => {}
        _ => {
            let text = "an array of several dimensions has no counterpart: unnest it, or cast it with ::text";
            return Err(text.to_owned().into());
        }
    }
    let (count, _lower_bound) = (word(&mut rest)?, word(&mut rest)?);
    let mut items = Vec::new();
    let mut left = bytes_max;
    let take = |left: &mut usize, bytes: usize| -> Result<(), Refusal> {
        *left = left.checked_sub(bytes).ok_or(Refusal::TooLarge)?;
        Ok(())
    };
    for _ in 0..count {
        let length = word(&mut rest)?;
        take(&mut left, size_of::<Option<T>>())?;
        let Ok(length) = usize::try_from(length) else {
            items.push(None);
            continue;
        };
        let (one, after) = rest.split_at_checked(length).ok_or_else(broken)?;
        rest = after;
        take(&mut left, held(one))?;
        items.push(Some(item(one).ok_or_else(broken)?));
    }
    Ok(items)
}
