use super::*;
use crate::catalog::{Actor, NewEvent};
use crate::http::{Auth, Config, Token};
use crate::secrets::{SecretsError, VALUE_BYTES_MAX};
use crate::task::AgentName;

const KEY: &str = "/v1/agents/echo/secrets/api-key";

async fn put(router: &Router, path: &str, body: impl Into<Body>) -> Answer {
    send(router, request(Method::PUT, path, &[], body)).await
}

#[tokio::test]
async fn a_secret_is_set_listed_and_removed_and_its_value_is_never_answered() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let set = put(&router, KEY, "hunter2\n").await.json();
    let expected = |status: &str| serde_json::json!({"agent": "echo", "name": "api-key", "status": status, "deployed": true, "hidden_by": null});
    assert_eq!(set, expected("set"));
    assert_eq!(doubles.lock().secrets.stored[0].2.reveal(), "hunter2\n", "as it was sent");
    assert_eq!(put(&router, KEY, "hunter3").await.json(), expected("replaced"));
    let listed = get(&router, "/v1/agents/echo/secrets").await;
    let (items, next) = (&listed.json()["items"], &listed.json()["next"]);
    assert_eq!((items.as_array().unwrap().len(), next), (1, &Value::Null));
    for (field, value) in [("name", "api-key"), ("source", "store"), ("set_by", "this machine"), ("key", "current")] {
        assert_eq!(items[0][field], value, "{field}");
    }
    assert_eq!((&items[0]["set_at"], &items[0]["problem"]), (&1_795_442_888_001_u64.into(), &Value::Null));
    assert!(!String::from_utf8_lossy(&listed.body).contains("hunter"));
    assert_eq!(delete(&router, KEY).await.status, 204);
    delete(&router, KEY).await.problem(404, "unknown-secret");
    let event = |action: &'static str| NewEvent {
        actor: Actor::new("this machine"),
        host: "here:8080".to_owned(),
        action,
        agent: Some(AgentName::parse("echo").unwrap()),
        detail: "api-key".to_owned(),
    };
    assert_eq!(doubles.lock().events, ["secret-set", "secret-set", "secret-removed"].map(event));
    // There is no way to ask for one.
    assert!(get(&router, KEY).await.problem(405, "method-not-allowed").contains("GET"));
}

#[tokio::test]
async fn a_secret_may_be_set_before_its_agent_is_deployed() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    get(&router, "/v1/agents/voter/secrets").await.problem(404, "unknown-agent");
    assert_eq!(put(&router, "/v1/agents/voter/secrets/key", "x").await.json()["deployed"], false);
    assert_eq!(get(&router, "/v1/agents/voter/secrets").await.json()["items"][0]["name"], "key");
    assert_eq!(get(&router, "/v1/agents/echo/secrets").await.json()["items"], serde_json::json!([]));
    doubles.lock().secrets.hidden_by = Some("AGENT_HOST_SECRET_VOTER_KEY".to_owned());
    let set = put(&router, "/v1/agents/voter/secrets/key", "x").await.json();
    assert_eq!(set["hidden_by"], "AGENT_HOST_SECRET_VOTER_KEY");
}

#[tokio::test]
async fn what_is_no_secret_is_refused() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for (path, body) in [
        (KEY, &b""[..]),
        (KEY, b"\xff\xfe"),
        ("/v1/agents/echo/secrets/api%20key", b"hunter2"),
        ("/v1/agents/echo/secrets/a.b", b"hunter2"),
    ] {
        let detail = put(&router, path, body).await.problem(400, "bad-request");
        assert!(!detail.contains("hunter2"), "{detail}");
    }
    put(&router, "/v1/agents/No!/secrets/key", "x").await.problem(404, "unknown-agent");
    delete(&router, "/v1/agents/echo/secrets/a.b").await.problem(404, "unknown-secret");
    assert_eq!(put(&router, KEY, vec![b'x'; VALUE_BYTES_MAX]).await.status, 200);
    let detail = put(&router, KEY, vec![b'x'; VALUE_BYTES_MAX + 1]).await.problem(413, "too-large");
    assert!(detail.contains("65536"), "{detail}");
    assert_eq!(doubles.lock().secrets.stored.len(), 1);
}

#[tokio::test]
async fn why_it_is_not_set_is_told_and_drivers_stay_in_the_log() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    doubles.lock().secrets.fails = Some(SecretsError::NoKey);
    let detail = put(&router, KEY, "hunter2").await.problem(409, "no-secrets-key");
    assert!(detail.contains("AGENT_HOST_SECRETS_KEY") && detail.contains("openssl rand -base64 32"), "{detail}");
    doubles.lock().secrets.fails = Some(SecretsError::TooMany(AgentName::parse("echo").unwrap()));
    put(&router, KEY, "hunter2").await.problem(409, "too-many-secrets");
    for method in [Method::PUT, Method::DELETE] {
        doubles.lock().secrets.are_away();
        let detail = send(&router, request(method, KEY, &[], "hunter2")).await.problem(503, "unavailable");
        assert!(!detail.contains("hunter2"), "{detail}");
    }
    doubles.lock().secrets.are_away();
    let detail = get(&router, "/v1/agents/echo/secrets").await.problem(503, "unavailable");
    assert!(!detail.contains("hunter2"), "{detail}");
}

#[tokio::test]
async fn secrets_are_listed_by_who_reads_and_changed_by_who_deploys() {
    let (doubles, _published) = Doubles::new();
    let token = |text: &str| Some(Token::new(text));
    let auth = Auth { admin: token("a"), read: token("r"), submit: token("s") };
    let router = doubles.router(Config { auth, ..Config::default() });
    let status = async |method: Method, path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let sent = send(&router, request(method, path, &[("authorization", &bearer)], "hunter2")).await;
        sent.status.as_u16()
    };
    for (method, path, expected) in [
        (Method::PUT, KEY, [401, 403, 403, 200]),
        (Method::GET, "/v1/agents/echo/secrets", [401, 403, 200, 200]),
        (Method::DELETE, KEY, [401, 403, 403, 204]),
    ] {
        for (token, expected) in ["guess", "s", "r", "a"].into_iter().zip(expected) {
            assert_eq!(status(method.clone(), path, token).await, expected, "{method} {token}");
        }
    }
    assert!(doubles.lock().events.iter().all(|event| event.actor == Actor::new("admin token")));
}
