//! The four shapes, on the real servers: how a task gets in, and how its answer comes out.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::common::{Host, HostBuilder, agents_dir, wait_until};

/// A manifest of the agent `shapes`. `rest` goes on where it ends: in `[retry]`.
fn manifest(shape: &str, rest: &str) -> String {
    format!(
        "manifest_version = 1\n[agent]\nname = \"shapes\"\nmodule = \"shapes.wasm\"\n{shape}\n\
         [retry]\nmax_attempts = 2\ninitial = \"10ms\"\njitter = \"none\"\n{rest}\n"
    )
}

/// The module that can be run in every shape.
fn every_shape() -> Vec<u8> {
    std::fs::read(agents_dir().join("shapes/manifest/shapes.wasm")).expect("cargo xtask agents has built it")
}

/// A program: a core module, as any compiler of `wasm32-wasip1` emits it.
fn program(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

async fn host_with(shape: &str, rest: &str, module: Vec<u8>) -> Host {
    let host = HostBuilder::real().start().await;
    let answer = host.deploy("shapes", &manifest(shape, rest), module).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, StatusCode::CREATED, "{text}");
    host
}

/// Runs a task that must fail; gives its failure.
async fn failure(host: &Host, body: &str) -> (String, String) {
    let answer = host.run("shapes", "application/json", body.to_owned()).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    let part = |name: &str| problem["failure"][name].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned();
    (part("type"), part("message"))
}

/// Runs a task with headers, and gives what the agent says that it was given.
async fn given(host: &Host, headers: &[(&str, &str)], body: &str) -> (String, Value) {
    let mut request = host.client().post(host.url("/v1/agents/shapes/tasks"));
    for (name, value) in headers {
        request = request.header(format!("task-header-{name}"), *value);
    }
    let request = request.header("content-type", "text/plain").header("prefer", "wait=60").body(body.to_owned());
    let answer = request.send().await.unwrap();
    let id = answer.headers()["task-id"].to_str().unwrap().to_owned();
    let text = answer.text().await.unwrap();
    (id, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// The value of a name, where it is there once.
fn about<'a>(given: &'a Value, name: &str) -> Option<&'a str> {
    let pairs = given["about"].as_array().unwrap();
    let mut values = pairs.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap());
    let value = values.next();
    assert_eq!(values.next(), None, "{name} is there once: {given}");
    value
}

#[tokio::test]
async fn a_module_of_several_shapes_is_run_as_its_manifest_says() {
    let host = HostBuilder::real().start().await;
    let refused = host.deploy("shapes", &manifest("", ""), every_shape()).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem: Value = refused.json().await.unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("native or command or http or messaging: set agent.shape"), "{detail}");
    for shape in ["native", "command", "http"] {
        let deployed = host.deploy("shapes", &manifest(&format!("shape = \"{shape}\""), ""), every_shape()).await;
        assert_eq!(deployed.status(), StatusCode::CREATED, "{shape}");
        let (_, given) = given(&host, &[], "hello").await;
        assert_eq!((&given["shape"], &given["body"]), (&json!(shape), &json!("hello")), "{given}");
    }
    let with_arguments = manifest("shape = \"http\"", "");
    let with_arguments = with_arguments.replace("shape = \"http\"\n", "") + "[command]\nargs = [\"-v\"]\n";
    let only_http = std::fs::read(agents_dir().join("fixtures/hostile/http-status-of-no-number.wasm")).unwrap();
    let refused = host.deploy("shapes", &with_arguments, only_http).await;
    let problem: Value = refused.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("of the http shape"), "{problem}");
}

