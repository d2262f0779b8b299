//! Between [`Message`] and AMQP's properties and field tables.

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, ByteArray, FieldArray, FieldTable, ShortString};

use crate::delivery::envelope::headers::NAME_BYTES_MAX;
use crate::delivery::{HeaderValue, Message};

/// Persistent.
const DELIVERY_MODE_PERSISTENT: u8 = 2;
const MS_PER_S: u64 = 1000;
/// Deepest nesting of tables and lists that is looked into; real headers (`x-death`) have two levels.
const DEPTH_MAX: u8 = 8;
/// The property of this name has no place in a [`Message`]; agents see it as a header, and so it survives a retry.
const CONTENT_ENCODING: &str = "content-encoding";

/// A received message.
pub(super) fn message(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
    let mut headers = properties.headers().as_ref().map_or_else(BTreeMap::new, |table| from_table(table, 0));
    if let Some(encoding) = text(properties.content_encoding()) {
        headers.entry(CONTENT_ENCODING.to_owned()).or_insert(HeaderValue::Text(encoding));
    }
    Message {
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        content_type: text(properties.content_type()),
        kind: text(properties.kind()),
        timestamp_ms: properties.timestamp().map(|seconds| seconds.saturating_mul(MS_PER_S)),
        expiration: text(properties.expiration()),
        headers,
        body: body.into(),
    }
}

fn from_table(table: &FieldTable, depth: u8) -> BTreeMap<String, HeaderValue> {
    table.inner().iter().map(|(name, value)| (name.as_str().to_owned(), from_value(value, depth))).collect()
}

fn from_value(value: &AMQPValue, depth: u8) -> HeaderValue {
    match value {
        AMQPValue::Boolean(value) => HeaderValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortShortUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::ShortUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongUInt(value) => HeaderValue::Int((*value).into()),
        AMQPValue::LongLongInt(value) => HeaderValue::Int(*value),
        AMQPValue::Float(value) => HeaderValue::Float((*value).into()),
        AMQPValue::Double(value) => HeaderValue::Float(*value),
        AMQPValue::DecimalValue(value) => HeaderValue::Float(f64::from(value.value) / 10f64.powi(value.scale.into())),
        AMQPValue::ShortString(value) => HeaderValue::Text(value.as_str().to_owned()),
        AMQPValue::LongString(value) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => HeaderValue::Text(text.to_owned()),
            Err(_) => HeaderValue::Bytes(Bytes::copy_from_slice(value.as_bytes())),
        },
        AMQPValue::ByteArray(value) => HeaderValue::Bytes(Bytes::copy_from_slice(value.as_slice())),
        AMQPValue::Timestamp(seconds) => HeaderValue::Timestamp(seconds.saturating_mul(MS_PER_S)),
        AMQPValue::FieldArray(_) | AMQPValue::FieldTable(_) if depth >= DEPTH_MAX => HeaderValue::Void,
        AMQPValue::FieldArray(values) => {
            HeaderValue::List(values.as_slice().iter().map(|value| from_value(value, depth + 1)).collect())
        }
        AMQPValue::FieldTable(table) => HeaderValue::Table(from_table(table, depth + 1)),
        AMQPValue::Void => HeaderValue::Void,
    }
}

/// The properties of a message to publish, persistent; an error says which part AMQP cannot carry.
pub(super) fn properties(message: &Message) -> Result<BasicProperties, String> {
    let mut properties = BasicProperties::default().with_delivery_mode(DELIVERY_MODE_PERSISTENT);
    if let Some(text) = short("message-id", message.message_id.as_deref())? {
        properties = properties.with_message_id(text);
    }
    if let Some(text) = short("correlation-id", message.correlation_id.as_deref())? {
        properties = properties.with_correlation_id(text);
    }
    if let Some(text) = short("reply-to", message.reply_to.as_deref())? {
        properties = properties.with_reply_to(text);
    }
    if let Some(text) = short("content-type", message.content_type.as_deref())? {
        properties = properties.with_content_type(text);
    }
    if let Some(text) = short("type", message.kind.as_deref())? {
        properties = properties.with_type(text);
    }
    if let Some(text) = short("expiration", message.expiration.as_deref())? {
        properties = properties.with_expiration(text);
    }
    if let Some(timestamp_ms) = message.timestamp_ms {
        properties = properties.with_timestamp(timestamp_ms / MS_PER_S);
    }
    if !message.headers.is_empty() {
        properties = properties.with_headers(to_table(&message.headers)?);
    }
    Ok(properties)
}

