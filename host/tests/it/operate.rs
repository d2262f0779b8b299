//! What operators do with a fleet while it works: deploys, rollbacks, pauses, canaries, hosts that join and leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::common::{Host, HostBuilder, agents_dir, wait_until};
use super::delivery::Stranger;
use super::fleet::Fleet;
use super::scripts::unique;

/// A manifest of an agent for these tests; the description makes revisions differ.
pub(crate) fn manifest(name: &str, description: &str) -> String {
    format!(
        "manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"m.wasm\"\ndescription = \"{description}\"\n\
         [limits]\ntimeout = \"10s\"\n[retry]\nmax_attempts = 1\n"
    )
}

pub(crate) fn echo() -> Vec<u8> {
    std::fs::read(agents_dir().join("echo/echo.wasm")).expect("cargo xtask agents built it")
}

/// What traps where the body says so, and `echo` does not.
pub(crate) fn fixtures() -> Vec<u8> {
    std::fs::read(agents_dir().join("fixtures/manifest/fixtures.wasm")).expect("cargo xtask agents built it")
}

async fn change(host: &Host, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = host.client().request(method, host.url(path));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

async fn post(host: &Host, path: &str, body: Value) -> Value {
    let (status, answer) = change(host, reqwest::Method::POST, path, Some(body)).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

async fn agent(host: &Host, name: &str) -> Value {
    host.get(&format!("/v1/agents/{name}")).await.unwrap().json().await.unwrap()
}

/// Waits until every host has the agent so, and says that it is done with all that was changed before. Answers how long that took.
async fn converged(hosts: &[&Host], name: &str, traffic: Value, state: &str) -> Duration {
    let began = Instant::now();
    for host in hosts {
        wait_until("the host follows", async || {
            let agent = agent(host, name).await;
            let all_followed = agent["hosts"].as_array()?.iter().all(|host| host["change"] == agent["change"]);
            (agent["traffic"] == traffic && agent["state"] == state && all_followed).then_some(())
        })
        .await;
    }
    began.elapsed()
}

#[tokio::test]
async fn a_pinned_task_runs_on_its_revision_and_one_of_none_is_refused() {
    let (host, stranger) = (HostBuilder::real().start().await, Stranger::connect().await);
    let name = unique("pin");
    for description in ["one", "two", "three"] {
        assert_eq!(host.deploy(&name, &manifest(&name, description), echo()).await.status(), 201);
    }
    let ended = async |pinned: i64| {
        let id = uuid::Uuid::new_v4().to_string();
        let mut headers = FieldTable::default();
        headers.insert("x-revision".into(), AMQPValue::LongLongInt(pinned));
        stranger.send(&name, &id, headers, b"x").await;
        wait_until("the task has ended", async || {
            let answer = host.get(&format!("/v1/tasks/{id}")).await.unwrap();
            let task = (answer.status() == 200).then_some(answer)?.json::<Value>().await.unwrap();
            ["succeeded", "failed"].contains(&task["status"].as_str().unwrap()).then_some(task)
        })
        .await
    };
    for pinned in [1, 3, 2, 1] {
        let task = ended(pinned).await;
        assert_eq!((&task["status"], &task["revision"]), (&"succeeded".into(), &pinned.into()), "{task}");
    }
    let refused = ended(9).await;
    assert_eq!((&refused["status"], &refused["failure"]["type"]), (&"failed".into(), &"rejected".into()));
    let message = refused["failure"]["message"].as_str().unwrap();
    assert!(message.contains("pins it to revision 9"), "{message}");
}

#[tokio::test]
async fn a_rollback_goes_to_the_revision_before() {
    let host = HostBuilder::bare().start().await;
    let name = unique("back");
    for description in ["one", "two"] {
        assert_eq!(host.deploy(&name, &manifest(&name, description), echo()).await.status(), 201);
    }
    let path = format!("/v1/agents/{name}/rollback");
    let id = host.submit(&name, "", "x").await;
    assert_eq!(host.finished(&id).await["revision"], 2);
    assert_eq!(post(&host, &path, json!({})).await["revision"], 1);
    let id = host.submit(&name, "", "x").await;
    assert_eq!(host.finished(&id).await["revision"], 1);
    let (status, problem) = change(&host, reqwest::Method::POST, &path, Some(json!({"revision": 9}))).await;
    assert!(status == 422 && problem["type"] == "urn:problem-type:agent-host:unknown-revision", "{problem}");
}

#[tokio::test]
async fn a_paused_agent_keeps_its_tasks_and_a_removed_one_is_unknown() {
    let host = HostBuilder::bare().start().await;
    let name = unique("pause");
    assert_eq!(host.deploy(&name, &manifest(&name, "one"), echo()).await.status(), 201);
    let path = format!("/v1/agents/{name}");
    assert_eq!(post(&host, &format!("{path}/pause"), json!({})).await["state"], "paused");
    assert_eq!(host.get("/readyz").await.unwrap().status(), 200, "a host whose agents are all paused is ready");
    let id = host.submit(&name, "", "x").await;
    wait_until("the task waits", async || (agent(&host, &name).await["queue_depth"] == 1).then_some(())).await;
    let (status, problem) = change(&host, reqwest::Method::DELETE, &path, None).await;
    assert_eq!((status, &problem["type"]), (409, &"urn:problem-type:agent-host:queue-not-empty".into()));
    // A deploy changes the revision and not the pause.
    assert_eq!(host.deploy(&name, &manifest(&name, "two"), echo()).await.status(), 201);
    assert_eq!(agent(&host, &name).await["state"], "paused");
    assert_eq!(host.task(&id).await["status"], "queued");
    post(&host, &format!("{path}/resume"), json!({})).await;
    assert_eq!(host.finished(&id).await["revision"], 2);
    let (status, _) = change(&host, reqwest::Method::DELETE, &path, None).await;
    assert_eq!(status, 204);
    assert_eq!(host.get(&path).await.unwrap().status(), 404);
    let events: Value = host.get(&format!("/v1/events?agent={name}")).await.unwrap().json().await.unwrap();
    let actions: Vec<_> = events["items"].as_array().unwrap().iter().map(|event| event["action"].clone()).collect();
    let expected = ["removed", "resumed", "deployed", "revision-added", "paused", "deployed", "revision-added"];
    assert_eq!(actions, expected);
    assert_eq!(host.deploy(&name, &manifest(&name, "one"), echo()).await.status(), 200, "known, and deployed again");
    let id = host.submit(&name, "", "x").await;
    assert_eq!(host.finished(&id).await["revision"], 1);
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let host = HostBuilder::bare().start().await;
    let name = unique("plan");
    assert_eq!(host.deploy(&name, &manifest(&name, "one"), echo()).await.status(), 201);
    let plan = async |module: Vec<u8>, manifest: String| {
        let form = reqwest::multipart::Form::new()
            .part("module", reqwest::multipart::Part::bytes(module).file_name("m"))
            .text("manifest", manifest);
        let url = host.url(&format!("/v1/agents/{name}/revisions?plan=true"));
        let answer = host.client().post(url).multipart(form).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, planned) = plan(echo(), manifest(&name, "two")).await;
    assert_eq!((status, &planned["active"], &planned["known"]), (200, &1.into(), &Value::Null));
    let difference = json!([{ "what": "agent.description", "from": "\"one\"", "to": "\"two\"" }]);
    assert_eq!(planned["differences"], difference);
    assert_eq!(plan(echo(), manifest(&name, "one")).await.1["known"], 1);
    assert_eq!(plan(b"\0asm".to_vec(), manifest(&name, "two")).await.0, 422);
    assert_eq!(agent(&host, &name).await["revisions"].as_array().unwrap().len(), 1);
}

/// What a client waits between two tasks.
const BETWEEN_TASKS: Duration = Duration::from_millis(5);

/// When a revision was meant to get new tasks: from before it was asked for until every host had let go of it.
struct Window {
    revision: u64,
    from_ms: u64,
    to_ms: u64,
}

fn now_ms() -> u64 {
    agent_host::task::unix_ms_now()
}

/// Tasks that were accepted, and those who submit them.
struct Load {
    ids: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: tokio::task::JoinSet<()>,
}

impl Load {
    /// Submits to these hosts, one task after the other to each, until it is told to end.
    fn start(urls: &[String], name: &str) -> Self {
        let (ids, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let mut clients = tokio::task::JoinSet::new();
        for url in urls {
            let (ids, stop) = (Arc::clone(&ids), Arc::clone(&stop));
            let url = format!("{url}/v1/agents/{name}/tasks");
            clients.spawn(async move {
                let client = reqwest::Client::new();
                while !stop.load(Ordering::Relaxed) {
                    let body = r#"{"do":"trap"}"#;
                    // A host that leaves takes no more; what it did accept, it has promised.
                    let Ok(answer) = client.post(&url).body(body).send().await else { return };
                    if answer.status() != 202 {
                        continue;
                    }
                    let Ok(accepted) = answer.json::<Value>().await else { return };
                    // The pace of the load, which no assertion waits for: what is submitted is looked at one by one in the end.
                    tokio::time::sleep(BETWEEN_TASKS).await;
                    ids.lock().await.push(accepted["id"].as_str().unwrap().to_owned());
                }
            });
        }
        Self { ids, stop, clients }
    }

    /// Waits until so many more tasks are accepted.
    async fn goes_on(&self, tasks: usize) {
        let before = self.ids.lock().await.len();
        wait_until("tasks are accepted", async || (self.ids.lock().await.len() >= before + tasks).then_some(())).await;
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        std::mem::take(&mut *self.ids.lock().await)
    }
}

/// How often the fleet is changed under load, and which of the deploys are taken back.
const DEPLOYS: u64 = 50;
const ROLLBACK_EVERY: u64 = 5;
const PAUSES: usize = 5;
/// Tasks before the first change, whose times the others are held against.
const TASKS_BEFORE: usize = 1_000;
/// Tasks that are looked at side by side in the end.
const LOOKED_AT_ONCE: usize = 16;

/// What 99 of 100 of these stay below.
fn p99(mut took_ms: Vec<u64>) -> u64 {
    took_ms.sort_unstable();
    took_ms[took_ms.len() * 99 / 100]
}

/// The whole of it. Each step waits until every host has followed. How long things took is printed, and not asserted: it is the
/// machine's to tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_operated_under_load_and_loses_nothing() {
    let fleet = Fleet::start().await;
    let name = unique("fleet");
    let path = format!("/v1/agents/{name}");
    let (first, second) = (fleet.host().start().await, fleet.host().start().await);
    let mut third = fleet.host().start().await;
    let mut windows: Vec<Window> = Vec::new();
    let mut slowest = Duration::ZERO;
    let begin =
        |windows: &mut Vec<Window>, revision| windows.push(Window { revision, from_ms: now_ms(), to_ms: u64::MAX });
    let end = |windows: &mut Vec<Window>, keep: &[u64]| {
        let open = windows.iter_mut().filter(|window| window.to_ms == u64::MAX && !keep.contains(&window.revision));
        open.for_each(|window| window.to_ms = now_ms());
    };
    begin(&mut windows, 1);
    assert_eq!(first.deploy(&name, &manifest(&name, "revision 1"), echo()).await.status(), 201);
    let hosts = [&first, &second, &third];
    slowest = slowest.max(converged(&hosts, &name, json!({"1": 100}), "consuming").await);
    let urls = [first.url(""), second.url(""), third.url("")];
    let load = Load::start(&urls, &name);
    load.goes_on(TASKS_BEFORE).await;
    let deploying_from_ms = now_ms();

    for revision in 2..=DEPLOYS {
        begin(&mut windows, revision);
        let host = hosts[usize::try_from(revision).unwrap() % 3];
        let deployed = host.deploy(&name, &manifest(&name, &format!("revision {revision}")), echo()).await;
        assert_eq!(deployed.status(), 201, "{}", deployed.text().await.unwrap());
        slowest = slowest.max(converged(&hosts, &name, json!({revision.to_string(): 100}), "consuming").await);
        end(&mut windows, &[revision]);
        if revision % ROLLBACK_EVERY == 0 {
            begin(&mut windows, revision - 1);
            let rolled = post(host, &format!("{path}/rollback"), json!({})).await;
            assert_eq!(rolled["revision"], revision - 1);
            slowest =
                slowest.max(converged(&hosts, &name, json!({(revision - 1).to_string(): 100}), "consuming").await);
            end(&mut windows, &[revision - 1]);
        }
    }
    let deploying_to_ms = now_ms();
    // The last one was taken back.
    let good = DEPLOYS - 1;
    let (all_to_good, bad) = (json!({ good.to_string(): 100 }), DEPLOYS + 1);
    for host in hosts.iter().cycle().take(PAUSES) {
        post(host, &format!("{path}/pause"), json!({})).await;
        slowest = slowest.max(converged(&hosts, &name, all_to_good.clone(), "paused").await);
        post(&first, &format!("{path}/resume"), json!({})).await;
        slowest = slowest.max(converged(&hosts, &name, all_to_good.clone(), "consuming").await);
    }

    // A canary that fails: it ends by itself.
    let form = reqwest::multipart::Form::new()
        .part("module", reqwest::multipart::Part::bytes(fixtures()).file_name("m"))
        .text("manifest", manifest(&name, "a bad one"));
    let added =
        first.client().post(first.url(&format!("{path}/revisions?activate=false"))).multipart(form).send().await;
    assert_eq!(added.unwrap().json::<Value>().await.unwrap()["status"], "inactive");
    begin(&mut windows, bad);
    let halves = json!({ good.to_string(): 50, bad.to_string(): 50 });
    let (status, split) = change(&second, reqwest::Method::PUT, &format!("{path}/traffic"), Some(halves)).await;
    assert_eq!(status, 200, "{split}");
    let rolled_back = wait_until("the canary is rolled back", async || {
        let events: Value = first.get(&format!("/v1/events?agent={name}")).await.unwrap().json().await.unwrap();
        events["items"].as_array().unwrap().iter().find(|event| event["action"] == "canary-rolled-back").cloned()
    })
    .await;
    let why = rolled_back["detail"].as_str().unwrap();
    assert!(rolled_back["actor"] == "host" && why.contains(&format!("revision {bad} failed")), "{why}");
    slowest = slowest.max(converged(&hosts, &name, all_to_good.clone(), "consuming").await);
    end(&mut windows, &[good]);

    // One joins, and one leaves.
    let fourth = fleet.host().start().await;
    converged(&[&fourth], &name, all_to_good, "consuming").await;
    assert!(third.terminate().await.success());
    let last_revision = bad + 1;
    begin(&mut windows, last_revision);
    let last = first.deploy(&name, &manifest(&name, "the last one"), echo()).await;
    assert_eq!(last.status(), 201);
    let all_to_last = json!({ last_revision.to_string(): 100 });
    slowest = slowest.max(converged(&[&first, &second, &fourth], &name, all_to_last, "consuming").await);
    end(&mut windows, &[last_revision]);

    let ids = load.end().await;
    let (mut failed, mut succeeded) = (0, 0);
    let (mut before_ms, mut deploying_ms) = (Vec::new(), Vec::new());
    let mut tasks = futures::stream::iter(&ids).map(|id| second.finished(id)).buffer_unordered(LOOKED_AT_ONCE);
    while let Some(task) = tasks.next().await {
        let at = |key: &str| task[key].as_u64().unwrap();
        let (enqueued, took) = (at("enqueued_at"), at("finished_at") - at("enqueued_at"));
        if enqueued < deploying_from_ms {
            before_ms.push(took);
        } else if enqueued < deploying_to_ms {
            deploying_ms.push(took);
        }
        let (revision, started) = (task["revision"].as_u64().unwrap(), task["started_at"].as_u64().unwrap());
        let was_meant = windows
            .iter()
            .any(|window| window.revision == revision && (window.from_ms..=window.to_ms).contains(&started));
        assert!(was_meant, "{task} ran on a revision that was not active when it started");
        match (task["status"].as_str().unwrap(), revision) {
            ("succeeded", _) if revision != bad => succeeded += 1,
            ("failed", revision) if revision == bad => failed += 1,
            other => panic!("{other:?}: {task}"),
        }
    }
    assert!(failed >= 10 && succeeded > failed, "{failed} failed, {succeeded} succeeded");
    eprintln!(
        "{succeeded} tasks succeeded, {failed} failed on the canary; the slowest host followed after {slowest:?}; from handing \
         in to the end p99 was {} ms before, and {} ms during the deploys ({} and {} tasks)",
        p99(before_ms.clone()),
        p99(deploying_ms.clone()),
        before_ms.len(),
        deploying_ms.len()
    );
    drop(tasks);
    drop((first, second, fourth));
    fleet.end().await;
}
