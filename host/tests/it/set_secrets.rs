//! Secrets that operators set while hosts run: by the command line, on a fleet, as agents then get them.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use super::common::{Host, HostBuilder, agent_host, agents_dir, wait_until};
use super::fleet::Fleet;
use super::scripts::unique;

/// Two keys, as `openssl rand -hex 32` makes them.
const KEY: &str = "5f1d0c6a8f0e4b7f9b5a2d3c4e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081";
const OTHER_KEY: &str = "81706f5e4d3c2b1a09f8e7d6c5b4a392817f6e4c3d2a5b9f7b4e0f8a6c0d1f5f";

/// An agent that answers how long a secret of it is.
fn manifest(name: &str) -> String {
    format!(
        "manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"m.wasm\"\n[retry]\nmax_attempts = 1\n\
         [secrets]\nrequired = [\"api-key\"]\n"
    )
}

fn module() -> Vec<u8> {
    std::fs::read(agents_dir().join("conformance/manifest/conformance.wasm")).expect("cargo xtask agents built it")
}

/// How a command ended: status, output, complaint.
async fn command(host: &Host, words: &[&str], stdin: Option<&str>) -> (i32, String, String) {
    let mut command = agent_host();
    command.args(words).env("AGENT_HOST_URL", host.url("")).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut to_child = child.stdin.take().unwrap();
    // One that refuses its arguments reads nothing.
    let _ = to_child.write_all(stdin.unwrap_or_default().as_bytes()).await;
    drop(to_child);
    let ended = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ended.status.code().unwrap(), text(ended.stdout), text(ended.stderr))
}

async fn set(host: &Host, name: &str, value: &str) -> (i32, String, String) {
    command(host, &["secrets", "set", name, "api-key"], Some(value)).await
}

/// Runs a task that asks for the secret: its id, and what the agent answered or failed with.
async fn asked(host: &Host, name: &str) -> (String, String) {
    let request = host.client().post(host.url(&format!("/v1/agents/{name}/tasks")));
    let request = request.header("task-header-do", "secret").header("content-type", "text/plain");
    let accepted: Value = request.body("api-key").send().await.unwrap().json().await.unwrap();
    let id = accepted["id"].as_str().unwrap_or_else(|| panic!("{accepted}"));
    let task = host.finished(id).await;
    let answer = task["output"].as_str().or(task["failure"]["message"].as_str()).unwrap_or_default();
    (id.to_owned(), answer.to_owned())
}

/// The host on which a task ran that said something.
async fn ran_on(host: &Host, id: &str) -> String {
    wait_until("it is known where it ran", async || {
        let runs: Value = host.get(&format!("/v1/tasks/{id}/logs")).await.unwrap().json().await.unwrap();
        runs["items"].as_array()?.last()?["host"].as_str().map(str::to_owned)
    })
    .await
}

