//! AMQP's bytes: made as a hostile client would, and read and written as the driver does it.

use amq_protocol::frame::parsing::parse_content_header;
use amq_protocol::protocol::basic::gen_properties;
use arbitrary::Arbitrary;

use crate::convert;
use crate::delivery::Message;

/// Class id, weight and body size: what precedes the properties in a content header.
const BEFORE_PROPERTIES: [u8; 12] = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// The bit of the header table among the flags of the properties.
const HAS_HEADERS: u16 = 1 << 13;

/// The message that a content header and what follows it mean; nothing if the driver would close the connection.
pub(crate) fn received(bytes: &[u8]) -> Option<Message> {
    let (body, header) = parse_content_header(bytes).ok()?;
    Some(convert::message(&header.properties, body.to_vec()))
}

/// The content header that publishes a message.
///
/// # Errors
/// Says which part AMQP cannot carry.
pub(crate) fn published(message: &Message) -> Result<Vec<u8>, String> {
    let properties = convert::properties(message)?;
    let written = cookie_factory::gen_simple(gen_properties(&properties), BEFORE_PROPERTIES.to_vec());
    Ok(written.expect("memory can be written"))
}

/// Properties with any header table, as bytes whose lengths are right.
#[derive(Arbitrary, Debug)]
pub(crate) struct Properties {
    content_type: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Value)>,
    body: Vec<u8>,
}

/// A field value: its type mark, and what follows.
#[derive(Arbitrary, Debug)]
enum Value {
    Plain(u8, Vec<u8>),
    LongString(Vec<u8>),
    Array(Vec<Value>),
    Table(Vec<(Vec<u8>, Value)>),
    /// Arrays or tables around each other, as many as a frame has room for.
    Nested {
        levels: u16,
        is_table: bool,
        inside: Vec<u8>,
    },
}

impl Properties {
    /// A content header and the body.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let flags = HAS_HEADERS | if self.content_type.is_some() { 1 << 15 } else { 0 };
        let mut bytes = BEFORE_PROPERTIES.to_vec();
        bytes.extend(flags.to_be_bytes());
        if let Some(content_type) = &self.content_type {
            short_string(&mut bytes, content_type);
        }
        table(&mut bytes, &self.headers);
        bytes.extend(&self.body);
        bytes
    }
}

impl Value {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Plain(mark, value) => {
                bytes.push(*mark);
                bytes.extend(value);
            }
            Self::LongString(text) => {
                bytes.push(b'S');
                with_length(bytes, |bytes| bytes.extend(text));
            }
            Self::Array(values) => {
                bytes.push(b'A');
                with_length(bytes, |bytes| values.iter().for_each(|value| value.write(bytes)));
            }
            Self::Table(entries) => {
                bytes.push(b'F');
                table(bytes, entries);
            }
            Self::Nested { levels, is_table, inside } => {
                let (head, name): (u8, &[u8]) = if *is_table { (b'F', &[0]) } else { (b'A', &[]) };
                // From the outermost to the innermost; a level holds everything after its own length.
                for below in (0..usize::from(*levels)).rev() {
                    let level_bytes = name.len() + 1 + size_of::<u32>();
                    bytes.push(head);
                    bytes.extend((length(below * level_bytes + inside.len())).to_be_bytes());
                    if below > 0 {
                        bytes.extend(name);
                    }
                }
                bytes.extend(inside);
            }
        }
    }
}

fn table(bytes: &mut Vec<u8>, entries: &[(Vec<u8>, Value)]) {
    with_length(bytes, |bytes| {
        for (name, value) in entries {
            short_string(bytes, name);
            value.write(bytes);
        }
    });
}

fn short_string(bytes: &mut Vec<u8>, text: &[u8]) {
    let text = &text[..text.len().min(u8::MAX.into())];
    bytes.push(text.len() as u8);
    bytes.extend(text);
}

fn with_length(bytes: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = bytes.len();
    bytes.extend([0; size_of::<u32>()]);
    write(bytes);
    let written = length(bytes.len() - at - size_of::<u32>());
    bytes[at..at + size_of::<u32>()].copy_from_slice(&written.to_be_bytes());
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an input is far smaller")
}
