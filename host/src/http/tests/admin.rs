use super::doubles::agent_info;
use super::*;
use crate::agents::{Activation, DeployError, Deployed};
use crate::delivery::{BrokerError, Connectivity};
use crate::http::{Auth, Config, Token};
use crate::manifest::ManifestErrors;
use crate::signature::{SIGNATURES_MAX, Signature};
use crate::task::AgentName;

const REVISIONS: &str = "/v1/agents/echo/revisions";

/// A part of a form: name, file name, content.
type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(format!("--frontier\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").as_bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--frontier--\r\n");
    body
}

const MULTIPART: [(&str, &str); 1] = [("content-type", "multipart/form-data; boundary=frontier")];
const MODULE: Part<'static> = ("module", Some("m.wasm"), b"\0asm");
const MANIFEST: Part<'static> = ("manifest", None, b"manifest_version = 1");

async fn deploy(router: &Router, path: &str, parts: &[Part<'_>]) -> Answer {
    post(router, path, &MULTIPART, form(parts)).await
}

#[tokio::test]
async fn agents_are_listed_in_pages_and_shown() {
    let (doubles, _published) = Doubles::new();
    doubles.lock().agents = ["a", "b", "c"].map(agent_info).to_vec();
    let router = doubles.router(Config::default());
    let names =
        |page: &Value| page["items"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect::<Vec<_>>();
    let first = get(&router, "/v1/agents?limit=2").await.json();
    assert_eq!((names(&first), &first["next"]), (vec!["a".into(), "b".into()], &"b".into()));
    let second = get(&router, "/v1/agents?limit=2&cursor=b").await.json();
    assert_eq!((names(&second), &second["next"]), (vec!["c".into()], &Value::Null));
    assert_eq!(names(&get(&router, "/v1/agents").await.json()).len(), 3);
    for bad in ["limit=0", "limit=1001", "limit=x", "page=2"] {
        get(&router, &format!("/v1/agents?{bad}")).await.problem(400, "bad-request");
    }
    let agent = get(&router, "/v1/agents/a").await.json();
    assert_eq!(
        (&agent["digest"], &agent["state"], &agent["queue_depth"]),
        (&"sha256:2".into(), &"consuming".into(), &7.into())
    );
    assert_eq!((&agent["traffic"]["2"], &agent["limits"]["memory_bytes"]), (&100.into(), &(64 << 20).into()));
    assert_eq!(agent["revisions"].as_array().unwrap().len(), 2);
    get(&router, "/v1/agents/nobody").await.problem(404, "unknown-agent");
    doubles.lock().records_fail = true;
    get(&router, "/v1/agents").await.problem(503, "unavailable");
}

#[tokio::test]
async fn a_deploy_hands_over_what_was_sent() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let migrations = [("migration", Some("0002_b.sql"), &b"b"[..]), ("migration", Some("0001_a.sql"), b"a")];
    let answer = deploy(&router, REVISIONS, &[MODULE, MANIFEST, migrations[0], migrations[1]]).await;
    assert_eq!(answer.status, 201);
    let expected = serde_json::json!({ "agent": "echo", "revision": 3, "digest": "sha256:3", "status": "active" });
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("location"), Some("/v1/agents/echo"));
    let (agent, upload, activation) = doubles.lock().deploys.pop().unwrap();
    assert_eq!(
        (agent.as_str(), &upload.module[..], upload.manifest.as_str()),
        ("echo", MODULE.2, "manifest_version = 1")
    );
    assert_eq!(activation, Activation::Always);
    let names: Vec<_> = upload.migrations.iter().map(|migration| migration.name.as_str()).collect();
    assert_eq!(names, ["0001_a.sql", "0002_b.sql"]);
    let inactive = deploy(&router, &format!("{REVISIONS}?activate=false"), &[MODULE, MANIFEST]).await;
    assert_eq!(inactive.json()["status"], "inactive");
    // Also for an agent that is not there yet.
    assert_eq!(deploy(&router, "/v1/agents/new/revisions", &[MODULE, MANIFEST]).await.status, 201);
}

#[tokio::test]
async fn the_same_revision_again_is_200() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let agent = AgentName::parse("echo").unwrap();
    let known =
        Deployed { agent, revision: 2, digest: "sha256:2".to_owned(), known: true, active: true, signed_by: None };
    doubles.lock().deploy_result = Some(Ok(known));
    assert_eq!(deploy(&router, REVISIONS, &[MODULE, MANIFEST]).await.status, 200);
}

