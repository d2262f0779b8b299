//! The keys that secrets are sealed with.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// What is hashed before a key for its id, so that the hash is good for nothing else.
const ID_PURPOSE: &[u8] = b"agent-host: id of a secrets key\0";

/// A text that is no key. It is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 random bytes as base64 or hex: `openssl rand -base64 32` makes them")]
pub struct InvalidKey;

/// A key that secrets are sealed with. Its memory is wiped when it goes.
#[derive(Clone)]
pub struct SecretsKey(Zeroizing<[u8; KEY_BYTES]>);

impl SecretsKey {
    /// Reads a key: 32 bytes as 64 hexadecimal digits, or as base64 of either alphabet, with or without padding.
    ///
    /// # Errors
    /// Anything else, bytes that are all the same included.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        let bytes = if text.len() == 2 * KEY_BYTES { of_hex(text) } else { of_base64(text) };
        let bytes = Zeroizing::new(bytes.ok_or(InvalidKey)?);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if bytes.len() != KEY_BYTES || bytes.windows(2).all(|pair| pair.first() == pair.last()) {
            return Err(InvalidKey);
        }
        key.copy_from_slice(&bytes);
        Ok(Self(key))
    }

    /// Tells this key from others without telling what it is: it is random, and this a hash of it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = Sha256::new().chain_update(ID_PURPOSE).chain_update(self.bytes()).finalize();
        let mut id = [0; KeyId::BYTES];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        KeyId(id)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretsKey(…)")
    }
}

/// 64 digits, no more and no fewer.
fn of_hex(text: &str) -> Option<Vec<u8>> {
    // A sign would pass for a digit.
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn of_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok()
}

/// Which key it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId(pub(super) [u8; Self::BYTES]);

impl KeyId {
    pub(super) const BYTES: usize = 8;
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys of a host.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// What secrets are sealed with; without it none are stored.
    pub current: Option<SecretsKey>,
    /// What opens secrets that were sealed before the current one was there.
    pub previous: Option<SecretsKey>,
}

impl Keyring {
    /// The key of this id, where the host has it.
    pub(super) fn find(&self, id: KeyId) -> Option<&SecretsKey> {
        [&self.current, &self.previous].into_iter().flatten().find(|key| key.id() == id)
    }

    /// Whether this is the id of the key that is to be given up.
    pub(super) fn is_previous(&self, id: KeyId) -> bool {
        let is = |key: &Option<SecretsKey>| key.as_ref().is_some_and(|key| key.id() == id);
        is(&self.previous) && !is(&self.current)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| SecretsKey::parse(text).unwrap().id().to_string()).collect()
    }

    #[test]
    fn a_key_is_the_same_in_each_way_of_writing() {
        let hex = format!("{}fbef", "fbefbe".repeat(10));
        let (standard, of_urls) = (format!("{}8", "+".repeat(42)), format!("{}8", "-".repeat(42)));
        let (padded, with_line) = (format!("{standard}="), format!(" {standard}=\n"));
        let ids = ids(&[&hex, &hex.to_uppercase(), &standard, &of_urls, &padded, &with_line]);
        assert!(ids.iter().all(|id| *id == ids[0] && id.len() == 16), "{ids:?}");
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let (zeros, long, signs) = ("0".repeat(64), "ab".repeat(33), "+a".repeat(32));
        let words = "hunter2".repeat(7);
        for bad in ["", "hunter2", "aHVudGVyMg==", &zeros, &long, &signs, &words] {
            let error = SecretsKey::parse(bad).unwrap_err().to_string();
            assert!(error.contains("openssl rand -base64 32") && !error.contains("hunter2"), "{bad}: {error}");
        }
        let good = SecretsKey::parse(&"ab01".repeat(16)).unwrap();
        assert_eq!(format!("{good:?}"), "SecretsKey(…)");
    }

    proptest! {
        #[test]
        fn any_32_bytes_are_a_key_and_any_other_text_is_read_or_refused(bytes: [u8; 32], text in ".{0,80}") {
            prop_assume!(bytes.iter().any(|byte| *byte != bytes[0]));
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let base64 = STANDARD_NO_PAD.encode(bytes);
            for written in [hex, base64] {
                let key = SecretsKey::parse(&written).unwrap();
                prop_assert_eq!(key.bytes(), &bytes);
            }
            let _ = SecretsKey::parse(&text);
        }
    }
}
