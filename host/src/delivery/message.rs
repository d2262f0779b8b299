//! A broker message without a broker: AMQP 0-9-1's properties and header table as plain data.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::task::UnixMs;

/// A message as AMQP 0-9-1 carries it. Times are in milliseconds here; AMQP's `timestamp` property has seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `message-id`.
    pub message_id: Option<String>,
    /// `correlation-id`.
    pub correlation_id: Option<String>,
    /// `reply-to`.
    pub reply_to: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// `type`.
    pub kind: Option<String>,
    /// `timestamp`.
    pub timestamp_ms: Option<UnixMs>,
    /// `expiration`, in milliseconds, as the sender wrote it.
    pub expiration: Option<String>,
    /// The header table.
    pub headers: BTreeMap<String, HeaderValue>,
    /// The body.
    pub body: Bytes,
}

/// A header's value: the part of AMQP's field types that carries data. Rarer types arrive as the nearest of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HeaderValue {
    /// `t`
    Bool(bool),
    /// Every integer type.
    Int(i64),
    /// `f`, `d` and decimals.
    Float(f64),
    /// Long and short strings that are UTF-8.
    Text(String),
    /// Long strings and byte arrays that are not UTF-8.
    Bytes(Bytes),
    /// `T`, in milliseconds.
    Timestamp(UnixMs),
    /// `A`.
    List(Vec<HeaderValue>),
    /// `F`.
    Table(BTreeMap<String, HeaderValue>),
    /// `V`.
    Void,
}

impl HeaderValue {
    /// The value as text, for headers that are read as text; nothing for lists, tables, bytes and void.
    #[must_use]
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Bool(value) => Some(value.to_string()),
            Self::Int(value) => Some(value.to_string()),
            Self::Float(value) => Some(value.to_string()),
            Self::Text(value) => Some(value.clone()),
            Self::Timestamp(value) => Some(value.to_string()),
            Self::Bytes(_) | Self::List(_) | Self::Table(_) | Self::Void => None,
        }
    }

    /// The value as a count, where it is a number or text that reads as one and is not negative.
    #[must_use]
    pub fn as_count(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::Timestamp(value) => Some(*value),
            Self::Text(value) => value.trim().parse().ok(),
            Self::Bool(_) | Self::Float(_) | Self::Bytes(_) | Self::List(_) | Self::Table(_) | Self::Void => None,
        }
    }
}

impl From<&str> for HeaderValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<u64> for HeaderValue {
    fn from(value: u64) -> Self {
        // AMQP's largest integer is an i64; as text a larger count travels whole, and reads back the same.
        i64::try_from(value).map_or_else(|_too_large| Self::Text(value.to_string()), Self::Int)
    }
}
