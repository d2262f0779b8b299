//! `agent:runtime/cache` in terms of [`Cache`](super::Cache).

use super::{BATCH_BYTES_MAX, CacheError, Space, VALUE_BYTES_MAX, check_entry, check_keys, ttl_from_ms};
use crate::capability::calls::On;
use crate::capability::{COPIES, View};
use crate::trace::Span;
use crate::wit::capabilities::agent::runtime::cache::{Error, Host};

/// The outer error traps, the inner one is the guest's to handle.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl View<'_> {
    /// The agent's part of the cache, and the span of the call.
    fn cache_space(&mut self, operation: &'static str) -> Result<(Space, Span), Error> {
        self.session.count_call();
        let Some(space) = self.session.plan().cache_space().cloned() else {
            let line = "[grants] cache = true";
            self.session.note_denied("cache", "cache", line);
            return Err(Error::AccessDenied(super::super::denied("the cache", line)));
        };
        Ok((space, self.session.calls().operation(On::Cache, operation)))
    }

    fn cache_answer<T>(&mut self, span: Span, answer: Result<T, CacheError>) -> Answer<T> {
        span.failed(answer.as_ref().err().map(CacheError::kind));
        Ok(answer.map_err(|error| self.cache_told(&error)))
    }

    fn cache_told(&mut self, error: &CacheError) -> Error {
        match error {
            CacheError::Unavailable(_) => {
                self.session.note_failed("cache", error);
                Error::Unavailable(error.to_string())
            }
            CacheError::LimitExceeded(text) => Error::LimitExceeded(text.clone()),
            CacheError::NotANumber => Error::NotANumber(error.to_string()),
        }
    }
}

impl Host for View<'_> {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        let (space, span) = match self.cache_space("get") {
            Ok(granted) => granted,
            Err(denied) => return Ok(Err(denied)),
        };
        let _turn = self.session.turn_to_read(1).await;
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.cache().get(&space, &key).await,
            Err(error) => Err(error),
        };
        if let Ok(value) = &answer {
            space.counts.count(value.is_some());
        }
        self.cache_answer(span, answer)
    }

    async fn get_many(&mut self, keys: Vec<String>) -> Answer<Vec<Option<Vec<u8>>>> {
        let (space, span) = match self.cache_space("get_many") {
            Ok(granted) => granted,
            Err(denied) => return Ok(Err(denied)),
        };
        let _held = self.session.hold(keys.iter().map(String::len).sum::<usize>().saturating_mul(COPIES))?;
        let _turn = self.session.turn_to_read(BATCH_BYTES_MAX / VALUE_BYTES_MAX).await;
        let answer = match check_keys(&keys) {
            Ok(()) => self.session.cache().get_many(&space, &keys).await,
            Err(error) => Err(error),
        };
        for value in answer.iter().flatten() {
            space.counts.count(value.is_some());
        }
        self.cache_answer(span, answer)
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: Option<u64>) -> Answer<()> {
        let (space, span) = match self.cache_space("set") {
            Ok(granted) => granted,
            Err(denied) => return Ok(Err(denied)),
        };
        let _held = self.session.hold(value.len().saturating_mul(COPIES))?;
        let answer = match check_entry(&key, value.len()) {
            Ok(()) => self.session.cache().set(&space, &key, value, ttl_ms.map(ttl_from_ms)).await,
            Err(error) => Err(error),
        };
        self.cache_answer(span, answer)
    }

    async fn delete(&mut self, key: String) -> Answer<bool> {
        let (space, span) = match self.cache_space("delete") {
            Ok(granted) => granted,
            Err(denied) => return Ok(Err(denied)),
        };
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.cache().delete(&space, &key).await,
            Err(error) => Err(error),
        };
        self.cache_answer(span, answer)
    }

    async fn increment(&mut self, key: String, delta: i64) -> Answer<i64> {
        let (space, span) = match self.cache_space("increment") {
            Ok(granted) => granted,
            Err(denied) => return Ok(Err(denied)),
        };
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.cache().increment(&space, &key, delta).await,
            Err(error) => Err(error),
        };
        self.cache_answer(span, answer)
    }

    async fn expire(&mut self, key: String, ttl_ms: u64) -> Answer<bool> {
        let (space, span) = match self.cache_space("expire") {
            Ok(granted) => granted,
            Err(denied) => return Ok(Err(denied)),
        };
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.cache().expire(&space, &key, ttl_from_ms(ttl_ms)).await,
            Err(error) => Err(error),
        };
        self.cache_answer(span, answer)
    }
}