#[tokio::test]
async fn a_form_that_is_not_as_expected_is_400() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let cases: [(&[Part<'_>], &str); 7] = [
        (&[MODULE], "manifest"),
        (&[MANIFEST], "module"),
        (&[MODULE, MANIFEST, MODULE], "two parts"),
        (&[MODULE, MANIFEST, ("modul", None, b"")], "modul"),
        (&[MODULE, MANIFEST, ("migration", None, b"")], "file name"),
        (&[MODULE, MANIFEST, ("migration", Some("../a.sql"), b"")], "plain name"),
        (&[MODULE, MANIFEST, ("migration", Some("a.sql"), b""), ("migration", Some("a.sql"), b"")], "a.sql"),
    ];
    for (parts, names) in cases {
        let detail = deploy(&router, REVISIONS, parts).await.problem(400, "bad-request");
        assert!(detail.contains(names), "{detail}");
    }
    post(&router, REVISIONS, &[("content-type", "application/wasm")], "x").await.problem(400, "bad-request");
    post(&router, REVISIONS, &MULTIPART, "not a form").await.problem(400, "bad-request");
    let detail =
        deploy(&router, &format!("{REVISIONS}?planned=true"), &[MODULE, MANIFEST]).await.problem(400, "bad-request");
    assert!(detail.contains("plan"), "{detail}");
    deploy(&router, REVISIONS, &[MODULE, ("manifest", None, &[b' '; 300 << 10])]).await.problem(413, "too-large");
    deploy(&router, "/v1/agents/Bad_Name/revisions", &[MODULE, MANIFEST]).await.problem(404, "unknown-agent");
    assert!(doubles.lock().deploys.is_empty());
}

#[tokio::test]
async fn signatures_come_with_the_module() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let signature = |text: &'static [u8]| ("signature", None, text);
    let parts = [MODULE, MANIFEST, signature(b"AAAA\n"), signature(b"{\"base64Signature\":\"BBBB\"}")];
    assert_eq!(deploy(&router, REVISIONS, &parts).await.status, 201);
    let (_, upload, _) = doubles.lock().deploys.pop().unwrap();
    assert_eq!(upload.signatures, ["AAAA", "BBBB"].map(|text| Signature::of_module(text).unwrap()));
    let detail =
        deploy(&router, REVISIONS, &[MODULE, MANIFEST, signature(b"?")]).await.problem(422, "revision-refused");
    assert!(detail.contains("cosign sign-blob"), "{detail}");
    let many = [vec![MODULE, MANIFEST], vec![signature(b"AAAA"); SIGNATURES_MAX + 1]].concat();
    deploy(&router, REVISIONS, &many).await.problem(413, "too-large");
    assert!(doubles.lock().deploys.is_empty());
}

#[tokio::test]
async fn a_refused_revision_is_422_and_an_absent_service_503() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let errors = vec!["limits.memory = 1B: too little".to_owned(), "retry.max_attempts = 0: too few".to_owned()];
    doubles.lock().deploy_result = Some(Err(DeployError::Manifest(ManifestErrors(errors.clone()))));
    let answer = deploy(&router, REVISIONS, &[MODULE, MANIFEST]).await;
    answer.problem(422, "revision-refused");
    assert_eq!(answer.json()["errors"], serde_json::json!(errors));
    for refused in [
        DeployError::Module("imports wasi:sockets/tcp, which is not offered".to_owned()),
        DeployError::Grant("files".to_owned()),
        DeployError::Schema("0001.sql".to_owned()),
        DeployError::OtherAgent { manifest: AgentName::parse("a").unwrap(), path: AgentName::parse("b").unwrap() },
    ] {
        let expected = refused.to_string();
        doubles.lock().deploy_result = Some(Err(refused));
        let detail = deploy(&router, REVISIONS, &[MODULE, MANIFEST]).await.problem(422, "revision-refused");
        assert_eq!(detail, expected);
    }
    doubles.lock().deploy_result = Some(Err(DeployError::Broker(BrokerError("hunter2".to_owned()))));
    let detail = deploy(&router, REVISIONS, &[MODULE, MANIFEST]).await.problem(503, "unavailable");
    assert!(!detail.contains("hunter2"), "{detail}");
    doubles.lock().deploy_result = Some(Err(DeployError::Database("no connection".to_owned())));
    let detail = deploy(&router, REVISIONS, &[MODULE, MANIFEST]).await.problem(503, "unavailable");
    assert!(detail.contains("no connection"), "{detail}");
    doubles.lock().deploy_result = Some(Err(DeployError::Host("no space left".to_owned())));
    let detail = deploy(&router, REVISIONS, &[MODULE, MANIFEST]).await.problem(503, "unavailable");
    assert!(detail.contains("no space left"), "{detail}");
}

