//! The ports on a tape, but for SQL.

use std::sync::Arc;
use std::time::Duration;

use super::Tape;
use super::forms::blob::{Blob, Lent};
use super::tape::Side;
use crate::capability::Backends;
use crate::capability::cache::{Cache, CacheError, Space};
use crate::capability::key_value::{Bucket, KeyPage, KeyValue, KeyValueError, Swap};
use crate::capability::secrets::{Secret, SecretSource, SecretsError};
use crate::capability::tasks::Directory;
use crate::secrets::Unreadable;
use crate::task::AgentName;

/// Backends on one run's tape.
pub(in crate::capability) fn taped(backends: &Backends, tape: &Arc<Tape>) -> Backends {
    Backends {
        database: Arc::new(super::sql::Taped::new(tape, Arc::clone(&backends.database))),
        key_value: Arc::new(Taped { tape: Arc::clone(tape), inner: Arc::clone(&backends.key_value) }),
        cache: Arc::new(Taped { tape: Arc::clone(tape), inner: Arc::clone(&backends.cache) }),
        secrets: Arc::new(Taped { tape: Arc::clone(tape), inner: Arc::clone(&backends.secrets) }),
        // A request goes by the session's tape: what is recorded of it is not what goes over the line.
        outbound: Arc::clone(&backends.outbound),
        directory: Arc::new(Taped { tape: Arc::clone(tape), inner: Arc::clone(&backends.directory) }),
    }
}

struct Taped<T: ?Sized> {
    tape: Arc<Tape>,
    inner: Arc<T>,
}

fn all(values: Vec<Option<Blob>>) -> Vec<Option<Vec<u8>>> {
    values.into_iter().map(|value| value.map(|Blob(value)| value)).collect()
}

fn blobs(values: Vec<Option<Vec<u8>>>) -> Vec<Option<Blob>> {
    values.into_iter().map(|value| value.map(Blob)).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait::async_trait]
impl KeyValue for Taped<dyn KeyValue> {
    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let answering = async { Ok(self.inner.get(bucket, key).await?.map(Blob)) };
        let answer: Result<_, KeyValueError> =
            self.tape.call("key-value.get", &(bucket.prefix(), key), answering).await;
        Ok(answer?.map(|Blob(value)| value))
    }

    async fn set(&self, bucket: &Bucket, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let asked = self.tape.asked("key-value.set", &(bucket.prefix(), key, Lent(&value)));
        asked.answered_by(self.inner.set(bucket, key, value)).await
    }

    async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), KeyValueError> {
        self.tape.call("key-value.delete", &(bucket.prefix(), key), self.inner.delete(bucket, key)).await
    }

    async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, KeyValueError> {
        self.tape.call("key-value.exists", &(bucket.prefix(), key), self.inner.exists(bucket, key)).await
    }

    async fn list_keys(&self, bucket: &Bucket, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        self.tape.call("key-value.list-keys", &(bucket.prefix(), cursor), self.inner.list_keys(bucket, cursor)).await
    }

    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let answering = self.inner.increment(bucket, key, delta);
        self.tape.call("key-value.increment", &(bucket.prefix(), key, delta), answering).await
    }

    async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        seen: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<Swap, KeyValueError> {
        let asked = self.tape.asked("key-value.swap", &(bucket.prefix(), key, seen.map(Lent), Lent(&value)));
        // What was there in its place, where something was.
        let answering = async {
            Ok(match self.inner.swap(bucket, key, seen, value).await? {
                Swap::Done => None,
                Swap::Changed(now) => Some(Changed { now: now.map(Blob) }),
            })
        };
        let answer: Result<Option<Changed>, KeyValueError> = asked.answered_by(answering).await;
        Ok(answer?.map_or(Swap::Done, |Changed { now }| Swap::Changed(now.map(|Blob(value)| value))))
    }

    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        let answering = async { Ok(blobs(self.inner.get_many(bucket, keys).await?)) };
        let answer: Result<_, KeyValueError> =
            self.tape.call("key-value.get-many", &(bucket.prefix(), keys), answering).await;
        Ok(all(answer?))
    }

    async fn set_many(&self, bucket: &Bucket, entries: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        let lent: Vec<_> = entries.iter().map(|(key, value)| (key, Lent(value))).collect();
        let asked = self.tape.asked("key-value.set-many", &(bucket.prefix(), lent));
        asked.answered_by(self.inner.set_many(bucket, entries)).await
    }

    async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError> {
        self.tape.call("key-value.delete-many", &(bucket.prefix(), keys), self.inner.delete_many(bucket, keys)).await
    }
}

