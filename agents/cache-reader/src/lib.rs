//! Reads through a cache from a database: a hit costs one cache read; a miss reads the row, making it where there is
//! none, and caches it for a time.

use std::time::Duration;

use agent_sdk::{Failure, Json, cache, config, params, sql};
use serde::{Deserialize, Serialize};

/// How long a value stays cached where neither the request nor the configuration says.
const TTL_MS_DEFAULT: u64 = 60_000;

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    key: String,
    /// How long the value is cached on a miss, in milliseconds.
    ttl_ms: Option<u64>,
    /// Forgets the cached value first, so that this read is a miss.
    #[serde(default)]
    refresh: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Reply {
    key: String,
    value: String,
    hit: bool,
}

#[agent_sdk::agent]
fn handle(Json(request): Json<Request>) -> Result<Json<Reply>, Failure> {
    let Request { key, ttl_ms, refresh } = request;
    check(&key, ttl_ms)?;
    if refresh {
        cache::delete(&key)?;
    }
    if let Some(value) = cache::get(&key)?.and_then(|bytes| String::from_utf8(bytes).ok()) {
        return Ok(Json(Reply { key, value, hit: true }));
    }
    let value = load(&key)?;
    let ttl_ms = match ttl_ms {
        Some(ttl_ms) => ttl_ms,
        None => config::get_as("ttl-ms")?.unwrap_or(TTL_MS_DEFAULT),
    };
    cache::set_for(&key, &value, Duration::from_millis(ttl_ms))?;
    Ok(Json(Reply { key, value, hit: false }))
}

fn check(key: &str, ttl_ms: Option<u64>) -> Result<(), Failure> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Failure::reject(format!("`key` must have 1 to {KEY_BYTES_MAX} bytes, and has {}", key.len())));
    }
    if ttl_ms == Some(0) {
        return Err(Failure::reject("`ttl_ms` must be at least 1"));
    }
    Ok(())
}

/// The row's value; the row is made where there is none.
fn load(key: &str) -> Result<String, Failure> {
    const SELECT: &str = "SELECT value FROM entries WHERE key = $1";
    // A concurrent insert of the same key wins silently here: both would write the same value.
    const INSERT: &str = "INSERT INTO entries (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING";

    let database = sql::Connection::open("main")?;
    if let Some(row) = database.query_opt(SELECT, params![key])? {
        return Ok(row.get("value")?);
    }
    let value = seed(key);
    database.execute(INSERT, params![key, value])?;
    Ok(value)
}

/// What a key that nobody has written yet holds.
fn seed(key: &str) -> String {
    format!("the value of {key}")
}

#[cfg(test)]
mod tests {
    use agent_sdk::Task;

    use super::*;

    #[test]
    fn a_request_needs_a_key_only() {
        let request = |body: &str| Task { body: body.into(), ..Task::default() }.json::<Request>();
        let least = request(r#"{"key":"k1"}"#).unwrap();
        assert_eq!((least.key.as_str(), least.ttl_ms, least.refresh), ("k1", None, false));
        assert!(request("{}").is_err());
    }

    #[test]
    fn keys_and_times_are_checked() {
        assert!(check("k1", None).is_ok());
        assert!(check("k1", Some(1)).is_ok());
        for (key, ttl_ms) in [("", None), ("k1", Some(0))] {
            assert!(matches!(check(key, ttl_ms), Err(Failure::Reject { .. })));
        }
    }
}