fn short(what: &str, text: Option<&str>) -> Result<Option<ShortString>, String> {
    text.map(ShortString::try_new)
        .transpose()
        .map_err(|_| format!("its {what} is longer than AMQP's {NAME_BYTES_MAX} bytes"))
}

fn to_table(headers: &BTreeMap<String, HeaderValue>) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        let name = ShortString::try_new(name.as_str())
            .map_err(|_| format!("the name of a header is longer than AMQP's {NAME_BYTES_MAX} bytes"))?;
        table.insert(name, to_value(value)?);
    }
    Ok(table)
}

fn to_value(value: &HeaderValue) -> Result<AMQPValue, String> {
    Ok(match value {
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::Int(value) => AMQPValue::LongLongInt(*value),
        HeaderValue::Float(value) => AMQPValue::Double(*value),
        HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.to_vec())),
        HeaderValue::Timestamp(ms) => AMQPValue::Timestamp(*ms / MS_PER_S),
        HeaderValue::List(values) => {
            let values: Result<Vec<_>, _> = values.iter().map(to_value).collect();
            AMQPValue::FieldArray(FieldArray::from(values?))
        }
        HeaderValue::Table(table) => AMQPValue::FieldTable(to_table(table)?),
        HeaderValue::Void => AMQPValue::Void,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = HeaderValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(HeaderValue::Bool),
            any::<i64>().prop_map(HeaderValue::Int),
            (-1e9..1e9f64).prop_map(HeaderValue::Float),
            ".*".prop_map(HeaderValue::Text),
            proptest::collection::vec(any::<u8>(), 0..32).prop_map(|bytes| HeaderValue::Bytes(bytes.into())),
            (0..u64::from(u32::MAX)).prop_map(|seconds| HeaderValue::Timestamp(seconds * 1000)),
            Just(HeaderValue::Void),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(HeaderValue::List),
                proptest::collection::btree_map("[a-z]{1,8}", inner, 0..4).prop_map(HeaderValue::Table),
            ]
        })
    }

    proptest! {
        #[test]
        fn messages_survive_the_way_through_amqps_types(
            headers in proptest::collection::btree_map(".{0,40}", values(), 0..6),
            texts in proptest::collection::vec(proptest::option::of("[ -~]{0,100}"), 6),
            seconds in proptest::option::of(0..u64::from(u32::MAX)),
            body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let sent = Message {
                message_id: texts[0].clone(), correlation_id: texts[1].clone(), reply_to: texts[2].clone(),
                content_type: texts[3].clone(), kind: texts[4].clone(), expiration: texts[5].clone(),
                timestamp_ms: seconds.map(|seconds| seconds * 1000), headers, body: body.clone().into(),
            };
            let received = message(&properties(&sent).unwrap(), body);
            prop_assert_eq!(received, sent);
        }
    }

    #[test]
    fn what_amqp_cannot_carry_is_named() {
        let long = "x".repeat(256);
        let message = Message { content_type: Some(long.clone()), ..Message::default() };
        assert!(properties(&message).unwrap_err().contains("content-type"));
        let message = Message { headers: BTreeMap::from([(long, HeaderValue::Void)]), ..Message::default() };
        assert!(properties(&message).unwrap_err().contains("header"));
    }
}
