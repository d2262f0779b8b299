//! Sealing: AES-256-GCM under the hosts' key, with the agent's and the secret's name authenticated beside the value, so that
//! a row which is moved to another agent or name opens no more.
//!
//! Nonces are random. With 96 bits of them one key is good for 2^32 writes (NIST SP 800-38D), which no operator reaches.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{KeyId, Keyring, Secret, SecretsError, SecretsKey, Unreadable};

/// A secret as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The key that opens it.
    pub key_id: [u8; KeyId::BYTES],
    /// Never used twice with a key.
    pub nonce: [u8; NONCE_LEN],
    /// The value, encrypted, and the tag.
    pub bytes: Vec<u8>,
}

impl Sealed {
    /// Of a row's columns; nothing where their lengths are wrong.
    pub(super) fn of_row(key_id: &[u8], nonce: &[u8], bytes: Vec<u8>) -> Option<Self> {
        Some(Self { key_id: key_id.try_into().ok()?, nonce: nonce.try_into().ok()?, bytes })
    }
}

/// What is authenticated beside the value. Neither name can hold a zero byte.
fn beside(agent: &str, name: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("agent-host secret 1\0{agent}\0{name}").into_bytes())
}

fn cipher(key: &SecretsKey) -> Option<LessSafeKey> {
    // Fails for other lengths of keys only.
    UnboundKey::new(&AES_256_GCM, key.bytes()).ok().map(LessSafeKey::new)
}

fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SecretsError {
    SecretsError::Away { action: "written", source: why.into() }
}

impl Keyring {
    /// Seals a value with the current key.
    ///
    /// # Errors
    /// There is no key, or the system has no random bytes.
    pub fn seal(&self, agent: &str, name: &str, value: &Secret) -> Result<Sealed, SecretsError> {
        let key = self.current.as_ref().ok_or(SecretsError::NoKey)?;
        let cipher = cipher(key).ok_or_else(|| failed("the key has another length than the cipher's"))?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|error| failed(error.to_string()))?;
        // With room for the tag, so that it is not copied while it is plain.
        let mut bytes = Zeroizing::new(Vec::with_capacity(value.reveal().len() + AES_256_GCM.tag_len()));
        bytes.extend_from_slice(value.reveal().as_bytes());
        let sealed =
            cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), beside(agent, name), &mut *bytes);
        sealed.map_err(|_| failed("the cipher refused the value"))?;
        Ok(Sealed { key_id: key.id().0, nonce, bytes: std::mem::take(&mut *bytes) })
    }

    /// Opens what was sealed for this agent under this name.
    ///
    /// # Errors
    /// [`Unreadable`], which tells a missing or another key from a damaged row.
    pub fn open(&self, agent: &str, name: &str, sealed: &Sealed) -> Result<Secret, Unreadable> {
        let stored = KeyId(sealed.key_id);
        let Some(key) = self.find(stored) else {
            return Err(match &self.current {
                Some(current) => Unreadable::OtherKey { stored, held: current.id() },
                None => Unreadable::NoKey(stored),
            });
        };
        let cipher = cipher(key).ok_or(Unreadable::Damaged)?;
        let mut bytes = Zeroizing::new(sealed.bytes.clone());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let opened = cipher.open_in_place(nonce, beside(agent, name), &mut bytes).map_err(|_| Unreadable::Damaged)?;
        let value = std::str::from_utf8(opened).map_err(|_| Unreadable::Damaged)?;
        Ok(Secret::new(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(digits: &str) -> Option<SecretsKey> {
        Some(SecretsKey::parse(&digits.repeat(16)).unwrap())
    }

    fn keyring(current: &str) -> Keyring {
        Keyring { current: key(current), previous: None }
    }

    fn secret(value: &str) -> Secret {
        Secret::new(value.to_owned())
    }

    #[test]
    fn a_sealed_secret_opens_for_its_agent_and_name_alone() {
        let keys = keyring("ab01");
        let sealed = keys.seal("voter", "api-key", &secret("hunter2")).unwrap();
        assert_eq!(keys.open("voter", "api-key", &sealed).unwrap().reveal(), "hunter2");
        for (agent, name) in
            [("voter2", "api-key"), ("voter", "api-key2"), ("api-key", "voter"), ("", "voter\0api-key")]
        {
            assert_eq!(keys.open(agent, name, &sealed), Err(Unreadable::Damaged), "{agent} {name}");
        }
        assert!(!format!("{sealed:?}").contains("hunter2"));
    }

    #[test]
    fn another_key_is_told_from_none_and_from_a_damaged_row() {
        let (old, new) = (keyring("ab01"), keyring("ab02"));
        let sealed = old.seal("voter", "api-key", &secret("hunter2")).unwrap();
        let (stored, held) = (old.current.as_ref().unwrap().id(), new.current.as_ref().unwrap().id());
        assert_eq!(new.open("voter", "api-key", &sealed), Err(Unreadable::OtherKey { stored, held }));
        assert_eq!(Keyring::default().open("voter", "api-key", &sealed), Err(Unreadable::NoKey(stored)));
        // Who claims that it is another's: the tag does not fit that key.
        let claimed = Sealed { key_id: held.0, ..sealed.clone() };
        assert_eq!(new.open("voter", "api-key", &claimed), Err(Unreadable::Damaged));
        let both = Keyring { current: new.current, previous: old.current };
        assert_eq!(both.open("voter", "api-key", &sealed).unwrap().reveal(), "hunter2");
        assert!(both.is_previous(stored) && !both.is_previous(held));
        assert_eq!(both.seal("voter", "api-key", &secret("x")).unwrap().key_id, held.0);
        assert!(matches!(Keyring::default().seal("voter", "api-key", &secret("x")), Err(SecretsError::NoKey)));
    }

    #[test]
    fn each_write_has_a_nonce_of_its_own() {
        let keys = keyring("ab01");
        let seal = || keys.seal("voter", "api-key", &secret("hunter2")).unwrap();
        let (first, second) = (seal(), seal());
        assert!(first.nonce != second.nonce && first.bytes != second.bytes);
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_noticed_wherever_it_is(value in ".{1,64}", at: prop::sample::Index, bit in 0..8_u8) {
            let keys = keyring("ab01");
            let sealed = keys.seal("voter", "api-key", &secret(&value)).unwrap();
            let opened = keys.open("voter", "api-key", &sealed).unwrap();
            prop_assert_eq!(opened.reveal(), value.as_str());
            let mut changed = sealed.clone();
            let bytes = changed.nonce.iter_mut().chain(changed.bytes.iter_mut());
            *bytes.collect::<Vec<_>>()[at.index(sealed.nonce.len() + sealed.bytes.len())] ^= 1 << bit;
            prop_assert_eq!(keys.open("voter", "api-key", &changed), Err(Unreadable::Damaged));
            let mut cut = sealed;
            cut.bytes.truncate(at.index(cut.bytes.len()));
            prop_assert_eq!(keys.open("voter", "api-key", &cut), Err(Unreadable::Damaged));
        }
    }
}
