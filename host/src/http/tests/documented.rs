use super::*;
use crate::http::Config;

/// The routes that there are, as the contract names them.
const ROUTES: [(&str, &str); 33] = [
    ("get", "/"),
    ("get", "/healthz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/readyz"),
    ("get", "/v1/agents"),
    ("delete", "/v1/agents/{agent}"),
    ("get", "/v1/agents/{agent}"),
    ("post", "/v1/agents/{agent}/pause"),
    ("post", "/v1/agents/{agent}/resume"),
    ("post", "/v1/agents/{agent}/revisions"),
    ("post", "/v1/agents/{agent}/rollback"),
    ("get", "/v1/agents/{agent}/secrets"),
    ("delete", "/v1/agents/{agent}/secrets/{name}"),
    ("put", "/v1/agents/{agent}/secrets/{name}"),
    ("post", "/v1/agents/{agent}/tasks"),
    ("post", "/v1/agents/{agent}/tasks:batch"),
    ("put", "/v1/agents/{agent}/traffic"),
    ("get", "/v1/dead-letters"),
    ("delete", "/v1/dead-letters/{id}"),
    ("get", "/v1/dead-letters/{id}"),
    ("get", "/v1/dead-letters/{id}/recording"),
    ("post", "/v1/dead-letters/{id}/redrive"),
    ("post", "/v1/dead-letters:drop"),
    ("post", "/v1/dead-letters:redrive"),
    ("get", "/v1/events"),
    ("get", "/v1/live"),
    ("get", "/v1/tasks"),
    ("delete", "/v1/tasks/{id}"),
    ("get", "/v1/tasks/{id}"),
    ("get", "/v1/tasks/{id}/events"),
    ("get", "/v1/tasks/{id}/logs"),
    ("get", "/v1/tasks/{id}/output"),
];

#[tokio::test]
async fn every_route_is_documented_and_everything_documented_is_a_route() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let document = get(&router, "/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut documented = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
            documented.push((method.as_str(), path.as_str()));
        }
    }
    assert_eq!(documented, ROUTES);
    // A stream without an end is asked for in tests of its own.
    for (method, path) in ROUTES.into_iter().filter(|(_, path)| *path != "/v1/live") {
        let path = path.replace("{agent}", "echo").replace("{id}", "unknown").replace("{name}", "key");
        let answer = send(&router, request(method.to_uppercase().parse().unwrap(), &path, &[], "")).await;
        let kind = answer.status.is_client_error().then(|| answer.json()["type"].as_str().unwrap().to_owned());
        let routed = !kind.is_some_and(|kind| kind.ends_with("unknown-route") || kind.ends_with("method-not-allowed"));
        assert!(routed, "{method} {path}");
    }
}

#[tokio::test]
async fn references_within_the_document_resolve() {
    let (doubles, _published) = Doubles::new();
    let document = get(&doubles.router(Config::default()), "/openapi.json").await.json();
    let text = document.to_string();
    let references: Vec<_> = text.split("\"$ref\":\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(!references.is_empty());
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_document_too() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for path in ["/v2", "/v1", "/v1/dead-letters:resend", "/v1/agents/echo/promote"] {
        get(&router, path).await.problem(404, "unknown-route");
    }
    let answer = send(&router, request(Method::PUT, "/v1/agents", &[], "")).await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    assert_eq!(send(&router, request(Method::PUT, "/v1/tasks/x", &[], "")).await.status, 405);
}

#[tokio::test]
async fn metrics_are_in_the_text_format() {
    let (doubles, _published) = Doubles::new();
    let answer = get(&doubles.router(Config::default()), "/metrics").await;
    assert_eq!(answer.body, "agent_queue_depth 0\n");
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
}