#[tokio::test]
async fn a_command_reads_its_task_and_prints_its_answer() {
    let rest = "[command]\nargs = [\"--flag\", \"two words\"]";
    let host = host_with("shape = \"command\"", rest, every_shape()).await;
    let headers = [("colour", "red"), ("two-parts", "1"), ("two_parts", "2")];
    let (id, given) = given(&host, &headers, "the body").await;
    assert_eq!(given["body"], "the body");
    assert_eq!(given["arguments"], json!(["shapes", "--flag", "two words"]));
    assert_eq!(given["content_type"], "text/plain");
    assert_eq!(about(&given, "TASK_ID"), Some(id.as_str()));
    assert_eq!(about(&given, "TASK_AGENT"), Some("shapes"));
    assert_eq!(about(&given, "TASK_ATTEMPT"), Some("1"));
    assert_eq!(about(&given, "TASK_HEADER_COLOUR"), Some("red"));
    assert_eq!(about(&given, "TASK_HEADER_TWO_PARTS"), Some("1, 2"));
    // Nothing of the host's own environment.
    let names: Vec<_> = given["about"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("TASK_")), "{names:?}");

    let (kind, message) = failure(&host, r#"{"fail":"no paper"}"#).await;
    assert_eq!((kind.as_str(), message.as_str()), ("rejected", "exit code 1: no paper"));
}

#[tokio::test]
async fn what_a_command_says_beside_its_answer_is_logged() {
    let mut host = host_with("shape = \"command\"", "", every_shape()).await;
    failure(&host, r#"{"fail":"paper is out"}"#).await;
    let log = host.log_to_its_end().await;
    let line = log.lines().find(|line| line.contains("paper is out") && line.contains("stderr")).expect("a record");
    assert!(line.contains("WARN") && line.contains("attempt"), "{line}");
}

#[tokio::test]
async fn a_program_of_the_first_preview_runs_with_its_exit_codes() {
    // Exits with the number that its input is, of which it prints the digits first.
    let module = program(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "\40\00\00\00\03\00\00\00")
          (func (export "_start") (local $i i32) (local $code i32)
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (loop $digit
              (local.set $code (i32.add (i32.mul (local.get $code) (i32.const 10))
                (i32.sub (i32.load8_u offset=64 (local.get $i)) (i32.const 48))))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $digit (i32.lt_u (local.get $i) (i32.const 3))))
            (call $exit (local.get $code))))"#,
    );
    let host = host_with("", "", module).await;
    let answer = host.run("shapes", "text/plain", "000").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.text().await.unwrap(), "000");
    for (code, kind) in [("001", "rejected"), ("002", "rejected"), ("075", "retry"), ("255", "rejected")] {
        let (actual, message) = failure(&host, code).await;
        let shown = code.trim_start_matches('0');
        assert_eq!((actual.as_str(), message), (kind, format!("exit code {shown}")));
    }
}

