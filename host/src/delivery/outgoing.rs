//! A message and where it goes, as bytes: what the records keep of it until it was sent.

use bytes::Bytes;

use super::{Message, Route};

/// The bytes are not what this version writes.
#[derive(Debug, thiserror::Error)]
#[error("a kept message cannot be read")]
pub struct Unreadable(#[source] ciborium::de::Error<std::io::Error>);

/// As bytes, in CBOR: self-describing, so that fields can be added while older messages are still waiting.
#[must_use]
pub fn encode(route: &Route, message: &Message) -> Bytes {
    let mut bytes = Vec::with_capacity(message.body.len().saturating_add(512));
    // Writing to memory does not fail, and the types have no maps with odd keys.
    if let Err(error) = ciborium::into_writer(&(route, message), &mut bytes) {
        tracing::error!(%error, "a message could not be written down");
    }
    bytes.into()
}

/// From bytes.
///
/// # Errors
/// [`Unreadable`].
pub fn decode(bytes: &[u8]) -> Result<(Route, Message), Unreadable> {
    ciborium::from_reader(bytes).map_err(Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::HeaderValue;
    use crate::task::AgentName;
    use std::time::Duration;

    #[test]
    fn what_was_kept_comes_back() {
        let agent = AgentName::parse("voter").unwrap();
        let headers = [
            ("text", HeaderValue::from("\u{e4}")),
            ("bytes", HeaderValue::Bytes(Bytes::from_static(&[0, 255]))),
            ("list", HeaderValue::List(vec![HeaderValue::Void, HeaderValue::Float(0.5), HeaderValue::Bool(true)])),
            ("time", HeaderValue::Timestamp(5)),
        ];
        let message = Message {
            message_id: Some("id".to_owned()),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body: Bytes::from(vec![7; 100_000]),
            ..Message::default()
        };
        for route in [
            Route::Agent(agent.clone()),
            Route::Delayed(agent.clone(), Duration::from_millis(1_500)),
            Route::DeadLetter(agent),
            Route::Reply("mine".to_owned()),
        ] {
            let bytes = encode(&route, &message);
            assert!(bytes.len() < 100_500, "the body is kept as bytes");
            assert_eq!(decode(&bytes).unwrap(), (route, message.clone()));
        }
        assert!(decode(b"\xff").is_err());
    }
}
