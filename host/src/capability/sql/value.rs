//! The values that travel between an agent and PostgreSQL, in the host's own types.

use serde::{Deserialize, Serialize};

use crate::capability::recording::forms::{bits, blob};

/// A calendar date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Date {
    /// Year of the proleptic Gregorian calendar; 0 is 1 BC.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999,999; PostgreSQL keeps microseconds.
    pub nanosecond: u32,
}

/// A date and a time, without a zone or in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DateTime {
    /// The date.
    pub date: Date,
    /// The time of day.
    pub time: Time,
}

/// A value of a row or of a parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// NULL of any type.
    Null,
    /// BOOL.
    Boolean(bool),
    /// "char".
    Int8(i8),
    /// INT2.
    Int16(i16),
    /// INT4.
    Int32(i32),
    /// INT8.
    Int64(i64),
    /// FLOAT4.
    Float32(#[serde(with = "bits::of_f32")] f32),
    /// FLOAT8.
    Float64(#[serde(with = "bits::of_f64")] f64),
    /// TEXT and its kin, and enumerations.
    Text(String),
    /// BYTEA.
    Binary(#[serde(with = "blob")] Vec<u8>),
    /// DATE.
    Date(Date),
    /// TIME.
    Time(Time),
    /// TIMESTAMP, or TIMESTAMPTZ in UTC.
    DateTime(DateTime),
    /// Seconds since 1970; only as a parameter.
    Timestamp(i64),
    /// UUID, hyphenated.
    Uuid(String),
    /// JSON or JSONB, as text.
    Json(#[serde(with = "blob")] Vec<u8>),
    /// NUMERIC, in decimal digits.
    Decimal(String),
    /// INT4[].
    ArrayInt32(Vec<Option<i32>>),
    /// INT8[].
    ArrayInt64(Vec<Option<i64>>),
    /// NUMERIC[].
    ArrayDecimal(Vec<Option<String>>),
    /// TEXT[] and its kin.
    ArrayText(Vec<Option<String>>),
    /// Any other type, in PostgreSQL's binary format; only in a row.
    Unsupported(#[serde(with = "blob")] Vec<u8>),
}

impl Value {
    /// What it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = match self {
            Self::Null
            | Self::Boolean(_)
            | Self::Int8(_)
            | Self::Int16(_)
            | Self::Int32(_)
            | Self::Int64(_)
            | Self::Float32(_)
            | Self::Float64(_)
            | Self::Date(_)
            | Self::Time(_)
            | Self::DateTime(_)
            | Self::Timestamp(_) => 0,
            Self::Text(text) | Self::Uuid(text) | Self::Decimal(text) => text.len(),
            Self::Binary(bytes) | Self::Json(bytes) | Self::Unsupported(bytes) => bytes.len(),
            Self::ArrayInt32(items) => items.len().saturating_mul(8),
            Self::ArrayInt64(items) => items.len().saturating_mul(16),
            Self::ArrayDecimal(items) | Self::ArrayText(items) => {
                items.iter().map(|item| item.as_ref().map_or(0, String::len).saturating_add(24)).sum()
            }
        };
        held.saturating_add(size_of::<Self>())
    }
}

/// One row.
pub type Row = Vec<Value>;

/// The type of a column: which [`Value`] its values are where they are not NULL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// [`Value::Boolean`].
    Boolean,
    /// [`Value::Int8`].
    Int8,
    /// [`Value::Int16`].
    Int16,
    /// [`Value::Int32`].
    Int32,
    /// [`Value::Int64`].
    Int64,
    /// [`Value::Float32`].
    Float32,
    /// [`Value::Float64`].
    Float64,
    /// [`Value::Text`].
    Text,
    /// [`Value::Binary`].
    Binary,
    /// [`Value::Date`].
    Date,
    /// [`Value::Time`].
    Time,
    /// [`Value::DateTime`].
    DateTime,
    /// [`Value::Uuid`].
    Uuid,
    /// [`Value::Json`].
    Json,
    /// [`Value::Decimal`].
    Decimal,
    /// [`Value::ArrayInt32`].
    ArrayInt32,
    /// [`Value::ArrayInt64`].
    ArrayInt64,
    /// [`Value::ArrayDecimal`].
    ArrayDecimal,
    /// [`Value::ArrayText`].
    ArrayText,
    /// [`Value::Unsupported`]; PostgreSQL's name of the type.
    Other(String),
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name, as the statement gives it.
    pub name: String,
    /// Its type.
    pub kind: Kind,
}
