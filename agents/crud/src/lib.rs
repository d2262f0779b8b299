//! Inserts, selects, updates and deletes rows: the operation that the request names, or one drawn by weight.

mod draw;
mod store;

use agent_sdk::{Failure, Json, Task, sql};
use serde::{Deserialize, Serialize};

use draw::{Operation, Weights};

/// The most rows that one request may insert.
const INSERT_ROWS_MAX: i64 = 10_000;

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op", deny_unknown_fields)]
enum Request {
    /// Inserts one row, or several that differ by nothing but their id.
    Insert {
        #[serde(default = "default_name")]
        name: String,
        #[serde(default)]
        value: i64,
        #[serde(default = "one")]
        count: i64,
    },
    /// Reads a row: that id, or any.
    Select { id: Option<i64> },
    /// Writes a row, that id or any: the value, or one more than it was.
    Update { id: Option<i64>, value: Option<i64> },
    /// Deletes a row: that id, or any.
    Delete { id: Option<i64> },
    /// One of the above, drawn by weight. The same task draws the same, also when it is retried.
    Mix {
        #[serde(default)]
        weights: Weights,
    },
}

fn default_name() -> String {
    "item".to_owned()
}

fn one() -> i64 {
    1
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Reply {
    op: &'static str,
    /// How many rows the operation met: none where there is no such id, or no row at all.
    rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Item {
    id: i64,
    name: String,
    value: i64,
    version: i32,
}

#[agent_sdk::agent]
fn handle(task: &Task, Json(request): Json<Request>) -> Result<Json<Reply>, Failure> {
    let request = match request {
        Request::Mix { weights } => match weights.draw(&task.id)? {
            Operation::Insert => Request::Insert { name: default_name(), value: 0, count: 1 },
            Operation::Select => Request::Select { id: None },
            Operation::Update => Request::Update { id: None, value: None },
            Operation::Delete => Request::Delete { id: None },
        },
        request => request,
    };
    let database = sql::Connection::open("main")?;
    match request {
        Request::Insert { name, value, count } => {
            if !(1..=INSERT_ROWS_MAX).contains(&count) {
                return Err(Failure::reject(format!("`count` must be from 1 to {INSERT_ROWS_MAX}, not {count}")));
            }
            store::insert(&database, &name, value, count)
        }
        Request::Select { id } => store::select(&database, id),
        Request::Update { id, value } => store::update(&database, id, value),
        Request::Delete { id } => store::delete(&database, id),
        Request::Mix { .. } => Err(Failure::reject("a mix draws no mix")),
    }
    .map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Result<Request, Failure> {
        Task { body: body.into(), ..Task::default() }.json()
    }

    #[test]
    fn fields_have_defaults() {
        assert_eq!(request(r#"{"op":"insert"}"#), Ok(Request::Insert { name: "item".into(), value: 0, count: 1 }));
        assert_eq!(request(r#"{"op":"select"}"#), Ok(Request::Select { id: None }));
        assert_eq!(request(r#"{"op":"mix"}"#), Ok(Request::Mix { weights: Weights::default() }));
        assert!(request(r#"{"op":"drop"}"#).is_err());
    }

    #[test]
    fn a_reply_without_an_item_does_not_mention_one() {
        let reply = Reply { op: "delete", rows: 0, item: None };
        assert_eq!(agent_sdk::Output::json(&reply).unwrap().body, br#"{"op":"delete","rows":0}"#);
    }
}
