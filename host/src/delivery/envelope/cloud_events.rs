//! CloudEvents 1.0 over AMQP: binary mode (attributes in headers) and structured mode (the whole event as JSON).
//!
//! Either way the attributes reach the agent as headers named `ce-<attribute>`, the data as the body.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::value::RawValue;

/// What structured mode carries.
pub(super) struct Event {
    /// The attributes, named as headers.
    pub(super) attributes: BTreeMap<String, String>,
    /// `datacontenttype`, which is JSON where absent.
    pub(super) content_type: Option<String>,
    /// The data's own bytes.
    pub(super) data: Bytes,
}

/// The header that a CloudEvents header means to the agent. RabbitMQ's and AMQP's bindings disagree on the prefix.
pub(super) fn attribute_header(name: &str) -> Option<String> {
    ["cloudevents_", "cloudevents:"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .map(|rest| format!("ce-{rest}"))
}

/// Whether a content type says structured mode, in JSON or in any other format.
pub(super) fn is_structured(content_type: &str) -> bool {
    content_type.trim_start().get(..CLOUD_EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLOUD_EVENTS))
}

const CLOUD_EVENTS: &str = "application/cloudevents";
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// Reads an event in the JSON format.
pub(super) fn parse_structured(body: &[u8]) -> Result<Event, String> {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body)
        .map_err(|error| format!("the content type says one CloudEvent in JSON, expected a JSON object: {error}"))?;
    for name in REQUIRED {
        // Null is absent.
        if members.get(name).is_none_or(|value| attribute_text(value).is_none()) {
            return Err(format!("the CloudEvent has no {name:?}, expected specversion, id, source and type"));
        }
    }
    let data = members.remove("data");
    let data_base64 = members.remove("data_base64");
    let mut content_type = None;
    let mut attributes = BTreeMap::new();
    for (name, value) in members {
        let Some(text) = attribute_text(&value) else {
            continue;
        };
        if name == "datacontenttype" {
            content_type = Some(text.clone());
        }
        attributes.insert(format!("ce-{}", name.to_ascii_lowercase()), text);
    }
    let data = match (data, data_base64) {
        (Some(_), Some(_)) => {
            return Err("the CloudEvent has both \"data\" and \"data_base64\", expected one".to_owned());
        }
        (Some(data), None) => data_bytes(&data, content_type.as_deref()),
        (None, Some(encoded)) => decode(&encoded)?,
        (None, None) => Bytes::new(),
    };
    let content_type = content_type.or_else(|| Some("application/json".to_owned()));
    Ok(Event { attributes, content_type, data })
}

/// An attribute's value as text: strings as they are, numbers and booleans as JSON writes them, null as absent.
fn attribute_text(value: &RawValue) -> Option<String> {
    match value.get() {
        "null" => None,
        raw => Some(serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned())),
    }
}

/// `data` as bytes: the JSON text itself, except that a string which is not declared as JSON is the data.
fn data_bytes(data: &RawValue, content_type: Option<&str>) -> Bytes {
    let is_json = content_type.is_none_or(|content_type| {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence.ends_with("/json") || essence.ends_with("+json")
    });
    if !is_json && let Ok(text) = serde_json::from_str::<String>(data.get()) {
        return text.into();
    }
    Bytes::copy_from_slice(data.get().as_bytes())
}

fn decode(encoded: &RawValue) -> Result<Bytes, String> {
    let expected = || "the CloudEvent's \"data_base64\" is not a string of standard base64".to_owned();
    let text: String = serde_json::from_str(encoded.get()).map_err(|_| expected())?;
    base64::engine::general_purpose::STANDARD.decode(text).map(Bytes::from).map_err(|_| expected())
}
