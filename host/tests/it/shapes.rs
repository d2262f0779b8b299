//! The four shapes, on the real servers: how a task gets in, and how its answer comes out.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::common::{Host, HostBuilder, agents_dir, wait_until};
use super::scripts::unique;

/// A host, and the agent on it that a test is about. On the real servers all hosts make one fleet, so the name is the test's own;
/// and what one host says or does itself is looked for where it is alone.
struct Shaped {
    host: Host,
    agent: String,
}

/// A manifest. `rest` goes on where it ends: in `[retry]`.
fn manifest(agent: &str, shape: &str, rest: &str) -> String {
    format!(
        "manifest_version = 1\n[agent]\nname = \"{agent}\"\nmodule = \"shapes.wasm\"\n{shape}\n\
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

impl Shaped {
    async fn start(builder: HostBuilder) -> Self {
        Self { host: builder.start().await, agent: unique("shapes") }
    }

    /// Deploys a module; gives the status and what was said.
    async fn deploy(&self, shape: &str, rest: &str, module: Vec<u8>) -> (StatusCode, String) {
        let answer = self.host.deploy(&self.agent, &manifest(&self.agent, shape, rest), module).await;
        (answer.status(), answer.text().await.unwrap())
    }

    /// Runs a task that must fail; gives its failure.
    async fn failure(&self, body: &str) -> (String, String) {
        let answer = self.host.run(&self.agent, "application/json", body.to_owned()).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        let part = |name: &str| problem["failure"][name].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned();
        (part("type"), part("message"))
    }

    /// Runs a task with headers, and gives its id and its output.
    async fn output(&self, headers: &[(&str, &str)], body: &str) -> (String, String) {
        let mut request = self.host.client().post(self.host.url(&format!("/v1/agents/{}/tasks", self.agent)));
        for (name, value) in headers {
            request = request.header(format!("task-header-{name}"), *value);
        }
        let request = request.header("content-type", "text/plain").header("prefer", "wait=60").body(body.to_owned());
        let answer = request.send().await.unwrap();
        let (status, id) = (answer.status(), answer.headers().get("task-id").cloned());
        let text = answer.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{text}");
        (id.unwrap().to_str().unwrap().to_owned(), text)
    }

    /// Runs a task with headers, and gives what the agent says that it was given.
    async fn given(&self, headers: &[(&str, &str)], body: &str) -> (String, Value) {
        let (id, text) = self.output(headers, body).await;
        (id, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }
}

/// One agent on the real servers.
async fn deployed(shape: &str, rest: &str, module: Vec<u8>) -> Shaped {
    with_agent(HostBuilder::real(), shape, rest, module).await
}

async fn with_agent(builder: HostBuilder, shape: &str, rest: &str, module: Vec<u8>) -> Shaped {
    let shaped = Shaped::start(builder).await;
    let (status, text) = shaped.deploy(shape, rest, module).await;
    assert_eq!(status, StatusCode::CREATED, "{text}");
    shaped
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
    let shaped = Shaped::start(HostBuilder::bare()).await;
    let (status, told) = shaped.deploy("", "", every_shape()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(told.contains("native or command or http or messaging: set agent.shape"), "{told}");
    for shape in ["native", "command", "http"] {
        let (status, told) = shaped.deploy(&format!("shape = \"{shape}\""), "", every_shape()).await;
        assert_eq!(status, StatusCode::CREATED, "{told}");
        let (_, given) = shaped.given(&[], "hello").await;
        assert_eq!((&given["shape"], &given["body"]), (&json!(shape), &json!("hello")), "{given}");
    }
    let only_http = std::fs::read(agents_dir().join("fixtures/hostile/http-status-of-no-number.wasm")).unwrap();
    let (status, told) = shaped.deploy("", "[command]\nargs = [\"-v\"]", only_http).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(told.contains("of the http shape"), "{told}");
}

#[tokio::test]
async fn a_command_reads_its_task_and_prints_its_answer() {
    let rest = "[command]\nargs = [\"--flag\", \"two words\"]";
    let shaped = deployed("shape = \"command\"", rest, every_shape()).await;
    let headers = [("colour", "red"), ("two-parts", "1"), ("two_parts", "2")];
    let (id, given) = shaped.given(&headers, "the body").await;
    assert_eq!(given["body"], "the body");
    assert_eq!(given["arguments"], json!([shaped.agent, "--flag", "two words"]));
    assert_eq!(given["content_type"], "text/plain");
    assert_eq!(about(&given, "TASK_ID"), Some(id.as_str()));
    assert_eq!(about(&given, "TASK_AGENT"), Some(shaped.agent.as_str()));
    assert_eq!(about(&given, "TASK_ATTEMPT"), Some("1"));
    assert_eq!(about(&given, "TASK_HEADER_COLOUR"), Some("red"));
    assert_eq!(about(&given, "TASK_HEADER_TWO_PARTS"), Some("1, 2"));
    // Nothing of the host's own environment.
    let names: Vec<_> = given["about"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("TASK_")), "{names:?}");

    let (kind, message) = shaped.failure(r#"{"fail":"no paper"}"#).await;
    assert_eq!((kind.as_str(), message.as_str()), ("rejected", "exit code 1: no paper"));
}

#[tokio::test]
async fn what_a_command_says_beside_its_answer_is_logged() {
    let mut shaped = with_agent(HostBuilder::bare(), "shape = \"command\"", "", every_shape()).await;
    shaped.failure(r#"{"fail":"paper is out"}"#).await;
    let log = shaped.host.log_to_its_end().await;
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
    let shaped = deployed("", "", module).await;
    let answer = shaped.host.run(&shaped.agent, "text/plain", "000").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.text().await.unwrap(), "000");
    for (code, kind) in [("001", "rejected"), ("002", "rejected"), ("075", "retry"), ("255", "rejected")] {
        let (actual, message) = shaped.failure(code).await;
        let shown = code.trim_start_matches('0');
        assert_eq!((actual.as_str(), message), (kind, format!("exit code {shown}")));
    }
}

#[tokio::test]
async fn an_http_agent_gets_a_request_and_its_response_is_the_answer() {
    let shaped = deployed("shape = \"http\"", "", every_shape()).await;
    let headers = [
        ("colour", "red"),
        ("connection", "x-private"),
        ("x-private", "1"),
        ("host", "elsewhere"),
        ("task-id", "forged"),
        ("transfer-encoding", "chunked"),
    ];
    let (id, given) = shaped.given(&headers, "the body").await;
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
    let answer = shaped.host.run(&shaped.agent, "application/json", wanted.to_string()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/html");
    assert!(!answer.headers().contains_key("x-error-type"));
    assert_eq!(answer.text().await.unwrap(), "<p>");
}

#[tokio::test]
async fn the_status_of_an_http_agent_decides() {
    let shaped = deployed("shape = \"http\"", "", every_shape()).await;
    for (status, kind) in [(301, "rejected"), (404, "rejected"), (429, "retry"), (503, "retry")] {
        let body = json!({ "status": status, "text": "because" }).to_string();
        let (actual, message) = shaped.failure(&body).await;
        assert_eq!(actual, kind, "{status}");
        assert!(message.starts_with(&format!("status {status} ")) && message.ends_with(": because"), "{message}");
    }
}

#[tokio::test]
async fn retry_after_puts_the_next_attempt_off() {
    let shaped = deployed("shape = \"http\"", "", every_shape()).await;
    let body = json!({ "status": 503, "headers": [["retry-after", "86400"]] });
    let id = shaped.host.submit(&shaped.agent, "", body.to_string()).await;
    let task = wait_until("the task waits for its next attempt", async || {
        let task = shaped.host.task(&id).await;
        (task["status"] == "retrying").then_some(task)
    })
    .await;
    assert_eq!(task["attempt"], 1, "with the manifest's 10 ms it would have failed by now: {task}");
    shaped.host.client().delete(shaped.host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
}

#[tokio::test]
async fn a_large_body_goes_through_every_shape_that_answers() {
    let shaped = Shaped::start(HostBuilder::bare()).await;
    let text = "é".repeat(3 << 20);
    let body = json!({ "text": text }).to_string();
    for shape in ["native", "command", "http"] {
        let large = "[limits]\noutput = \"15MiB\"";
        let (status, told) = shaped.deploy(&format!("shape = \"{shape}\""), large, every_shape()).await;
        assert_eq!(status, StatusCode::CREATED, "{told}");
        let answer = shaped.host.run(&shaped.agent, "application/json", body.clone()).await;
        assert_eq!(answer.status(), StatusCode::OK, "{shape}");
        assert!(answer.text().await.unwrap() == text, "{shape}");
    }
}

#[tokio::test]
async fn a_messaging_agent_gets_a_message_and_answers_whether_it_worked() {
    let mut shaped = with_agent(HostBuilder::bare(), "shape = \"messaging\"", "", every_shape()).await;
    let (id, output) = shaped.output(&[("colour", "red")], "the body").await;
    assert_eq!(output, "");
    let (kind, message) = shaped.failure(r#"{"fail":"no such topic"}"#).await;
    assert_eq!((kind.as_str(), message.as_str()), ("retry", "no such topic"));
    let log = shaped.host.log_to_its_end().await;
    let said = log.lines().find(|line| line.contains(&id) && line.contains("messaging")).expect("what it was given");
    for part in ["the body", "text/plain", "colour", "red"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test]
async fn every_shape_is_stopped_when_its_task_is_cancelled() {
    let shaped = Shaped::start(HostBuilder::bare()).await;
    for fixture in ["program-spins", "http-body-before-its-response", "messaging-spins"] {
        let module = std::fs::read(agents_dir().join(format!("fixtures/hostile/{fixture}.wasm"))).unwrap();
        let (status, told) = shaped.deploy("", "[limits]\ntimeout = \"10m\"\ncpu = \"10m\"", module).await;
        assert_eq!(status, StatusCode::CREATED, "{fixture}: {told}");
        let id = shaped.host.submit(&shaped.agent, "", "").await;
        wait_until("the task runs", async || (shaped.host.task(&id).await["status"] == "running").then_some(())).await;
        let cancelled = shaped.host.client().delete(shaped.host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
        assert_eq!(cancelled.status(), StatusCode::ACCEPTED, "{fixture}");
        assert_eq!(shaped.host.finished(&id).await["status"], "cancelled", "{fixture}");
        let instances = "no instance is left";
        wait_until(instances, async || {
            (super::scripts::metric(&shaped.host, "host_live_instances").await == 0).then_some(())
        })
        .await;
    }
}
