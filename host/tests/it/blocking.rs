//! Every call to the host that can wait, in the middle of its wait: the task's timeout and its cancellation reach into it,
//! and others go on.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::common::{Host, agents_dir, wait_until};
use super::fleet::Fleet;
use super::scripts::{metric, script, sql, unique};

/// Connections to PostgreSQL that agents have.
const CONNECTIONS_USED: &str = "db_client_connections{state=\"used\"}";
/// More than 256 rows come at once, and then nothing for an hour: the cursor waits, not the query.
const STALLS_IN_THE_MIDDLE: &str = "SELECT CASE WHEN i > 300 THEN pg_sleep(3600)::text ELSE repeat('x', 1000) END
    FROM generate_series(1, 400) AS i";

/// A server that accepts and says what the path names, and then nothing: all of `/head`, nothing of others.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap_or(0);
                if String::from_utf8_lossy(&request[..length]).contains(" /head ") {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe").await.unwrap();
                }
                // Open, unread and silent for as long as the test takes.
                std::future::pending::<()>().await;
            });
        }
    });
    port
}

/// Calls that wait for Redis, one a task.
fn of_redis() -> Vec<(String, Value)> {
    let key_value = [
        json!({ "get": "k" }),
        json!({ "set": ["k", "v"] }),
        json!({ "delete": "k" }),
        json!({ "exists": "k" }),
        json!({ "increment": ["k", 1] }),
        json!({ "increment-unsigned": ["k", 1] }),
        json!({ "get-many": ["k", "l"] }),
        json!({ "set-many": [["k", "v"]] }),
        json!({ "delete-many": ["k"] }),
        json!({ "list": null }),
        json!({ "list-from": 0 }),
        json!({ "swap": ["k", "v"] }),
    ];
    let cache = [
        json!({ "get": "k" }),
        json!({ "set": ["k", "v"] }),
        json!({ "set-for": ["k", "v", 60_000] }),
        json!({ "delete": "k" }),
        json!({ "increment": ["k", 1] }),
        json!({ "expire": ["k", 60_000] }),
        json!({ "get-many": ["k", "l"] }),
    ];
    let key_value = key_value.into_iter().map(|op| json!({ "kv": { "op": op } }));
    let steps = key_value.chain(cache.into_iter().map(|op| json!({ "cache": op })));
    steps.map(|step| (step.to_string(), json!({ "do": "attempt", "steps": [step] }))).collect()
}

/// Calls that wait for something else. Each can be made while the others wait.
fn of_others(port: u16) -> Vec<(String, Value)> {
    [
        ("the clock", json!({ "do": "sleep" })),
        ("a server that does not answer", json!({ "do": "get", "url": format!("http://localhost:{port}/nothing") })),
        ("a body that stalls", json!({ "do": "get", "url": format!("http://localhost:{port}/head") })),
        ("a body that nobody reads", json!({ "do": "fetch", "url": format!("http://localhost:{port}/unread") })),
        ("a pipe that nobody writes to", json!({ "do": "read-file", "path": "/pipes/pipe" })),
    ]
    .map(|(what, body)| (what.to_owned(), body))
    .into()
}

/// Calls that wait for PostgreSQL. One at a time: the host of these tests has one connection for all agents.
fn of_sql() -> Vec<(String, Value)> {
    let attempt = |step: Value| json!({ "do": "attempt", "steps": [step] });
    [
        ("a query that waits for a lock", attempt(json!({ "query": "SELECT n FROM gate FOR UPDATE" }))),
        ("a change that waits for a lock", attempt(json!({ "execute": ["UPDATE gate SET n = n", []] }))),
        ("a statement that takes its time", attempt(json!({ "execute": ["SELECT pg_sleep(3600)", []] }))),
        ("a cursor", attempt(json!({ "query": STALLS_IN_THE_MIDDLE }))),
    ]
    .map(|(what, body)| (what.to_owned(), body))
    .into()
}

async fn deploy(host: &Host, name: &str, timeout: &str, port: u16) {
    let manifest = format!(
        r#"
        manifest_version = 1
        [agent]
        name = "{name}"
        module = "fixtures.wasm"
        [limits]
        memory = "16MiB"
        timeout = "{timeout}"
        cpu = "10m"
        [retry]
        max_attempts = 1
        [grants]
        sql = [{{ name = "main", max_rows = 1000, statement_timeout = "5m" }}]
        key_value = ["default"]
        cache = true
        allowed_outbound_hosts = ["http://localhost:{port}"]
        files = [{{ host = "pipes", guest = "/pipes" }}]
        "#
    );
    let module =
        std::fs::read(agents_dir().join("fixtures/manifest/fixtures.wasm")).expect("cargo xtask agents built it");
    let part = reqwest::multipart::Part::bytes(module).file_name("module.wasm");
    let table = "CREATE TABLE gate (n int PRIMARY KEY); INSERT INTO gate VALUES (1);";
    let migration = reqwest::multipart::Part::text(table).file_name("0001_gate.sql");
    let form = reqwest::multipart::Form::new();
    let form = form.part("module", part).text("manifest", manifest).part("migration", migration);
    let url = host.url(&format!("/v1/agents/{name}/revisions"));
    let deployed = host.client().post(url).multipart(form).send().await.unwrap();
    assert_eq!(deployed.status(), 201, "{}", deployed.text().await.unwrap());
}

