//! Agents that go wrong: each ends in its own outcome, with the limit named, and disturbs nobody.

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::common::{Host, HostBuilder, agents_dir, wait_until};
use super::delivery::{Stranger, deploy_misbehaving};
use super::fleet::Fleet;
use super::scripts::{metric, unique};

/// A host with the misbehaving agent and a well-behaved one.
async fn host() -> Host {
    let host = HostBuilder::real().with_samples().start().await;
    let folder = agents_dir().join("fixtures/manifest");
    let manifest = std::fs::read_to_string(folder.join("agent.toml")).unwrap();
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let deployed = host.deploy("fixtures", &manifest, module).await;
    assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
    host
}

#[tokio::test]
async fn each_ends_in_its_own_outcome() {
    let host = host().await;
    let table = [
        // what it does, the outcome, what the message names
        ("trap", "trapped", "unreachable"),
        ("spin", "timed-out", "limits."),
        ("sleep", "timed-out", "limits.timeout"),
        ("hog", "out-of-memory", "limits.memory"),
        ("overflow", "trapped", "out of bounds"),
        ("panic", "trapped", "instruction executed: panicked at agents/fixtures/src/lib.rs:"),
        ("big-output", "limit-exceeded", "limits.output"),
        ("reject", "rejected", ""),
        ("retry", "retry", ""),
    ];
    let mut ids = Vec::new();
    for (what, ..) in table {
        ids.push(host.submit("fixtures", "", json!({ "do": what }).to_string()).await);
    }
    // While they all run their course, another agent answers.
    for _ in 0..20 {
        assert_eq!(host.run("echo", "text/plain", "undisturbed").await.status(), 200);
    }
    for ((what, outcome, named), id) in table.into_iter().zip(ids) {
        let task = host.finished(&id).await;
        assert_eq!(task["status"], "failed", "{what}: {task}");
        assert_eq!(task["failure"]["type"], outcome, "{what}: {task}");
        let message = task["failure"]["message"].as_str().unwrap();
        assert!(message.contains(named), "{what}: {named:?} is missing in {message:?}");
        assert_eq!(task["attempt"], 1, "{what}: its manifest allows one attempt");
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_off_and_the_task_goes_on() {
    let mut host = host().await;
    for what in ["flood", "flood-stderr"] {
        let id = host.submit("fixtures", "", json!({ "do": what }).to_string()).await;
        assert_eq!(host.finished(&id).await["status"], "succeeded", "{what}");
    }
    let log = host.log();
    // Of 10,000 lines each, the limit of 16 KiB lets a few hundred through; another host of the fleet may have run it.
    assert!(log.matches("of a flood").count() < 4_000, "{}", log.len());
}

#[tokio::test]
async fn an_http_request_is_denied_at_the_call() {
    let host = host().await;
    let body = json!({ "do": "fetch", "url": "http://127.0.0.1:1/" }).to_string();
    let answer = host.run("fixtures", "application/json", body).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), r#"Err(Denied("127.0.0.1:1"))"#);
}

#[tokio::test]
async fn a_retry_runs_again_until_it_succeeds() {
    let host = host().await;
    let body = json!({ "do": "succeed-at-attempt", "attempt": 3 }).to_string();
    let id = host.submit("fixtures", "?max_attempts=5", body).await;
    let task = host.finished(&id).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("succeeded"), &json!(3)), "{task}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_stops_one_that_runs_and_one_that_never_ran_is_told_apart() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("late");
    deploy_misbehaving(&host, &agent, "10m").await;
    let stranger = Stranger::connect_to(fleet.broker.url()).await;
    let send = async |deadline_ms: u64| {
        let (id, mut headers) = (unique("late"), FieldTable::default());
        headers.insert("x-deadline".into(), AMQPValue::LongLongInt(i64::try_from(deadline_ms).unwrap()));
        stranger.send(&agent, &id, headers, br#"{"do":"sleep"}"#).await;
        id
    };
    let stopped = send(agent_host::task::unix_ms_now() + 5_000).await;
    let spared = send(1).await;
    for (id, attempts) in [(&stopped, 1), (&spared, 0)] {
        wait_until("it has come", async || {
            (host.get(&format!("/v1/tasks/{id}")).await.unwrap().status() == 200).then_some(())
        })
        .await;
        let task = host.finished(id).await;
        let failure = json!({ "type": "expired", "message": "its deadline passed" });
        assert_eq!((&task["status"], &task["failure"]), (&json!("failed"), &failure), "{task}");
        let letter: Value = host.get(&format!("/v1/dead-letters/{id}")).await.unwrap().json().await.unwrap();
        assert_eq!(letter["attempts"], attempts, "{letter}");
        for of_a_run in [&letter["revision"], &letter["digest"], &task["revision"], &task["started_at"], &task["usage"]]
        {
            assert_eq!(of_a_run.is_null(), attempts == 0, "{task} {letter}");
        }
    }
    let counted = async |name: &str| metric(&host, &format!("{name}{{agent=\"{agent}\"}}")).await;
    wait_until("both are settled", async || (counted("agent_dead_letters").await == 2).then_some(())).await;
    assert_eq!((counted("faas_invocations").await, counted("faas_timeouts").await), (1, 1));
    drop(host);
    fleet.end().await;
}