#[tokio::test]
async fn an_http_agent_gets_a_request_and_its_response_is_the_answer() {
    let host = host_with("shape = \"http\"", "", every_shape()).await;
    let headers = [
        ("colour", "red"),
        ("connection", "x-private"),
        ("x-private", "1"),
        ("host", "elsewhere"),
        ("task-id", "forged"),
        ("transfer-encoding", "chunked"),
    ];
    let (id, given) = given(&host, &headers, "the body").await;
    assert_eq!((&given["body"], &given["content_type"]), (&json!("the body"), &json!("text/plain")));
    assert_eq!(given["arguments"], json!(["Method::Post /"]));
    assert_eq!(about(&given, "task-id"), Some(id.as_str()));
    assert_eq!(about(&given, "colour"), Some("red"));
    assert_eq!(about(&given, "content-length"), Some("8"));
    for dropped in ["connection", "x-private", "transfer-encoding"] {
        assert_eq!(about(&given, dropped), None);
    }
    assert_ne!(about(&given, "host"), Some("elsewhere"));

    let wanted = json!({ "text": "<p>", "headers": [["content-type", "text/html"], ["x-error-type", "trapped"]] });
    let answer = host.run("shapes", "application/json", wanted.to_string()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/html");
    assert!(!answer.headers().contains_key("x-error-type"));
    assert_eq!(answer.text().await.unwrap(), "<p>");
}

#[tokio::test]
async fn the_status_of_an_http_agent_decides() {
    let host = host_with("shape = \"http\"", "", every_shape()).await;
    for (status, kind) in [(301, "rejected"), (404, "rejected"), (429, "retry"), (503, "retry")] {
        let body = json!({ "status": status, "text": "because" }).to_string();
        let (actual, message) = failure(&host, &body).await;
        assert_eq!(actual, kind, "{status}");
        assert!(message.starts_with(&format!("status {status} ")) && message.ends_with(": because"), "{message}");
    }
}

#[tokio::test]
async fn retry_after_puts_the_next_attempt_off() {
    let host = host_with("shape = \"http\"", "", every_shape()).await;
    let body = json!({ "status": 503, "headers": [["retry-after", "86400"]] });
    let id = host.submit("shapes", "", body.to_string()).await;
    let task = wait_until("the task waits for its next attempt", async || {
        let task = host.task(&id).await;
        (task["status"] == "retrying").then_some(task)
    })
    .await;
    assert_eq!(task["attempt"], 1, "with the manifest's 10 ms it would have failed by now: {task}");
    host.client().delete(host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
}

#[tokio::test]
async fn a_large_body_goes_through_every_shape_that_answers() {
    let host = HostBuilder::real().start().await;
    let text = "é".repeat(3 << 20);
    let body = json!({ "text": text }).to_string();
    for shape in ["native", "command", "http"] {
        let manifest = manifest(&format!("shape = \"{shape}\""), "[limits]\noutput = \"15MiB\"");
        assert_eq!(host.deploy("shapes", &manifest, every_shape()).await.status(), StatusCode::CREATED);
        let answer = host.run("shapes", "application/json", body.clone()).await;
        assert_eq!(answer.status(), StatusCode::OK, "{shape}");
        assert!(answer.text().await.unwrap() == text, "{shape}");
    }
}

#[tokio::test]
async fn a_messaging_agent_gets_a_message_and_answers_whether_it_worked() {
    let mut host = host_with("shape = \"messaging\"", "", every_shape()).await;
    let mut request = host.client().post(host.url("/v1/agents/shapes/tasks")).header("task-header-colour", "red");
    request = request.header("content-type", "text/plain").header("prefer", "wait=60").body("the body");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let id = answer.headers()["task-id"].to_str().unwrap().to_owned();
    assert_eq!(answer.text().await.unwrap(), "");
    let (kind, message) = failure(&host, r#"{"fail":"no such topic"}"#).await;
    assert_eq!((kind.as_str(), message.as_str()), ("retry", "no such topic"));
    let log = host.log_to_its_end().await;
    let said = log.lines().find(|line| line.contains(&id) && line.contains("messaging")).expect("what it was given");
    for part in ["the body", "text/plain", "colour", "red"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test]
async fn every_shape_is_stopped_when_its_task_is_cancelled() {
    let host = HostBuilder::real().start().await;
    for fixture in ["program-spins", "http-body-before-its-response", "messaging-spins"] {
        let module = std::fs::read(agents_dir().join(format!("fixtures/hostile/{fixture}.wasm"))).unwrap();
        let patient = manifest("", "[limits]\ntimeout = \"10m\"\ncpu = \"10m\"");
        assert_eq!(host.deploy("shapes", &patient, module).await.status(), StatusCode::CREATED, "{fixture}");
        let id = host.submit("shapes", "", "").await;
        wait_until("the task runs", async || (host.task(&id).await["status"] == "running").then_some(())).await;
        let cancelled = host.client().delete(host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
        assert_eq!(cancelled.status(), StatusCode::ACCEPTED, "{fixture}");
        assert_eq!(host.finished(&id).await["status"], "cancelled", "{fixture}");
        let instances = "no instance is left";
        wait_until(instances, async || (super::scripts::metric(&host, "host_live_instances").await == 0).then_some(()))
            .await;
    }
}
