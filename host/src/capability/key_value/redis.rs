//! Key-value in Redis.

use deadpool_redis::redis;
use redis::{RedisError, Value, cmd};

use super::{BATCH_BYTES_MAX, Bucket, KeyPage, KeyValue, KeyValueError, Swap, VALUE_BYTES_MAX, batch_too_large};
use crate::capability::redis::{Fault, GET_MANY_SCRIPT, RedisConnections, fault, glob_escaped};

/// Keys that one `SCAN` looks at: enough that a listing of a small bucket in a full server takes few round trips, small
/// enough that one call does not hold Redis up (about 0.1 ms).
const SCAN_COUNT: u32 = 1000;
/// Most `SCAN`s of one page, so that a call ends although other agents' keys fill the server; the guest then gets an
/// empty page and a cursor.
const SCANS_PER_PAGE_MAX: u32 = 32;
/// Keys of a page after which it is given out.
const PAGE_KEYS_MIN: usize = 100;
/// Batches of at most so many keys cannot go over the limit of a batch, so they need no script to watch it.
const KEYS_SAFE_MAX: usize = BATCH_BYTES_MAX / VALUE_BYTES_MAX;

/// Sets the key if its value is still the one seen. ARGV: 1 if a value was seen, that value, the new one.
const SWAP: &str = "\
local now = redis.call('GET', KEYS[1])
if (now == false and ARGV[1] == '0') or (now ~= false and ARGV[1] == '1' and now == ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[3])
  return {1, false}
end
return {0, now}";

/// Key-value in Redis, over the connections that all agents share.
#[derive(Clone, Debug)]
pub struct RedisKeyValue {
    connections: RedisConnections,
}

impl RedisKeyValue {
    /// Key-value over these connections.
    #[must_use]
    pub fn new(connections: RedisConnections) -> Self {
        Self { connections }
    }
}

#[async_trait::async_trait]
impl KeyValue for RedisKeyValue {
    async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let mut command = cmd("GET");
        command.arg(bucket.full_key(key));
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn set(&self, bucket: &Bucket, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let mut command = cmd("SET");
        command.arg(bucket.full_key(key)).arg(value);
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), KeyValueError> {
        let mut command = cmd("DEL");
        command.arg(bucket.full_key(key));
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, KeyValueError> {
        let mut command = cmd("EXISTS");
        command.arg(bucket.full_key(key));
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn list_keys(&self, bucket: &Bucket, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let pattern = format!("{}*", glob_escaped(bucket.prefix()));
        // A cursor belongs to one server: the whole page goes over one connection.
        let mut connection = self.connections.next();
        let (mut cursor, mut keys) = (cursor.unwrap_or(0), Vec::new());
        for _ in 0..SCANS_PER_PAGE_MAX {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
            let (next, found): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await.map_err(lowered)?;
            let own = found.iter().filter_map(|key| std::str::from_utf8(key).ok());
            keys.extend(own.filter_map(|key| key.strip_prefix(bucket.prefix())).map(str::to_owned));
            cursor = next;
            if cursor == 0 {
                return Ok(KeyPage { keys, cursor: None });
            }
            if keys.len() >= PAGE_KEYS_MIN {
                break;
            }
        }
        Ok(KeyPage { keys, cursor: Some(cursor) })
    }

    async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Result<i64, KeyValueError> {
        let mut command = cmd("INCRBY");
        command.arg(bucket.full_key(key)).arg(delta);
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        seen: Option<&[u8]>,
        value: Vec<u8>,
    ) -> Result<Swap, KeyValueError> {
        let mut script = cmd("EVAL");
        script.arg(SWAP).arg(1).arg(bucket.full_key(key));
        script.arg(if seen.is_some() { "1" } else { "0" }).arg(seen.unwrap_or_default()).arg(value);
        let (done, now): (bool, Option<Vec<u8>>) =
            script.query_async(&mut self.connections.next()).await.map_err(lowered)?;
        Ok(if done { Swap::Done } else { Swap::Changed(now) })
    }

    async fn get_many(&self, bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let full: Vec<_> = keys.iter().map(|key| bucket.full_key(key)).collect();
        let mut connection = self.connections.next();
        if keys.len() <= KEYS_SAFE_MAX {
            return cmd("MGET").arg(full).query_async(&mut connection).await.map_err(lowered);
        }
        let mut script = cmd("EVAL");
        script.arg(GET_MANY_SCRIPT).arg(keys.len()).arg(full).arg(BATCH_BYTES_MAX);
        match script.query_async(&mut connection).await.map_err(lowered)? {
            Value::Nil => Err(batch_too_large()),
            reply => redis::from_redis_value(reply).map_err(|error| lowered(error.into())),
        }
    }

    async fn set_many(&self, bucket: &Bucket, entries: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut command = cmd("MSET");
        for (key, value) in entries {
            command.arg(bucket.full_key(&key)).arg(value);
        }
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Result<(), KeyValueError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut command = cmd("UNLINK");
        for key in keys {
            command.arg(bucket.full_key(key));
        }
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }
}

fn lowered(error: RedisError) -> KeyValueError {
    match fault(&error) {
        Fault::NotANumber => KeyValueError::NotANumber,
        Fault::Full => KeyValueError::LimitExceeded("the key-value store is out of memory".to_owned()),
        Fault::Unavailable => KeyValueError::Unavailable(error.into()),
    }
}
