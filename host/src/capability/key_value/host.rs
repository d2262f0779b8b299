//! `wasi:keyvalue`, both drafts, in terms of [`KeyValue`](super::KeyValue).

use wasmtime::component::Resource;

use super::{BATCH_BYTES_MAX, Bucket, Cas, KeyValueError, REMEMBERED_BYTES_MAX, Swap, VALUE_BYTES_MAX};
use super::{check_batch, check_entry};
use crate::capability::calls::On;
use crate::capability::{COPIES, View, quoted};
use crate::trace::Span;

/// What the guest is told: a short case; the cause is for the host's log.
enum Told {
    AccessDenied,
    Other(String),
}

impl View<'_> {
    fn open_bucket(&mut self, name: &str) -> wasmtime::Result<Result<Resource<Bucket>, Told>> {
        self.session.count_call();
        match self.session.plan().bucket(name) {
            Some(bucket) => Ok(Ok(self.table.push(bucket.clone())?)),
            None => {
                let name = quoted(name);
                let line = format!("[grants] key_value = [{name}]");
                self.session.note_denied("key-value", &name, &line);
                Ok(Err(Told::AccessDenied))
            }
        }
    }

    /// The bucket of a handle, and the span of the call.
    fn bucket(&mut self, bucket: &Resource<Bucket>, operation: &'static str) -> wasmtime::Result<(Bucket, Span)> {
        self.session.count_call();
        let bucket = self.table.get(bucket)?.clone();
        Ok((bucket, self.session.calls().operation(On::KeyValue, operation)))
    }

    /// Hands out a remembered value, where the task may hold one more.
    fn remember(&mut self, cas: Cas) -> Answer<Resource<Cas>> {
        let bytes = self.session.remembered_bytes.saturating_add(cas.bytes());
        if bytes > REMEMBERED_BYTES_MAX {
            let text = format!("the values remembered for compare-and-swap are more than {REMEMBERED_BYTES_MAX} bytes");
            return Ok(Err(Told::Other(text)));
        }
        self.session.remembered.resize(bytes)?;
        self.session.remembered_bytes = bytes;
        Ok(Ok(self.table.push(cas)?))
    }

    fn forget(&mut self, cas: &Cas) {
        self.session.remembered_bytes = self.session.remembered_bytes.saturating_sub(cas.bytes());
        // Less always has room.
        let _ = self.session.remembered.resize(self.session.remembered_bytes);
    }

    fn kv_answer<T>(&mut self, span: Span, answer: Result<T, KeyValueError>) -> Answer<T> {
        span.failed(answer.as_ref().err().map(KeyValueError::kind));
        Ok(answer.map_err(|error| self.told(error)))
    }

    fn told(&mut self, error: KeyValueError) -> Told {
        match &error {
            KeyValueError::Unavailable(_) => self.session.note_failed("key-value", &error),
            KeyValueError::LimitExceeded(_) | KeyValueError::NotANumber => {}
        }
        Told::Other(error.to_string())
    }

    async fn kv_get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let (bucket, span) = self.bucket(&bucket, "get")?;
        let _turn = self.session.turn_to_read(1).await;
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.key_value().get(&bucket, &key).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }

    async fn kv_set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let (bucket, span) = self.bucket(&bucket, "set")?;
        let _held = self.session.hold(value.len().saturating_mul(COPIES))?;
        let answer = match check_entry(&key, value.len()) {
            Ok(()) => self.session.key_value().set(&bucket, &key, value).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }

    async fn kv_delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let (bucket, span) = self.bucket(&bucket, "delete")?;
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.key_value().delete(&bucket, &key).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }

    async fn kv_exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let (bucket, span) = self.bucket(&bucket, "exists")?;
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.key_value().exists(&bucket, &key).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }

    async fn kv_list(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<super::KeyPage> {
        let (bucket, span) = self.bucket(&bucket, "list_keys")?;
        let _turn = self.session.turn_to_read(1).await;
        let answer = self.session.key_value().list_keys(&bucket, cursor).await;
        self.kv_answer(span, answer)
    }

    async fn kv_increment(&mut self, bucket: Resource<Bucket>, key: String, delta: i64) -> Answer<i64> {
        let (bucket, span) = self.bucket(&bucket, "increment")?;
        let answer = match check_entry(&key, 0) {
            Ok(()) => self.session.key_value().increment(&bucket, &key, delta).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }

    async fn kv_get_many(&mut self, bucket: Resource<Bucket>, keys: &[String]) -> Answer<Vec<Option<Vec<u8>>>> {
        let (bucket, span) = self.bucket(&bucket, "get_many")?;
        let _held = self.session.hold(keys.iter().map(String::len).sum::<usize>().saturating_mul(COPIES))?;
        let _turn = self.session.turn_to_read(BATCH_BYTES_MAX / VALUE_BYTES_MAX).await;
        let answer = match check_batch(keys.iter().map(|key| (key.as_str(), 0))) {
            Ok(()) => self.session.key_value().get_many(&bucket, keys).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }

    async fn kv_set_many(&mut self, bucket: Resource<Bucket>, entries: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let (bucket, span) = self.bucket(&bucket, "set_many")?;
        let bytes: usize = entries.iter().map(|(key, value)| key.len().saturating_add(value.len())).sum();
        let _held = self.session.hold(bytes.saturating_mul(COPIES))?;
        let answer = match check_batch(entries.iter().map(|(key, value)| (key.as_str(), value.len()))) {
            Ok(()) => self.session.key_value().set_many(&bucket, entries).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }

    async fn kv_delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let (bucket, span) = self.bucket(&bucket, "delete_many")?;
        let _held = self.session.hold(keys.iter().map(String::len).sum::<usize>().saturating_mul(COPIES))?;
        let answer = match check_batch(keys.iter().map(|key| (key.as_str(), 0))) {
            Ok(()) => self.session.key_value().delete_many(&bucket, &keys).await,
            Err(error) => Err(error),
        };
        self.kv_answer(span, answer)
    }
}

/// The outer error traps (a handle that does not exist), the inner one is the guest's to handle.
type Answer<T> = wasmtime::Result<Result<T, Told>>;

/// The part that is word for word the same in both drafts.
macro_rules! store {
    ($draft:ident) => {
        impl From<Told> for $draft::store::Error {
            fn from(told: Told) -> Self {
                match told {
                    Told::AccessDenied => Self::AccessDenied,
                    Told::Other(text) => Self::Other(text),
                }
            }
        }

        impl $draft::store::Host for View<'_> {
            fn open(&mut self, identifier: String) -> wasmtime::Result<Result<Resource<Bucket>, $draft::store::Error>> {
                Ok(self.open_bucket(&identifier)?.map_err(Into::into))
            }
        }

        impl $draft::store::HostBucket for View<'_> {
            async fn get(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<Option<Vec<u8>>, $draft::store::Error>> {
                Ok(self.kv_get(bucket, key).await?.map_err(Into::into))
            }

            async fn set(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                Ok(self.kv_set(bucket, key, value).await?.map_err(Into::into))
            }

            async fn delete(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<(), $draft::store::Error>> {
                Ok(self.kv_delete(bucket, key).await?.map_err(Into::into))
            }

            async fn exists(
                &mut self,
                bucket: Resource<Bucket>,
                key: String,
            ) -> wasmtime::Result<Result<bool, $draft::store::Error>> {
                Ok(self.kv_exists(bucket, key).await?.map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                bucket: Resource<Bucket>,
                cursor: Option<$draft::Cursor>,
            ) -> wasmtime::Result<Result<$draft::store::KeyResponse, $draft::store::Error>> {
                let Ok(cursor) = cursor.map(|cursor| $draft::read_cursor(&cursor)).transpose() else {
                    let text = "the cursor was not given out by list-keys".to_owned();
                    return Ok(Err($draft::store::Error::Other(text)));
                };
                let page = self.kv_list(bucket, cursor).await?;
                Ok(page.map(|page| $draft::page(page)).map_err(Into::into))
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }
    };
}
store!(draft);
store!(draft2);

/// `wasi:keyvalue@0.2.0-draft`: cursors are numbers.
mod draft {
    pub(super) use crate::wit::capabilities::wasi::keyvalue0_2_0_draft::{atomics, batch, store};

    pub(super) type Cursor = u64;

    pub(super) fn read_cursor(cursor: &Cursor) -> Result<u64, std::num::ParseIntError> {
        Ok(*cursor)
    }

    pub(super) fn page(page: super::super::KeyPage) -> store::KeyResponse {
        store::KeyResponse { keys: page.keys, cursor: page.cursor }
    }
}

/// `wasi:keyvalue@0.2.0-draft2`: cursors are text.
mod draft2 {
    pub(super) use crate::wit::capabilities::wasi::keyvalue0_2_0_draft2::{atomics, batch, store};

    pub(super) type Cursor = String;

    pub(super) fn read_cursor(cursor: &Cursor) -> Result<u64, std::num::ParseIntError> {
        cursor.parse()
    }

    pub(super) fn page(page: super::super::KeyPage) -> store::KeyResponse {
        store::KeyResponse { keys: page.keys, cursor: page.cursor.map(|cursor| cursor.to_string()) }
    }
}

impl draft::atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, draft::store::Error>> {
        // The draft counts without a sign, the store with one: what does not fit both is refused, not wrapped.
        let Ok(delta) = i64::try_from(delta) else {
            return Ok(Err(draft::store::Error::Other(KeyValueError::NotANumber.to_string())));
        };
        let sum = self.kv_increment(bucket, key, delta).await?;
        Ok(sum.map_err(Into::into).and_then(|sum| {
            u64::try_from(sum).map_err(|_| draft::store::Error::Other("the value is below 0".to_owned()))
        }))
    }
}

impl draft::batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, draft::store::Error>> {
        let values = self.kv_get_many(bucket, &keys).await?;
        let paired = values
            .map(|values| keys.into_iter().zip(values).map(|(key, value)| value.map(|value| (key, value))).collect());
        Ok(paired.map_err(Into::into))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), draft::store::Error>> {
        Ok(self.kv_set_many(bucket, entries).await?.map_err(Into::into))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), draft::store::Error>> {
        Ok(self.kv_delete_many(bucket, keys).await?.map_err(Into::into))
    }
}

impl draft2::batch::Host for View<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<(String, Option<Vec<u8>>)>, draft2::store::Error>> {
        let values = self.kv_get_many(bucket, &keys).await?;
        Ok(values.map(|values| keys.into_iter().zip(values).collect()).map_err(Into::into))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        entries: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), draft2::store::Error>> {
        Ok(self.kv_set_many(bucket, entries).await?.map_err(Into::into))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), draft2::store::Error>> {
        Ok(self.kv_delete_many(bucket, keys).await?.map_err(Into::into))
    }
}

impl draft2::atomics::Host for View<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> wasmtime::Result<Result<i64, draft2::store::Error>> {
        Ok(self.kv_increment(bucket, key, delta).await?.map_err(Into::into))
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), draft2::atomics::CasError>> {
        self.session.count_call();
        // The handle is the guest's no longer: what it gets back on a lost race is a new one, with the value of now.
        let cas = self.table.delete(cas)?;
        self.forget(&cas);
        let span = self.session.calls().operation(On::KeyValue, "swap");
        let Cas { bucket, key, seen } = cas;
        let seen_bytes = seen.as_ref().map_or(0, Vec::len);
        let _held = self.session.hold(value.len().saturating_add(seen_bytes).saturating_mul(COPIES))?;
        let answer = match check_entry(&key, value.len()) {
            Ok(()) => self.session.key_value().swap(&bucket, &key, seen.as_deref(), value).await,
            Err(error) => Err(error),
        };
        span.failed(answer.as_ref().err().map(KeyValueError::kind));
        Ok(match answer {
            Ok(Swap::Done) => Ok(()),
            Ok(Swap::Changed(seen)) => Err(match self.remember(Cas { bucket, key, seen })? {
                Ok(newer) => draft2::atomics::CasError::CasFailed(newer),
                Err(told) => draft2::atomics::CasError::StoreError(told.into()),
            }),
            Err(error) => Err(draft2::atomics::CasError::StoreError(self.told(error).into())),
        })
    }
}

impl draft2::atomics::HostCas for View<'_> {
    async fn new(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Resource<Cas>, draft2::store::Error>> {
        let of = self.table.get(&bucket)?.clone();
        Ok(match self.kv_get(bucket, key.clone()).await? {
            Ok(seen) => self.remember(Cas { bucket: of, key, seen })?.map_err(Into::into),
            Err(told) => Err(told.into()),
        })
    }

    async fn current(&mut self, cas: Resource<Cas>) -> wasmtime::Result<Result<Option<Vec<u8>>, draft2::store::Error>> {
        self.session.count_call();
        Ok(Ok(self.table.get(&cas)?.seen.clone()))
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> wasmtime::Result<()> {
        let cas = self.table.delete(cas)?;
        self.forget(&cas);
        Ok(())
    }
}
