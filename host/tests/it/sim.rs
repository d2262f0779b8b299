//! `agent-sim`: runs compiled agents as a host does, on a machine without one.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::common::agents_dir;

/// Compiled code of all tests here, so that a module is compiled once.
pub(crate) fn cache_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("agent-sim")
}

async fn sim(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-sim"));
    command.args(args).env("AGENT_SIM_CACHE_DIR", cache_dir()).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.unwrap()
}

fn agent(name: &str) -> String {
    agents_dir().join(name).to_str().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a task and gives the document about it.
async fn document(args: &[&str]) -> Value {
    let output = sim(&[&["run", "--format", "json"], args].concat()).await;
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", text(&output.stdout), text(&output.stderr)))
}

/// An agent of this module and manifest.
fn made(manifest: &str, module: &[u8]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let head = "manifest_version = 1\n[agent]\nname = \"made\"\nmodule = \"made.wasm\"\n";
    std::fs::write(folder.path().join("agent.toml"), format!("{head}{manifest}")).unwrap();
    std::fs::write(folder.path().join("made.wasm"), module).unwrap();
    folder
}

#[tokio::test]
async fn a_run_prints_the_output_and_a_price_tag_that_fits() {
    let output = sim(&["run", &agent("echo"), "hello"]).await;
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "hello"), "{told}");
    for line in ["succeeded", "memory", "guest cpu", "wall clock", "host calls", "limits that would fit:"] {
        assert!(told.lines().any(|shown| shown.starts_with(line)), "{line}: {told}");
    }
    // What it proposes is a manifest's part, under which the same task runs.
    let (_, limits) = told.split_once("limits that would fit:\n").unwrap();
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    let folder = made(limits, &module);
    let again = sim(&["run", folder.path().to_str().unwrap(), "hello"]).await;
    assert_eq!((again.status.code(), text(&again.stdout).as_str()), (Some(0), "hello"), "{}", text(&again.stderr));
}

