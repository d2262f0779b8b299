//! `agent-host dev`: what a save does.

use std::path::Path;

use serde_json::json;

use super::common::{Host, HostBuilder, agents_dir, wait_until};

const MANIFEST: &str = r#"manifest_version = 1
[agent]
name = "made"
module = "made.wasm"
[build]
command = "sh build.sh"
watch = ["build.sh"]
"#;

/// Saves a build that takes the module of another agent.
fn save(folder: &Path, build: &str) {
    std::fs::write(folder.join("build.sh"), build).unwrap();
}

fn builds(module: &str) -> String {
    format!("cp '{}' made.wasm\n", agents_dir().join(module).display())
}

/// Waits until the log has such a line after everything that it had when this was asked last.
pub(crate) async fn shown(host: &mut Host, from: &mut usize, is_it: impl Fn(&str) -> bool, wanted: &str) -> String {
    wait_until(wanted, || {
        let log = host.log();
        let found = log[*from..].lines().find(|line| is_it(line)).map(str::to_owned);
        if let Some(line) = &found {
            *from += log[*from..].find(line.as_str()).unwrap() + line.len();
        }
        std::future::ready(found)
    })
    .await
}

async fn told(host: &mut Host, from: &mut usize, wanted: &str) -> String {
    shown(host, from, |line| line.contains(wanted), wanted).await
}

#[tokio::test]
async fn a_save_runs_the_last_task_again() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("agent.toml"), MANIFEST).unwrap();
    save(folder.path(), &builds("echo/echo.wasm"));
    let scenarios = folder.path().join("scenarios");
    std::fs::create_dir(&scenarios).unwrap();
    std::fs::write(scenarios.join("a-world.toml"), "[given.config]\na = \"b\"\n[task]\nbody = \"needs a world\"")
        .unwrap();
    std::fs::write(scenarios.join("hello.toml"), "[task]\nbody = \"from the scenario\"").unwrap();
    let mut host = HostBuilder::dev(folder.path()).start().await;
    let mut from = 0;
    // Nobody has sent anything: the first scenario that needs nothing is tried.
    let line = told(&mut host, &mut from, "made: scenarios/hello.toml: succeeded in ").await;
    assert!(line.ends_with(": from the scenario"), "{line}");

    let answer = host.client().post(host.url("/v1/agents/made/tasks")).header("task-header-colour", "red");
    let answer = answer.header("prefer", "wait=60").body(json!({ "do": "nothing" }).to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    save(folder.path(), &format!("{}# again\n", builds("echo/echo.wasm")));
    // The same module is deployed already, and runs all the same.
    let line = told(&mut host, &mut from, "made: its last task: succeeded in ").await;
    assert!(line.ends_with(r#": {"do":"nothing"}"#), "{line}");

    // Errors of a build and of a deploy are shown in place, and nothing runs.
    save(folder.path(), "echo 'agent.c:3:1: error: expected expression' >&2; exit 1\n");
    told(&mut host, &mut from, "agent.c:3:1: error: expected expression").await;
    told(&mut host, &mut from, "sh build.sh (exit status: 1)").await;
    save(folder.path(), "printf x > made.wasm\n");
    told(&mut host, &mut from, "is not deployed: ").await;

    // Another program meets the same task, header and all.
    save(folder.path(), &builds("shapes/manifest/shapes.wasm"));
    told(&mut host, &mut from, "set agent.shape in the manifest").await;
    let native = MANIFEST.replace("module", "shape = \"native\"\nmodule");
    std::fs::write(folder.path().join("agent.toml"), native).unwrap();
    let line = told(&mut host, &mut from, "made: its last task: succeeded in ").await;
    assert!(line.contains("colour") && line.contains("red"), "{line}");

    // One that fails says why, each time; one that would be tried again does not get in the way of the next save.
    std::fs::write(
        folder.path().join("agent.toml"),
        format!("{MANIFEST}[retry]\ninitial = \"5m\"\njitter = \"none\"\n"),
    )
    .unwrap();
    save(folder.path(), &builds("fixtures/hostile/program-exits-with-75.wasm"));
    told(&mut host, &mut from, "made: its last task: attempt 1 failed, and is tried again: retry: exit code 75").await;
    save(folder.path(), &builds("conformance/manifest/conformance.wasm"));
    told(&mut host, &mut from, "made: its last task: rejected: this SDK does not do").await;
    let tasks: serde_json::Value = host.get("/v1/tasks?agent=made").await.unwrap().json().await.unwrap();
    let left = tasks["items"].as_array().unwrap().iter().filter(|task| task["status"] == "retrying").count();
    assert_eq!(left, 0, "{tasks}");
}