/// Waits until so many hosts answer this, each in the last of its tasks.
async fn until_all_answer(host: &Host, name: &str, hosts: usize, expected: &str) {
    let agreeing = tokio::sync::Mutex::new(BTreeSet::new());
    wait_until(&format!("{hosts} hosts answer {expected:?}"), async || {
        let (id, answer) = asked(host, name).await;
        let ran_on = ran_on(host, &id).await;
        let mut agreeing = agreeing.lock().await;
        if answer == expected {
            agreeing.insert(ran_on)
        } else {
            agreeing.remove(&ran_on)
        };
        (agreeing.len() == hosts).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_reaches_the_running_agents_of_all_hosts_without_a_restart() {
    let fleet = Fleet::start().await;
    let name = unique("keyed");
    let host = || fleet.host().env("AGENT_HOST_SECRETS_KEY", KEY);
    let (first, mut second) = (host().start().await, host().start().await);

    // Without it nothing is deployed, and both ways to set it are named.
    let refused = first.deploy(&name, &manifest(&name), module()).await;
    let (status, text) = (refused.status(), refused.text().await.unwrap());
    assert_eq!(status, 422, "{text}");
    let variable = format!("AGENT_HOST_SECRET_{}_API_KEY", name.to_uppercase().replace('-', "_"));
    assert!(text.contains(&format!("agent-host secrets set {name} api-key")) && text.contains(&variable), "{text}");

    let (status, text, complaint) = set(&first, &name, "hunter2\n").await;
    assert_eq!((status, text), (0, format!("secret api-key of {name} is set\n")), "{complaint}");
    assert!(complaint.contains("deployed"), "{complaint}");
    // By way of the other host, which nobody has told but the database.
    assert_eq!(second.deploy(&name, &manifest(&name), module()).await.status(), 201);
    until_all_answer(&second, &name, 2, "7 characters").await;

    let (status, text, complaint) = set(&second, &name, "correct horse battery staple").await;
    assert_eq!((status, text), (0, format!("secret api-key of {name} is replaced\n")), "{complaint}");
    assert_eq!(complaint, "");
    until_all_answer(&first, &name, 2, "28 characters").await;

    let (status, text, _) = command(&first, &["secrets", "list", &name], None).await;
    let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().take(3).collect();
    assert_eq!((status, row), (0, vec!["api-key", "store", "true"]), "{text}");
    let (_, events, _) = command(&first, &["events", "--agent", &name], None).await;
    assert_eq!(events.matches("secret-set").count(), 2, "{events}");
    assert!(!format!("{text}{events}").contains("hunter2"), "{text}{events}");

    let (status, _, complaint) = command(&second, &["secrets", "remove", &name, "api-key"], None).await;
    assert_eq!(status, 0, "{complaint}");
    // The other one, alone, has heard of it.
    assert!(second.terminate().await.success());
    wait_until("the agent is told that it is not set", async || {
        let (_, answer) = asked(&first, &name).await;
        answer.contains(&format!("agent-host secrets set {name} api-key")).then_some(())
    })
    .await;
    drop((first, second));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_the_right_key_is_not_ready_and_says_why() {
    let fleet = Fleet::start().await;
    let name = unique("locked");
    let first = fleet.host().env("AGENT_HOST_SECRETS_KEY", KEY).start().await;
    assert_eq!(set(&first, &name, "hunter2").await.0, 0);
    // Ready while there is nothing for it to read.
    let mut keyless = fleet.host().start().await;
    let (status, _, complaint) = set(&keyless, &name, "hunter2").await;
    assert!(
        status == 64 && complaint.contains("AGENT_HOST_SECRETS_KEY") && complaint.contains("openssl"),
        "{complaint}"
    );

    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("agent.toml"), manifest(&name)).unwrap();
    std::fs::write(folder.path().join("m.wasm"), module()).unwrap();
    let (status, text, complaint) = command(&first, &["deploy", folder.path().to_str().unwrap()], None).await;
    assert_eq!((status, text.matches(": serves it\n").count()), (69, 1), "{text}{complaint}");
    let cannot = text.lines().find(|line| line.contains(": cannot: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(cannot.contains("\"api-key\"") && cannot.contains("AGENT_HOST_SECRETS_KEY is not set"), "{cannot}");
    assert_eq!(keyless.get("/readyz").await.unwrap().status(), 503);
    assert!(keyless.log_to_its_end().await.contains("AGENT_HOST_SECRETS_KEY is not set"), "the log says so too");

    // Started with another key it is no better off.
    let wrong = fleet.host().env("AGENT_HOST_SECRETS_KEY", OTHER_KEY).listening().await;
    let why = wait_until("it says why it does not serve the agent", async || {
        let agent: Value = first.get(&format!("/v1/agents/{name}")).await.unwrap().json().await.unwrap();
        let mut hosts = agent["hosts"].as_array()?.iter();
        hosts.find_map(|host| host["error"].as_str().map(str::to_owned))
    })
    .await;
    assert!(why.contains("AGENT_HOST_SECRETS_KEY is the key") && !why.contains(OTHER_KEY), "{why}");
    assert_eq!(wrong.get("/readyz").await.unwrap().status(), 503);
    // Until the secret is set by way of it, with its key.
    assert_eq!(set(&wrong, &name, "hunter3").await.0, 0);
    wait_until("it is ready", async || (wrong.get("/readyz").await.unwrap().status() == 200).then_some(())).await;
    drop(wrong);

    // Between two keys the previous one opens.
    let both = [("AGENT_HOST_SECRETS_KEY", KEY), ("AGENT_HOST_SECRETS_KEY_PREVIOUS", OTHER_KEY)];
    let between = both.iter().fold(fleet.host(), |host, (name, value)| host.env(name, value)).start().await;
    let (_, listed, _) = command(&between, &["secrets", "list", &name, "--format", "json"], None).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["key"], &listed[0]["problem"]), (&"previous".into(), &Value::Null), "{listed}");

    let doctor = async |vars: &[(&str, &str)]| {
        let data = TempDir::new().unwrap();
        let mut command = agent_host();
        command.args(["doctor", "--format", "json"]).env("AGENT_HOST_LISTEN", "127.0.0.1:0");
        command.env("AGENT_HOST_DATA_DIR", data.path()).env("DATABASE_URL", fleet.database.url());
        let ended = command.envs(vars.iter().copied()).output().await.unwrap();
        let findings: Vec<Value> = serde_json::from_slice(&ended.stdout).unwrap();
        let of_secrets = findings.into_iter().find(|finding| finding["check"] == "secrets").unwrap();
        (of_secrets["level"].as_str().unwrap().to_owned(), of_secrets["found"].as_str().unwrap().to_owned())
    };
    let (level, found) = doctor(&[]).await;
    assert!(level == "problem" && found.contains(&name) && found.contains("is not set"), "{level}: {found}");
    let (level, found) = doctor(&both[..1]).await;
    assert!(level == "problem" && found.contains("is the key"), "{level}: {found}");
    assert_eq!(doctor(&both).await.0, "warning", "it is to be set again");
    assert_eq!(doctor(&[("AGENT_HOST_SECRETS_KEY", OTHER_KEY)]).await.0, "ok");
    drop((first, between));
    fleet.end().await;
}

#[tokio::test]
async fn an_embedded_host_takes_secrets_for_as_long_as_it_lives() {
    let name = unique("keyed");
    let host = HostBuilder::bare().start().await;
    for (value, expected) in [("", "empty"), ("\n", "empty"), (&"x".repeat(70_000), "65536")] {
        let (status, _, complaint) = set(&host, &name, value).await;
        assert!(status == 64 && complaint.contains(expected), "{complaint}");
    }
    assert_eq!(set(&host, &name, "-----BEGIN KEY-----\nMIIE\n-----END KEY-----\n").await.0, 0);
    assert_eq!(host.deploy(&name, &manifest(&name), module()).await.status(), 201);
    assert_eq!(asked(&host, &name).await.1, "42 characters");
    let (_, listed, _) = command(&host, &["secrets", "list", &name, "--format", "json"], None).await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (&listed[0]["source"], &listed[0]["set_by"]),
        (&"store".into(), &"this machine from 127.0.0.1".into()),
        "{listed}"
    );

    // A variable wins, and whoever sets the other is told.
    let variable = format!("AGENT_HOST_SECRET_{}_API_KEY", name.to_uppercase().replace('-', "_"));
    let host = HostBuilder::bare().env(&variable, "hunter2").start().await;
    assert_eq!(host.deploy(&name, &manifest(&name), module()).await.status(), 201);
    let (status, _, complaint) = set(&host, &name, "of the store").await;
    assert!(status == 0 && complaint.contains(&variable), "{complaint}");
    assert_eq!(asked(&host, &name).await.1, "7 characters");
}
