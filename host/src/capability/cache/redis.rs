//! The cache in Redis.

use std::time::Duration;

use deadpool_redis::redis;
use redis::{RedisError, Value, cmd};

use super::{BATCH_BYTES_MAX, Cache, CacheError, Space, VALUE_BYTES_MAX, batch_too_large};
use crate::capability::redis::{Fault, GET_MANY_SCRIPT, RedisConnections, fault};

/// Batches of at most so many keys cannot go over the limit of a batch, so they need no script to watch it.
const KEYS_SAFE_MAX: usize = BATCH_BYTES_MAX / VALUE_BYTES_MAX;

/// The cache in Redis, over the connections that all agents share.
#[derive(Clone, Debug)]
pub struct RedisCache {
    connections: RedisConnections,
}

impl RedisCache {
    /// The cache over these connections.
    #[must_use]
    pub fn new(connections: RedisConnections) -> Self {
        Self { connections }
    }
}

#[async_trait::async_trait]
impl Cache for RedisCache {
    async fn get(&self, space: &Space, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        let mut command = cmd("GET");
        command.arg(space.full_key(key));
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn get_many(&self, space: &Space, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, CacheError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let full: Vec<_> = keys.iter().map(|key| space.full_key(key)).collect();
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

    async fn set(&self, space: &Space, key: &str, value: Vec<u8>, ttl: Option<Duration>) -> Result<(), CacheError> {
        let mut command = cmd("SET");
        command.arg(space.full_key(key)).arg(value);
        if let Some(ttl) = ttl {
            command.arg("PX").arg(ms(ttl));
        }
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn delete(&self, space: &Space, key: &str) -> Result<bool, CacheError> {
        let mut command = cmd("DEL");
        command.arg(space.full_key(key));
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn increment(&self, space: &Space, key: &str, delta: i64) -> Result<i64, CacheError> {
        let mut command = cmd("INCRBY");
        command.arg(space.full_key(key)).arg(delta);
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }

    async fn expire(&self, space: &Space, key: &str, ttl: Duration) -> Result<bool, CacheError> {
        let mut command = cmd("PEXPIRE");
        command.arg(space.full_key(key)).arg(ms(ttl));
        command.query_async(&mut self.connections.next()).await.map_err(lowered)
    }
}

/// At least 1: Redis refuses a time to live of 0.
fn ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn lowered(error: RedisError) -> CacheError {
    match fault(&error) {
        Fault::NotANumber => CacheError::NotANumber,
        Fault::Full => CacheError::LimitExceeded("the cache is out of memory".to_owned()),
        Fault::Unavailable => CacheError::Unavailable(error.into()),
    }
}
