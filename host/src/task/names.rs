//! Identifiers, checked when they are made.

use std::fmt;
use std::sync::Arc;

/// Why a string cannot be an agent's name or a task's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not an agent's name.
    #[error("{0:?} is not an agent name: expected 1 to 63 of a-z, 0-9 and '-', starting with a letter")]
    Agent(String),
    /// Not a task's id.
    #[error("{0:?} is not a task id: expected 1 to 128 printable ASCII characters")]
    Task(String),
}

/// An agent's name: `^[a-z][a-z0-9-]{0,62}$`, the pattern of the manifest.
///
/// It is part of queue names, SQL role names, Redis keys and paths, which is why the pattern is narrow.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentName(Arc<str>);

/// Longest agent name, in bytes: PostgreSQL and DNS labels stop at 63.
const AGENT_NAME_BYTES_MAX: usize = 63;

impl AgentName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidName::Agent`] where the name does not match the pattern.
    pub fn parse(name: &str) -> Result<Self, InvalidName> {
        let starts_with_letter = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        let rest_allowed = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if starts_with_letter && rest_allowed && name.len() <= AGENT_NAME_BYTES_MAX {
            Ok(Self(name.into()))
        } else {
            Err(InvalidName::Agent(shortened(name)))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A task's identity: 1 to 128 printable ASCII characters, chosen by the sender or a UUIDv7.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Arc<str>);

/// Longest task id, in bytes (contract, section 3).
const TASK_ID_BYTES_MAX: usize = 128;

/// Namespace of the task ids made from idempotency keys: UUIDv5 needs a fixed one, this is ours.
const IDEMPOTENCY_NAMESPACE: uuid::Uuid = uuid::Uuid::from_u128(0x8f1c_6f0e_64ad_4c1b_9a52_6167_656e_7431);

impl TaskId {
    /// Checks an id that a sender chose.
    ///
    /// # Errors
    /// [`InvalidName::Task`] where it is empty, too long, or holds anything but printable ASCII characters.
    pub fn parse(id: &str) -> Result<Self, InvalidName> {
        let printable = id.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if printable && !id.is_empty() && id.len() <= TASK_ID_BYTES_MAX {
            Ok(Self(id.into()))
        } else {
            Err(InvalidName::Task(shortened(id)))
        }
    }

    /// A new id: a UUIDv7, so that ids sort by the time they were made.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The id that an idempotency key stands for: the same key for the same agent is the same task.
    #[must_use]
    pub fn from_idempotency_key(agent: &AgentName, key: &str) -> Self {
        // A name holds no NUL, so the pair cannot be confused with another.
        let name = format!("{agent}\0{key}");
        Self(uuid::Uuid::new_v5(&IDEMPOTENCY_NAMESPACE, name.as_bytes()).to_string().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The start of a refused value, for an error message that cannot flood a log.
fn shortened(value: &str) -> String {
    const CHARS_MAX: usize = 80;
    if value.chars().nth(CHARS_MAX).is_none() {
        return value.to_owned();
    }
    value.chars().take(CHARS_MAX).chain(['…']).collect()
}

macro_rules! text_conversions {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::parse(text)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}
text_conversions!(AgentName);
text_conversions!(TaskId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn agent_names_follow_the_pattern() {
        for good in ["a", "voter", "a-1-b", &"x".repeat(63)] {
            assert!(AgentName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "A", "a_b", "a.b", "a/b", "ä", "a b", &"x".repeat(64)] {
            assert!(AgentName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_key_is_the_same_task_of_that_agent_only() {
        let (a, b) = (AgentName::parse("a").unwrap(), AgentName::parse("b").unwrap());
        assert_eq!(TaskId::from_idempotency_key(&a, "k"), TaskId::from_idempotency_key(&a, "k"));
        assert_ne!(TaskId::from_idempotency_key(&a, "k"), TaskId::from_idempotency_key(&b, "k"));
        assert_ne!(TaskId::from_idempotency_key(&a, "k"), TaskId::from_idempotency_key(&a, "l"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_task_id_or_a_short_error(text in ".*") {
            match TaskId::parse(&text) {
                Ok(id) => prop_assert_eq!(id.as_str(), text),
                Err(error) => prop_assert!(error.to_string().len() < 1_500),
            }
        }
    }
}