async fn until_running(host: &Host, id: &str) {
    wait_until("it runs", async || (host.task(id).await["status"] == "running").then_some(())).await;
}

/// Waits for a task to end of its timeout.
async fn times_out(host: &Host, what: &str, id: &str) {
    let task = host.finished(id).await;
    assert_eq!(task["failure"]["type"], "timed-out", "{what}: {task}");
    assert!(task["failure"]["message"].as_str().unwrap().contains("limits.timeout"), "{what}: {task}");
}

/// Cancels a task and sees to it that it is.
async fn is_cancelled(host: &Host, what: &str, id: &str) {
    let answer = host.client().delete(host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
    assert_eq!(answer.status(), 202, "{what}");
    assert_eq!(host.finished(id).await["status"], "cancelled", "{what}");
}

/// Waits until no instance is left, and no connection in use.
async fn nobody_is_left(host: &Host, what: &str) {
    let left = async || metric(host, "host_live_instances").await + metric(host, CONNECTIONS_USED).await;
    wait_until(&format!("{what}: nothing is left of it"), async || (left().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_and_a_cancellation_reach_into_every_call_that_waits() {
    let fleet = Fleet::start().await;
    let root = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(root.path().join("pipes")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(root.path().join("pipes/pipe")).status().unwrap();
    assert!(made.success());
    let host = fleet.host().env("AGENT_HOST_FILES_ROOT", root.path().to_str().unwrap());
    let host = host.env("AGENT_HOST_SQL_CONNECTIONS_MAX", "1").start().await;
    let (port, short, long) = (server().await, unique("short"), unique("long"));
    deploy(&host, &short, "1s", port).await;
    deploy(&host, &long, "10m", port).await;
    // Both take the row's lock away from the agents.
    let mut gates = Vec::new();
    for agent in [&short, &long] {
        let mut gate = fleet.pool.begin().await.unwrap();
        sqlx::query(&format!("SELECT n FROM agent_{agent}.gate FOR UPDATE")).execute(&mut *gate).await.unwrap();
        gates.push(gate);
    }
    one_by_one(&host, &short, &long).await;
    fleet.cache.fall_silent();
    together(&host, &short, &long, port).await;
    drop((gates, host));
    fleet.end().await;
}

async fn one_by_one(host: &Host, short: &str, long: &str) {
    for (what, body) in of_sql() {
        let id = host.submit(short, "", body.to_string()).await;
        times_out(host, &what, &id).await;
        nobody_is_left(host, &what).await;
        let id = host.submit(long, "", body.to_string()).await;
        until_running(host, &id).await;
        is_cancelled(host, &what, &id).await;
        nobody_is_left(host, &what).await;
    }
    // Somebody has the only connection.
    let holder = host.submit(long, "", script(&[sql("SELECT 1"), json!("sleep")])).await;
    until_running(host, &holder).await;
    wait_until("it has the connection", async || (metric(host, CONNECTIONS_USED).await == 1).then_some(())).await;
    let waits = json!({ "do": "attempt", "steps": [{ "query": "SELECT 1" }] }).to_string();
    let id = host.submit(short, "", waits).await;
    times_out(host, "a connection", &id).await;
    is_cancelled(host, "the one with the connection", &holder).await;
    nobody_is_left(host, "the one with the connection").await;
}

async fn together(host: &Host, short: &str, long: &str, port: u16) {
    let calls: Vec<_> = of_redis().into_iter().chain(of_others(port)).collect();
    let mut ids = Vec::new();
    for (_, body) in &calls {
        ids.push(host.submit(short, "", body.to_string()).await);
    }
    for _ in 0..5 {
        let answer = host.run(long, "application/json", json!({ "do": "succeed" }).to_string()).await;
        assert_eq!(answer.status(), 200, "others go on");
    }
    for ((what, _), id) in calls.iter().zip(&ids) {
        times_out(host, what, id).await;
    }
    nobody_is_left(host, "all that ran into their timeout").await;
    for (what, body) in &calls {
        let id = host.submit(long, "", body.to_string()).await;
        until_running(host, &id).await;
        is_cancelled(host, what, &id).await;
    }
    nobody_is_left(host, "all that were cancelled").await;
}
