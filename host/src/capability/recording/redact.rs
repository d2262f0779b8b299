//! Taking secrets out of a recording.
//!
//! Each occurrence of a secret's value, in any of the forms that it commonly travels in, becomes the same form of its stand-in:
//! as many bytes that say whose place it is. A replay gives the stand-in to the agent in place of the value, so that what the
//! agent does with it is the same on both sides.
//!
//! What an agent derives from a secret otherwise, such as a signature, is not recognised: the secret is not in it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::secrets::Secret;

/// Shortest value that can be told from other text, in bytes. A run that knew a shorter one is not recorded.
pub(super) const VALUE_BYTES_MIN: usize = 4;
/// Shortest line of a value of several lines, such as a key, that is looked for where it stands alone.
const LINE_BYTES_MIN: usize = 8;

/// Replaces secrets by their stand-ins.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    /// What is looked for and what comes in its place; the longest first, since one may be a part of another.
    forms: Vec<(Secret, String)>,
}

/// What stands in for a secret: as many bytes, which say whose place it is.
pub(super) fn stand_in(name: &str, bytes: usize) -> String {
    format!("secret:{name}.").bytes().cycle().take(bytes).map(char::from).collect()
}

impl Redactor {
    /// Of these secrets, by name.
    pub(super) fn new<'a>(secrets: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut forms: Vec<(Secret, String)> = Vec::new();
        for (name, value) in secrets {
            let lines = value.lines().map(str::trim).filter(|line| line.len() >= LINE_BYTES_MIN && *line != value);
            for text in [value].into_iter().chain(lines).filter(|text| text.len() >= VALUE_BYTES_MIN) {
                forms.extend(forms_of(text).into_iter().map(Secret::new).zip(forms_of(&stand_in(name, text.len()))));
            }
        }
        forms.sort_by_key(|(form, _)| std::cmp::Reverse(form.reveal().len()));
        Self { forms }
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    pub(super) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.forms.iter().fold(Cow::Borrowed(text), |text, (form, instead)| {
            if text.contains(form.reveal()) { text.replace(form.reveal(), instead).into() } else { text }
        })
    }

    /// Whether any form is in there.
    pub(super) fn is_in(&self, text: &str) -> bool {
        self.forms.iter().any(|(form, _)| text.contains(form.reveal()))
    }

    fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.forms.iter().fold(bytes.to_vec(), |mut bytes, (form, instead)| {
            let form = form.reveal().as_bytes();
            let mut from = 0;
            while let Some(at) =
                bytes.get(from..).and_then(|rest| rest.windows(form.len()).position(|part| part == form))
            {
                let start = from.saturating_add(at);
                bytes.splice(start..start.saturating_add(form.len()), instead.bytes());
                from = start.saturating_add(instead.len());
            }
            bytes
        })
    }

    /// In all texts of a document, those that stand for bytes included.
    pub(super) fn document(&self, document: &mut Value) {
        match document {
            Value::String(text) => {
                if let Cow::Owned(redacted) = self.text(text) {
                    *text = redacted;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.document(item)),
            Value::Object(map) => {
                if let (1, Some(Value::String(text))) = (map.len(), map.get_mut("base64"))
                    && let Ok(bytes) = STANDARD.decode(text.as_bytes())
                {
                    *text = STANDARD.encode(self.bytes(&bytes));
                    return;
                }
                map.values_mut().for_each(|value| self.document(value));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The forms of a value, of every value as many and in the same order: as it is, escaped for JSON, for URLs, in hexadecimal, and
/// in base64 where it begins at each of the three places that it may begin at.
fn forms_of(value: &str) -> Vec<String> {
    let json = Value::from(value).to_string();
    let json = json.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(value).to_owned();
    let hex = |byte: fn(u8) -> String| value.bytes().map(byte).collect::<String>();
    let mut forms = vec![
        value.to_owned(),
        json,
        utf8_percent_encode(value, NON_ALPHANUMERIC).to_string(),
        hex(|byte| format!("{byte:02x}")),
        hex(|byte| format!("{byte:02X}")),
    ];
    for before in 0..3_usize {
        let padded = [vec![0; before], value.as_bytes().to_vec()].concat();
        // Only what no neighbour has a part in: six bits a digit.
        let (first, past) = (before.saturating_mul(8).div_ceil(6), padded.len().saturating_mul(8) / 6);
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            forms.push(text.get(first..past).unwrap_or_default().to_owned());
        }
    }
    // Too short to be told from other text; the same in place, which leaves the order.
    for form in &mut forms {
        if form.len() < VALUE_BYTES_MIN {
            value.clone_into(form);
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_in_every_form_and_its_stand_in_has_the_same() {
        let value = "s3cr\"t/ä+hunter2";
        let redactor = Redactor::new([("api-key", value)].into_iter());
        let stand_in = stand_in("api-key", value.len());
        assert!(!redactor.text(value).contains(value));
        assert_eq!(redactor.text(value), stand_in);
        for before in ["", "u", "us", "user:"] {
            let header = STANDARD.encode(format!("{before}{value} and more"));
            let redacted = redactor.text(&header).into_owned();
            let read = STANDARD.decode(&redacted).unwrap();
            // The digits at its ends are shared with its neighbours: all between them are gone.
            assert!(!String::from_utf8_lossy(&read).contains("hunter"), "{before}: {}", String::from_utf8_lossy(&read));
        }
        let escaped = serde_json::json!({ "password": value }).to_string();
        assert!(!redactor.text(&escaped).contains("hunter2"));
        assert!(redactor.is_in(&escaped));
        let mut document =
            serde_json::json!([{ "base64": STANDARD.encode([b"\xff", value.as_bytes(), b"\xff"].concat()) }]);
        redactor.document(&mut document);
        let kept = STANDARD.decode(document[0]["base64"].as_str().unwrap()).unwrap();
        assert_eq!(kept, [b"\xff", stand_in.as_bytes(), b"\xff"].concat());
    }

    #[test]
    fn lines_of_a_key_are_replaced_alone_too() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n";
        let redactor = Redactor::new([("key", key)].into_iter());
        assert!(!redactor.text("x MIIEvQIBADANBg x").contains("MII"));
    }
}
