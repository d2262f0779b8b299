//! Processes a JSON task: validates it, looks up what its kind of work costs (a cache read), and records it (an SQL
//! insert) under its id, once however often it comes.

use std::time::Duration;

use agent_sdk::{Failure, Json, Task, cache, params, sql};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long the cost of a kind is believed without asking the database.
const WEIGHT_TIME_TO_LIVE: Duration = Duration::from_secs(60);

/// The longest id and the longest name of a kind, as long as the host lets a task's own id be.
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Names the work; the task's own id where it is missing.
    task_id: Option<String>,
    #[serde(default = "default_kind")]
    kind: String,
    payload: Value,
}

fn default_kind() -> String {
    "default".to_owned()
}

#[derive(Debug, Serialize)]
struct Reply {
    task_id: String,
    status: &'static str,
    kind: String,
    units: i64,
    cost: i64,
}

#[agent_sdk::agent]
fn handle(task: &Task, Json(request): Json<Request>) -> Result<Json<Reply>, Failure> {
    let Request { task_id, kind, payload } = request;
    let task_id = task_id.unwrap_or_else(|| task.id.clone());
    check_name("task_id", &task_id)?;
    check_name("kind", &kind)?;

    let database = sql::Connection::open("main")?;
    let units = units(&payload);
    let cost = units.saturating_mul(i64::from(weight(&database, &kind)?));
    let inserted = database.execute(
        "INSERT INTO processed (task_id, kind, units, cost, payload, attempt) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (task_id) DO NOTHING",
        params![task_id, kind, units, cost, payload, i32::try_from(task.attempt).unwrap_or(i32::MAX)],
    )?;
    let status = if inserted == 1 { "processed" } else { "duplicate" };
    Ok(Json(Reply { task_id, status, kind, units, cost }))
}

fn check_name(field: &str, name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Failure::reject(format!("`{field}` must be 1 to {NAME_BYTES_MAX} bytes of printable text")));
    }
    Ok(())
}

/// What a unit of this kind costs: from the cache, else from the database and then cached.
fn weight(database: &sql::Connection, kind: &str) -> Result<i32, Failure> {
    let key = format!("weight:{kind}");
    if let Some(weight) = cache::get_json(&key)? {
        return Ok(weight);
    }
    let Some(row) = database.query_opt("SELECT weight FROM kinds WHERE name = $1", params![kind])? else {
        return Err(Failure::reject(format!("there is no kind of work `{kind}`: add it to the table `kinds`")));
    };
    let weight = row.get(0)?;
    cache::set_json_for(&key, &weight, WEIGHT_TIME_TO_LIVE)?;
    Ok(weight)
}

/// How much work a payload is: the values in it that are not lists or objects, at least one.
fn units(payload: &Value) -> i64 {
    fn leaves(value: &Value) -> i64 {
        match value {
            Value::Array(items) => items.iter().map(leaves).sum(),
            Value::Object(fields) => fields.values().map(leaves).sum(),
            _ => 1,
        }
    }
    leaves(payload).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn units_are_the_leaves_of_the_payload() {
        assert_eq!(units(&json!({ "a": [1, 2, { "b": null }], "c": "x" })), 4);
        assert_eq!(units(&json!("x")), 1);
        assert_eq!(units(&json!({})), 1);
    }

    #[test]
    fn a_request_needs_a_payload_and_nothing_else() {
        let request = |body: &str| Task { body: body.into(), ..Task::default() }.json::<Request>();
        let least = request(r#"{"payload":[1]}"#).unwrap();
        assert_eq!((least.task_id, least.kind.as_str()), (None, "default"));
        assert!(request(r#"{"task_id":"a"}"#).unwrap_err().message().contains("missing field `payload`"));
        assert!(request(r#"{"payload":1,"priority":2}"#).is_err());
    }

    #[test]
    fn names_are_short_and_printable() {
        assert!(check_name("kind", "default").is_ok());
        for name in ["", "a\nb", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(matches!(check_name("kind", name), Err(Failure::Reject { .. })));
        }
    }
}
