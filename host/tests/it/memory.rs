//! The memory of the process: agents that need far more than there is run to their end within the budget.
//!
//! What is resident is read from `/proc`, where the kernel keeps its peak.

use futures::StreamExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};

use super::common::{Host, agents_dir, wait_until};
use super::fleet::Fleet;
use super::scripts::unique;

/// The default budget.
const BUDGET_BYTES: u64 = 500_000_000;
const MIB: u64 = 1 << 20;

/// A line of the process's status, in bytes.
fn status(host: &Host, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() << 10
}

/// Says what was resident at most, and holds it against the budget.
fn peak(host: &Host, what: &str) {
    let peak = status(host, "VmHWM:");
    eprintln!("{what}: at most {} MB resident, of {} MB", peak / 1_000_000, BUDGET_BYTES / 1_000_000);
    assert!(peak <= BUDGET_BYTES, "{what}: {peak} bytes");
}

/// A sample of the host's metrics, summed over those whose line begins like that.
async fn metric(host: &Host, series: &str) -> u64 {
    let text = host.get("/metrics").await.unwrap().text().await.unwrap();
    let samples = text.lines().filter(|line| line.starts_with(series)).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// Deploys the fixtures with limits of their own.
async fn deploy(host: &Host, name: &str, limits: &str) {
    let manifest = format!(
        "manifest_version = 1\n[agent]\nname = {name:?}\nmodule = \"fixtures.wasm\"\n[limits]\n{limits}\n[retry]\nmax_attempts = 1\n"
    );
    let module =
        std::fs::read(agents_dir().join("fixtures/manifest/fixtures.wasm")).expect("cargo xtask agents built it");
    let deployed = host.deploy(name, &manifest, module).await;
    assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
}

/// Submits the bodies and gives the ids.
async fn submit_all(host: &Host, agent: &str, bodies: &[Value]) -> Vec<String> {
    let batch = bodies.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let url = host.url(&format!("/v1/agents/{agent}/tasks:batch"));
    let accepted = host.client().post(url).body(batch).send().await.unwrap();
    assert_eq!(accepted.status(), 202);
    let accepted: Value = accepted.json().await.unwrap();
    accepted["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

async fn all_succeed(host: &Host, ids: &[String]) {
    for id in ids {
        let task = host.finished(id).await;
        assert_eq!((&task["status"], &task["attempt"]), (&json!("succeeded"), &json!(1)), "{task}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_need_4_gb_together_run_within_the_budget_and_leave_it() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let before = status(&host, "VmRSS:");
    let kinds = [
        // agent, tasks, MiB that each holds, in so many parts
        (unique("large"), 8, 150, 1),
        (unique("middle"), 30, 64, 1),
        (unique("climbing"), 12, 48, 8),
        (unique("small"), 100, 6, 1),
    ];
    let bytes: u64 = kinds.iter().map(|(_, tasks, mib, _)| tasks * mib * MIB).sum();
    assert!(bytes > 4_000_000_000, "{bytes}");
    let mut ids = Vec::new();
    for (agent, tasks, mib, parts) in &kinds {
        deploy(&host, agent, "memory = \"256MiB\"\ntimeout = \"60s\"\ncpu = \"60s\"").await;
        let hold = json!({ "do": "hold", "bytes": mib * MIB, "ms": 100, "parts": parts });
        ids.extend(submit_all(&host, agent, &vec![hold; usize::try_from(*tasks).unwrap()]).await);
    }
    all_succeed(&host, &ids).await;
    peak(&host, "4 GB of agents");
    let handed_back = metric(&host, "agent_settlements{agent=\"").await - ids.len() as u64;
    eprintln!("{handed_back} tasks were handed back on the way");
    // Beside what it had before: the compiled module, the slots' kept pages, what drivers and the allocator keep.
    let after = before + 64 * MIB;
    wait_until("the memory is back at the system", async || (status(&host, "VmRSS:") <= after).then_some(())).await;
    assert_eq!(metric(&host, "host_memory_reserved_bytes").await, 0);
    assert_eq!(metric(&host, "host_tasks_waiting_for_memory").await, 0);
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_of_a_small_agent_run_at_once() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    // Two agents: one may have three quarters of the places.
    for _ in 0..2 {
        let agent = unique("sleeping");
        deploy(&host, &agent, "memory = \"2MiB\"\ntimeout = \"10m\"\nconcurrency = 500").await;
        submit_all(&host, &agent, &vec![json!({ "do": "hold", "bytes": 0, "ms": 600_000 }); 500]).await;
    }
    wait_until("a thousand instances are alive", async || {
        (metric(&host, "host_live_instances").await == 1_000).then_some(())
    })
    .await;
    peak(&host, "1,000 tasks at once");
    assert_eq!(metric(&host, "host_tasks_waiting_for_memory").await, 0);
    drop(host);
    fleet.end().await;
}

/// A task with a body of nearly 8 MiB.
struct Large {
    id: String,
    routing_key: String,
    key: Option<String>,
}

/// Publishes such tasks.
struct Publisher {
    connection: Connection,
    channel: Channel,
    body: String,
}

impl Publisher {
    /// Of tasks that take so long to run.
    async fn connect(fleet: &Fleet, ms: u64) -> Self {
        let connection = Connection::connect(fleet.broker.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let text = "x".repeat(8 * usize::try_from(MIB).unwrap() - 100);
        Self { connection, channel, body: json!({ "do": "swallow", "text": text, "ms": ms }).to_string() }
    }

    async fn publish(&self, task: &Large) {
        let mut properties = BasicProperties::default().with_message_id(task.id.as_str().into()).with_delivery_mode(2);
        if let Some(key) = &task.key {
            let mut headers = FieldTable::default();
            headers.insert("x-partition-key".into(), AMQPValue::LongString(key.as_str().into()));
            properties = properties.with_headers(headers);
        }
        let (routing_key, options) = (task.routing_key.as_str().into(), BasicPublishOptions::default());
        let publishing =
            self.channel.basic_publish("agents".into(), routing_key, options, self.body.as_bytes(), properties);
        assert!(publishing.await.unwrap().await.unwrap().is_ack());
    }

    async fn close(self) {
        self.connection.close(200, "published".into()).await.unwrap();
    }
}

/// Publishes large bodies and gives their ids; with as many partition keys, where there are to be some.
async fn publish_large(fleet: &Fleet, agent: &str, bodies: usize, keys: usize) -> Vec<String> {
    let task = |number: usize| Large {
        id: uuid::Uuid::now_v7().to_string(),
        routing_key: agent.to_owned(),
        key: (keys > 0).then(|| format!("key {}", number % keys)),
    };
    let (tasks, publisher) = ((0..bodies).map(task).collect::<Vec<_>>(), Publisher::connect(fleet, 0).await);
    futures::stream::iter(&tasks).for_each_concurrent(4, |task| publisher.publish(task)).await;
    publisher.close().await;
    tasks.into_iter().map(|task| task.id).collect()
}

async fn all_are_taken_in(host: &Host, ids: &[String]) {
    for id in ids {
        // Nobody knows a task that was sent over AMQP before it is delivered.
        let known = async || host.get(&format!("/v1/tasks/{id}")).await.unwrap().status().is_success().then_some(());
        wait_until("the task is known", known).await;
    }
    all_succeed(host, ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_large_bodies_is_taken_in_as_memory_allows() {
    let fleet = Fleet::start().await;
    let agent = unique("swallowing");
    let mut host = fleet.host().start().await;
    deploy(&host, &agent, "memory = \"64MiB\"\ntimeout = \"60s\"\ncpu = \"60s\"").await;
    host.terminate().await;
    // All of them wait when the host begins to consume.
    let ids = publish_large(&fleet, &agent, 200, 0).await;
    let host = fleet.host().start().await;
    all_are_taken_in(&host, &ids).await;
    peak(&host, "200 bodies of 8 MiB");
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_large_bodies_are_taken_in_as_memory_allows() {
    let fleet = Fleet::start().await;
    let agent = unique("ordered");
    let mut host = fleet.host().start().await;
    deploy(&host, &agent, "memory = \"64MiB\"\ntimeout = \"60s\"\ncpu = \"60s\"").await;
    // Under keys enough for all partitions. They come by the agent's queue, and are moved on from there.
    let ids = publish_large(&fleet, &agent, 120, 64).await;
    all_are_taken_in(&host, &ids).await;
    peak(&host, "120 bodies of 8 MiB that have keys");
    // And once more from the partitions themselves, full when the host begins to consume.
    let ids = publish_large(&fleet, &agent, 80, 64).await;
    host.terminate().await;
    let host = fleet.host().start().await;
    all_are_taken_in(&host, &ids).await;
    peak(&host, "partitions that were full at the start");
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_in_partitions_of_several_agents_wait_at_the_broker_in_their_order() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agents = ["first", "second", "third"].map(unique);
    for agent in &agents {
        deploy(&host, agent, "memory = \"64MiB\"\ntimeout = \"60s\"\ncpu = \"60s\"\nconcurrency = 2").await;
        // By the agent's queue: this makes the partitions.
        let ids = publish_large(&fleet, agent, 1, 1).await;
        all_are_taken_in(&host, &ids).await;
    }
    // Into partitions that are consumed, faster than they are run: 32 of each agent would come at once, 800 MB.
    let line = |agent: &str, partition: usize| -> Vec<Large> {
        let task = |_| Large {
            id: uuid::Uuid::now_v7().to_string(),
            routing_key: format!("{agent}.partition.{partition:x}"),
            key: Some(format!("line {partition}")),
        };
        (0..3).map(task).collect()
    };
    let lines: Vec<Vec<Large>> =
        (0..16).flat_map(|partition| agents.each_ref().map(|agent| line(agent, partition))).collect();
    let publisher = Publisher::connect(&fleet, 1_000).await;
    let publish_line = async |line: &Vec<Large>| {
        for task in line {
            publisher.publish(task).await;
        }
    };
    futures::stream::iter(&lines).for_each_concurrent(6, publish_line).await;
    publisher.close().await;
    for line in &lines {
        let ids: Vec<String> = line.iter().map(|task| task.id.clone()).collect();
        all_are_taken_in(&host, &ids).await;
        let mut before = 0;
        for id in &ids {
            let task = host.task(id).await;
            assert!(task["started_at"].as_u64().unwrap() >= before, "the one before ended at {before}: {task}");
            before = task["finished_at"].as_u64().unwrap();
        }
    }
    peak(&host, "144 bodies of 8 MiB in the partitions of three agents");
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_holds_for_tasks_stays_within_the_budget() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("carrying");
    deploy(&host, &agent, "memory = \"64MiB\"\ntimeout = \"60s\"\n[grants]\nkey_value = [\"default\"]").await;
    // Beside the guests' own memory: what each writes at once is in the host twice while Redis takes it, one after the other.
    let write = json!({ "set-times": [{ "of": "x", "times": MIB }, 3] });
    let write = json!({ "do": "attempt", "steps": [{ "kv": { "op": write } }] });
    let ids = submit_all(&host, &agent, &vec![write; 200]).await;
    all_succeed(&host, &ids).await;
    for id in &ids {
        let task = host.task(id).await;
        assert!(task["output"].as_str().is_some_and(|output| output.starts_with("ok")), "{task}");
    }
    peak(&host, "600 MB on their way to Redis");
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_memory_uses_up_no_timeout() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("patient");
    // Two of them fit at a time: the last ones wait for much longer than they may take.
    deploy(&host, &agent, "memory = \"256MiB\"\ntimeout = \"4s\"\ncpu = \"4s\"").await;
    let hold = json!({ "do": "hold", "bytes": 130 * MIB, "ms": 2_000 });
    let ids = submit_all(&host, &agent, &vec![hold; 8]).await;
    all_succeed(&host, &ids).await;
    peak(&host, "tasks that take turns");
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_needs_more_than_there_is_ends_as_out_of_memory() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("giant");
    deploy(&host, &agent, "memory = \"500MiB\"\ntimeout = \"60s\"\ncpu = \"60s\"").await;
    let ids = submit_all(&host, &agent, &[json!({ "do": "hog" })]).await;
    let task = host.finished(&ids[0]).await;
    assert_eq!(task["failure"]["type"], "out-of-memory", "{task}");
    assert!(task["failure"]["message"].as_str().unwrap().contains("memory_budget"), "{task}");
    peak(&host, "one that takes everything");
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spinning_guests_leave_turns_to_others() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let (spinning, short) = (unique("spinning"), unique("short"));
    deploy(&host, &spinning, "timeout = \"10m\"\ncpu = \"10m\"").await;
    deploy(&host, &short, "timeout = \"60s\"").await;
    let spinners = submit_all(&host, &spinning, &vec![json!({ "do": "spin" }); 6]).await;
    for id in &spinners {
        wait_until("it runs", async || (host.task(id).await["status"] == "running").then_some(())).await;
    }
    // They compute, call the host and wait for timers, which are driven by the same threads.
    for deed in [json!({ "do": "succeed" }), json!({ "do": "hold", "bytes": 0, "ms": 20 })] {
        let ids = submit_all(&host, &short, &vec![deed; 50]).await;
        all_succeed(&host, &ids).await;
    }
    assert_eq!(host.get("/healthz").await.unwrap().status(), 200);
    for id in &spinners {
        assert_eq!(host.task(id).await["status"], "running", "none of the spinners has ended meanwhile");
    }
    drop(host);
    fleet.end().await;
}