#[tokio::test]
async fn a_failed_task_says_why_and_where() {
    let manifest = agent("fixtures/manifest");
    let cases = [
        (r#"{"do":"reject"}"#, "rejected: refused"),
        (r#"{"do":"hog"}"#, "out-of-memory: asked for more memory than limits.memory = 16MiB"),
        (r#"{"do":"spin"}"#, "timed-out: ran past its time limit"),
        (r#"{"do":"big-output"}"#, "limit-exceeded: went over limits.output = 64KiB"),
        (r#"{"do":"panic"}"#, "a fixture panics"),
    ];
    for (body, told) in cases {
        let output = sim(&["run", &manifest, body]).await;
        assert_eq!(output.status.code(), Some(1), "{body}");
        assert!(text(&output.stderr).contains(told), "{body}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
}

#[tokio::test]
async fn what_an_agent_logs_is_shown() {
    let output = sim(&["run", &agent("fixtures/manifest"), r#"{"do":"flood-stderr"}"#]).await;
    let told = text(&output.stderr);
    assert!(told.contains(" WARN stderr: line 0 of a flood"), "{told}");
    assert!(told.contains("the task's log is cut here: limits.log = 16KiB"), "{told}");
}

#[tokio::test]
async fn every_shape_runs() {
    let every_shape = std::fs::read(agents_dir().join("shapes/manifest/shapes.wasm")).unwrap();
    for shape in ["native", "command", "http"] {
        let folder = made(&format!("shape = \"{shape}\"\n"), &every_shape);
        let ran = document(&[folder.path().to_str().unwrap(), "hello", "--header", "colour=red"]).await;
        assert_eq!(ran["outcome"], "succeeded", "{ran}");
        let given: Value = serde_json::from_str(ran["output"]["body"].as_str().unwrap()).unwrap();
        assert_eq!((&given["shape"], &given["body"]), (&json!(shape), &json!("hello")));
    }
    let program = std::fs::read(agents_dir().join("fixtures/hostile/program-exits-with-75.wasm")).unwrap();
    let folder = made("", &program);
    let ran = document(&[folder.path().to_str().unwrap()]).await;
    assert_eq!(ran["failure"], json!({ "type": "retry", "message": "exit code 75" }));
}

#[tokio::test]
async fn calls_are_counted_fail_and_are_slow() {
    let counter = agent("counter");
    let body = r#"{"key":"visits"}"#;
    let ran = document(&[&counter, body]).await;
    assert_eq!(ran["outcome"], "succeeded", "{ran}");
    assert_eq!(ran["calls"]["kv"]["calls"], 1, "{ran}");
    assert!(ran["usage"]["host_calls"].as_u64().unwrap() > 0, "{ran}");

    let ran = document(&[&counter, body, "--fail", "kv:1"]).await;
    assert_eq!(ran["outcome"], "host-error", "{ran}");
    assert_eq!(ran["faults"], json!(["call 1 of kv failed"]));
    assert_eq!(document(&[&counter, body, "--fail", "kv:2"]).await["outcome"], "succeeded");

    let module = std::fs::read(agents_dir().join("counter/counter.wasm")).unwrap();
    let hasty = made("[limits]\ntimeout = \"200ms\"\n[grants]\nkey_value = [\"default\"]\n", &module);
    let ran = document(&[hasty.path().to_str().unwrap(), body, "--slow", "kv=1m"]).await;
    assert_eq!(ran["outcome"], "timed-out", "{ran}");

    let ran = document(&[&counter, body, "--kill-at", "commit"]).await;
    assert_eq!((&ran["outcome"], &ran["runs"]), (&json!("succeeded"), &json!(2)), "{ran}");
    assert!(ran["output"]["body"].as_str().unwrap().contains(":2"), "counted by both runs: {ran}");
    let ran = document(&[&counter, body, "--kill-at", "kv:1"]).await;
    assert_eq!((&ran["outcome"], &ran["runs"]), (&json!("succeeded"), &json!(2)), "{ran}");
    assert!(ran["output"]["body"].as_str().unwrap().contains(":1"), "the first run died before it counted: {ran}");

    let ran = document(&[&counter, body, "--cancel-at", "kv:1"]).await;
    assert_eq!((&ran["outcome"], &ran["runs"]), (&json!("cancelled"), &json!(1)), "whatever it answers: {ran}");
    assert_eq!(ran["faults"], json!(["the task was cancelled at call 1 of kv"]));
}

#[tokio::test]
async fn the_samples_scenarios_pass() {
    let kit = agents_dir().join("../agent-sdk/conformance");
    let samples = ["voter", "task-worker", "counter"].map(|name| (agents_dir().join(name), agents_dir().join(name)));
    // What is asked of every SDK, of the one for Rust.
    let rust = (agents_dir().join("conformance/manifest"), kit);
    for (agent, above) in samples.into_iter().chain([rust]) {
        let (name, folder) = (agent.display(), above.join("scenarios"));
        let output = sim(&["test", folder.to_str().unwrap(), "--agent", agent.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(0), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains(" passed, 0 failed"));
    }
}

#[tokio::test]
async fn what_differs_is_shown_line_by_line_and_in_junit() {
    let scenarios = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(scenarios.path().join(name), text).unwrap();
    write(
        "good.toml",
        "[task]\nbody = \"hello\"\n[expect]\noutput = \"hello\"\ncontent_type = \"text/plain; charset=utf-8\"\n",
    );
    write("bad.json", r#"{"task": {"json": {"a": [1, 2]}}, "expect": {"json": {"a": [1, 3]}}}"#);
    write("wrong.toml", "[task]\nbdoy = \"hello\"\n");
    let report = scenarios.path().join("junit.xml");
    let args =
        ["test", scenarios.path().to_str().unwrap(), "--agent", &agent("echo"), "--junit", report.to_str().unwrap()];
    let output = sim(&args).await;
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}{}", text(&output.stderr));
    assert!(told.contains("ok   good"), "{told}");
    assert!(told.contains("FAIL bad\n     json\n"), "{told}");
    assert!(told.contains("     -     3\n     +     2\n"), "{told}");
    assert!(told.contains("FAIL wrong") && told.contains("bdoy"), "{told}");
    assert!(told.contains("1 passed, 2 failed"), "{told}");
    let junit = std::fs::read_to_string(report).unwrap();
    assert!(junit.contains("<testsuite name=\"echo\" tests=\"3\" failures=\"2\""), "{junit}");
    assert!(junit.contains("name=\"good\"") && junit.contains("<failure message=\"json\">"), "{junit}");
}

#[tokio::test]
async fn http_is_answered_as_a_scenario_says() {
    let module = std::fs::read(agents_dir().join("fixtures/manifest/fixtures.wasm")).unwrap();
    let folder = made("[grants]\nallowed_outbound_hosts = [\"https://api.example.com\"]\n", &module);
    let scenario = r#"
[given]
http = [{ url = "https://api.example.com/price?of=tea", body = "3" }]
[[step]]
task.json = { do = "get", url = "https://api.example.com/price?of=tea" }
expect.output = "200 3"
expect.http = [{ url = "https://api.example.com/price?of=tea" }]
[[step]]
task.json = { do = "get", url = "https://api.example.com/other" }
expect.output = "404 the scenario has no answer to GET https://api.example.com/other\n"
[[step]]
task.json = { do = "get", url = "https://elsewhere.example.com/" }
expect.log = ["add \"https://elsewhere.example.com:443\" to allowed_outbound_hosts"]
expect.http = []
"#;
    std::fs::create_dir(folder.path().join("scenarios")).unwrap();
    let path = folder.path().join("scenarios/prices.toml");
    std::fs::write(&path, scenario).unwrap();
    let output = sim(&["test", path.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[tokio::test]
async fn what_cannot_be_run_is_told() {
    let empty = TempDir::new().unwrap();
    let echo = agent("echo");
    let broken = made("", b"(module)");
    let cases: [(Vec<&str>, &str); 7] = [
        (vec!["run", empty.path().to_str().unwrap()], "expected the agent's manifest"),
        (vec!["run", broken.path().to_str().unwrap()], "WebAssembly text"),
        (vec!["run", &echo, "--fail", "disk:1"], "expected sql, kv, cache or http"),
        (vec!["run", &echo, "@/no/such/file"], "/no/such/file"),
        (vec!["test", empty.path().to_str().unwrap()], "expected scenarios"),
        (vec!["test", "/no/such/folder"], "/no/such/folder"),
        (vec![], "Usage"),
    ];
    for (args, told) in cases {
        let output = sim(&args).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {said}");
        assert!(said.contains(told), "{args:?}: {said}");
    }
}
