//! Greets whoever is named.

use agent_sdk::Json;
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
struct Request {
    name: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct Reply {
    greeting: String,
}

#[agent_sdk::agent]
fn handle(Json(request): Json<Request>) -> Json<Reply> {
    Json(Reply { greeting: format!("Hello, {}!", request.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets_by_name() {
        let Json(reply) = handle(Json(Request { name: "Ada".into() }));
        assert_eq!(reply.greeting, "Hello, Ada!");
    }
}
