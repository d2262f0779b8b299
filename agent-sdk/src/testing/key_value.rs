//! Buckets. Each that is opened is there.

pub(crate) mod store {
    use super::super::with;
    pub(crate) use crate::bindings::wasi::keyvalue0_2_0_draft2::store::{Error, KeyResponse};

    #[derive(Debug)]
    pub(crate) struct Bucket {
        pub(super) name: String,
    }

    pub(crate) fn open(name: &str) -> Result<Bucket, Error> {
        let bucket = Bucket { name: name.to_owned() };
        bucket.with(|_| ());
        Ok(bucket)
    }

    impl Bucket {
        pub(super) fn with<T>(&self, look: impl FnOnce(&mut std::collections::BTreeMap<String, Vec<u8>>) -> T) -> T {
            with(|state| look(state.buckets.entry(self.name.clone()).or_default()))
        }

        pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
            Ok(self.with(|keys| keys.get(key).cloned()))
        }

        pub(crate) fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
            self.with(|keys| keys.insert(key.to_owned(), value.to_vec()));
            Ok(())
        }

        pub(crate) fn delete(&self, key: &str) -> Result<(), Error> {
            self.with(|keys| keys.remove(key));
            Ok(())
        }

        pub(crate) fn exists(&self, key: &str) -> Result<bool, Error> {
            Ok(self.with(|keys| keys.contains_key(key)))
        }

        /// All on one page.
        pub(crate) fn list_keys(&self, _cursor: Option<&str>) -> Result<KeyResponse, Error> {
            Ok(KeyResponse { keys: self.with(|keys| keys.keys().cloned().collect()), cursor: None })
        }
    }
}

pub(crate) mod atomics {
    use super::super::cache::added;
    use super::store::{Bucket, Error};

    /// A value as it was, to be replaced if it still is so.
    #[derive(Debug)]
    pub(crate) struct Cas {
        bucket: String,
        key: String,
        seen: Option<Vec<u8>>,
    }

    #[derive(Debug)]
    pub(crate) enum CasError {
        StoreError(Error),
        CasFailed(Cas),
    }

    impl Cas {
        pub(crate) fn new(bucket: &Bucket, key: &str) -> Result<Self, Error> {
            Ok(Self { bucket: bucket.name.clone(), key: key.to_owned(), seen: bucket.get(key)? })
        }

        pub(crate) fn current(&self) -> Result<Option<Vec<u8>>, Error> {
            Ok(self.seen.clone())
        }
    }

    pub(crate) fn swap(cas: Cas, value: &[u8]) -> Result<(), CasError> {
        let bucket = super::store::open(&cas.bucket).map_err(CasError::StoreError)?;
        let now = bucket.get(&cas.key).map_err(CasError::StoreError)?;
        if now != cas.seen {
            return Err(CasError::CasFailed(Cas { seen: now, ..cas }));
        }
        bucket.set(&cas.key, value).map_err(CasError::StoreError)
    }

    pub(crate) fn increment(bucket: &Bucket, key: &str, by: i64) -> Result<i64, Error> {
        bucket.with(|keys| {
            let sum = added(keys.get(key).cloned(), by).map_err(Error::Other)?;
            keys.insert(key.to_owned(), sum.to_string().into_bytes());
            Ok(sum)
        })
    }
}

pub(crate) mod batch {
    use super::store::{Bucket, Error};

    /// A key, and its value where it has one.
    type Found = (String, Option<Vec<u8>>);

    pub(crate) fn get_many(bucket: &Bucket, keys: &[String]) -> Result<Vec<Found>, Error> {
        keys.iter().map(|key| Ok((key.clone(), bucket.get(key)?))).collect()
    }

    pub(crate) fn set_many(bucket: &Bucket, values: &[(String, Vec<u8>)]) -> Result<(), Error> {
        values.iter().try_for_each(|(key, value)| bucket.set(key, value))
    }

    pub(crate) fn delete_many(bucket: &Bucket, keys: &[String]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| bucket.delete(key))
    }
}