/// The value that was there in place of the one seen.
#[derive(serde::Serialize, serde::Deserialize)]
struct Changed {
    now: Option<Blob>,
}

#[async_trait::async_trait]
impl Cache for Taped<dyn Cache> {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let answering = async { Ok(self.inner.get(space, key).await?.map(Blob)) };
        let answer: Result<_, CacheError> = self.tape.call("cache.get", &(key,), answering).await;
        Ok(answer?.map(|Blob(value)| value))
    }

    async fn get_many(&self, space: &Space, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, CacheError> {
        let answering = async { Ok(blobs(self.inner.get_many(space, keys).await?)) };
        let answer: Result<_, CacheError> = self.tape.call("cache.get-many", &(keys,), answering).await;
        Ok(all(answer?))
    }

    async fn set(&self, space: &Space, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), CacheError> {
        let asked = self.tape.asked("cache.set", &(key, Lent(&value), ttl.map(millis)));
        asked.answered_by(self.inner.set(space, key, value, ttl)).await
    }

    async fn delete(&self, space: &Space, key: &str) -> Result<bool, CacheError> {
        self.tape.call("cache.delete", &(key,), self.inner.delete(space, key)).await
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, CacheError> {
        self.tape.call("cache.increment", &(key, delta), self.inner.increment(space, key, delta)).await
    }

    async fn expire(&self, space: &Space, key: &str, ttl: Duration) -> Result<bool, CacheError> {
        self.tape.call("cache.expire", &(key, millis(ttl)), self.inner.expire(space, key, ttl)).await
    }
}

/// Why there was no secret.
#[derive(serde::Serialize, serde::Deserialize)]
enum NoSecret {
    Away,
    Unreadable,
}

impl From<NoSecret> for SecretsError {
    fn from(no_secret: NoSecret) -> Self {
        match no_secret {
            NoSecret::Away => Self::Away { action: "read", source: "as it was recorded".into() },
            NoSecret::Unreadable => Self::Unreadable(Unreadable::Damaged),
        }
    }
}

#[async_trait::async_trait]
impl SecretSource for Taped<dyn SecretSource> {
    /// Of a secret only its length is written down.
    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError> {
        let mut found = None;
        let answering = async {
            let got = self.inner.get(agent, name).await;
            let answer = match &got {
                Ok(secret) => Ok(secret.as_ref().map(|secret| secret.reveal().len())),
                Err(SecretsError::Unreadable(_)) => Err(NoSecret::Unreadable),
                Err(_) => Err(NoSecret::Away),
            };
            if let Ok(Some(secret)) = &got {
                self.tape.knows(name, secret);
            }
            found = Some(got);
            answer
        };
        let answer = self.tape.call("secrets.get", &(name,), answering).await;
        match (found, &self.tape.side) {
            (Some(got), _) => got,
            (None, Side::Plays(player)) => Ok(answer?.map(|bytes| player.secret(name, bytes))),
            // It answers from the future alone.
            (None, Side::Writes(_)) => Ok(None),
        }
    }

    async fn look(&self) -> Result<u64, SecretsError> {
        self.inner.look().await
    }
}

impl Directory for Taped<dyn Directory> {
    fn is_deployed(&self, agent: &AgentName) -> bool {
        self.tape.call_now("tasks.is-deployed", &(agent.as_str(),), || self.inner.is_deployed(agent))
    }
}