#[tokio::test]
async fn readiness_follows_the_broker_the_consumers_and_the_drain() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    assert_eq!(get(&router, "/readyz").await.json()["status"], "ready");
    doubles.connectivity.send_replace(Connectivity::Down);
    get(&router, "/readyz").await.problem(503, "not-ready");
    doubles.connectivity.send_replace(Connectivity::Blocked);
    assert_eq!(get(&router, "/readyz").await.status, 200);
    doubles.lock().all_consuming = false;
    get(&router, "/readyz").await.problem(503, "not-ready");
    doubles.lock().all_consuming = true;
    doubles.draining.cancel();
    get(&router, "/readyz").await.problem(503, "not-ready");
    assert_eq!(get(&router, "/healthz").await.status, 200);
}

#[tokio::test]
async fn each_route_asks_for_its_token() {
    let (doubles, _published) = Doubles::new();
    let auth = Auth { admin: Some(Token::new("a")), read: Some(Token::new("r")), submit: Some(Token::new("s")) };
    let router = doubles.router(Config { auth, ..Config::default() });
    let status = async |method: &Method, path: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        send(&router, request(method.clone(), path, &headers, "1")).await.status.as_u16()
    };
    let document = get(&router, "/openapi.json").await.json();
    for (method, path, submit, read, admin) in [
        (Method::POST, "/v1/agents/echo/tasks", 202, 403, 202),
        (Method::POST, "/v1/agents/echo/tasks:batch", 202, 403, 202),
        (Method::GET, "/v1/tasks/x", 404, 404, 404),
        (Method::DELETE, "/v1/tasks/x", 404, 403, 404),
        (Method::GET, "/v1/tasks/x/output", 404, 404, 404),
        (Method::GET, "/v1/tasks/x/events", 404, 404, 404),
        (Method::GET, "/v1/agents", 403, 200, 200),
        (Method::GET, "/v1/agents/echo", 403, 200, 200),
        (Method::POST, REVISIONS, 403, 403, 400),
        (Method::POST, "/v1/agents/echo/rollback", 403, 403, 400),
        (Method::PUT, "/v1/agents/echo/traffic", 403, 403, 400),
        (Method::POST, "/v1/agents/echo/pause", 403, 403, 200),
        (Method::POST, "/v1/agents/echo/resume", 403, 403, 200),
        (Method::DELETE, "/v1/agents/echo", 403, 403, 204),
        (Method::GET, "/v1/events", 403, 200, 200),
        (Method::GET, "/v1/dead-letters", 403, 200, 200),
        (Method::GET, "/v1/dead-letters/x", 403, 404, 404),
        (Method::DELETE, "/v1/dead-letters/x", 403, 403, 404),
        (Method::POST, "/v1/dead-letters/x/redrive", 403, 403, 404),
        (Method::POST, "/v1/dead-letters:redrive?agent=echo", 403, 403, 200),
        (Method::POST, "/v1/dead-letters:drop?agent=echo", 403, 403, 200),
    ] {
        assert_eq!(status(&method, path, None).await, 401, "{method} {path}");
        assert_eq!(status(&method, path, Some("wrong")).await, 401, "{method} {path}");
        let got = [
            status(&method, path, Some("s")).await,
            status(&method, path, Some("r")).await,
            status(&method, path, Some("a")).await,
        ];
        assert_eq!(got, [submit, read, admin], "{method} {path}");
        let route = path.split('?').next().unwrap().replace("/echo", "/{agent}").replace("/x", "/{id}");
        let documented = &document["paths"][&route][method.as_str().to_lowercase()]["responses"];
        for status in got.into_iter().chain([401]) {
            assert!(documented[status.to_string()].is_object(), "{method} {route} does not document {status}");
        }
    }
    for open in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(status(&Method::GET, open, None).await, 200, "{open}");
    }
    let denied = get(&router, "/v1/agents").await;
    assert_eq!(denied.header("www-authenticate"), Some("Bearer realm=\"agent-host\""));
    denied.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_web_page_elsewhere_cannot_deploy_to_a_host_without_a_token() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let body = || form(&[MODULE, MANIFEST]);
    let with = |name, value| [MULTIPART[0], (name, value)];
    post(&router, REVISIONS, &with("origin", "http://evil.example"), body()).await.problem(403, "forbidden");
    assert_eq!(post(&router, REVISIONS, &with("origin", "http://127.0.0.1:8080"), body()).await.status, 201);
    let mut rebound = request(Method::GET, "/v1/agents", &[], Body::empty());
    rebound.headers_mut().insert("host", "evil.example:8080".parse().unwrap());
    send(&router, rebound).await.problem(403, "forbidden");
    assert_eq!(doubles.lock().deploys.len(), 1);
}
