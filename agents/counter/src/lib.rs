//! Counts by key, in a key-value bucket.
//!
//! The count is an effect outside the task's transaction: a task that is delivered twice counts twice.

use agent_sdk::{Failure, Json, kv};
use serde::{Deserialize, Serialize};

/// The longest key: enough for a name or a path, far below what Redis takes.
const KEY_BYTES_MAX: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    key: String,
    #[serde(default = "one")]
    by: i64,
}

fn one() -> i64 {
    1
}

#[derive(Debug, Serialize)]
struct Reply {
    key: String,
    value: i64,
}

#[agent_sdk::agent]
fn handle(Json(request): Json<Request>) -> Result<Json<Reply>, Failure> {
    check_key(&request.key)?;
    let value = kv::Bucket::open("default")?.increment(&request.key, request.by)?;
    Ok(Json(Reply { key: request.key, value }))
}

fn check_key(key: &str) -> Result<(), Failure> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Failure::reject(format!("`key` must have 1 to {KEY_BYTES_MAX} bytes, and has {}", key.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_sdk::Task;

    use super::*;

    fn request(body: &str) -> Result<Request, Failure> {
        Task { body: body.into(), ..Task::default() }.json()
    }

    #[test]
    fn counts_by_one_unless_told() {
        assert_eq!(request(r#"{"key":"visits"}"#).unwrap().by, 1);
        assert_eq!(request(r#"{"key":"visits","by":-4}"#).unwrap().by, -4);
        assert!(request(r#"{"key":"visits","buy":2}"#).is_err());
    }

    #[test]
    fn a_key_has_a_length() {
        assert!(check_key("visits").is_ok());
        assert!(matches!(check_key(""), Err(Failure::Reject { .. })));
        assert!(matches!(check_key(&"k".repeat(KEY_BYTES_MAX + 1)), Err(Failure::Reject { .. })));
    }
}
