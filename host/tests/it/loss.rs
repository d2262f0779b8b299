//! A server is taken from a host and given back: what needs it waits without using attempts, all else goes on, and
//! nobody has to help.

use std::cell::RefCell;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use super::common::{Host, agents_dir, wait_until};
use super::delivery::Stranger;
use super::fleet::Fleet;
use super::scripts::{CACHE, KEY_VALUE, SQL, deploy, metric, put_off, runs, script, sql, unique};

pub(crate) const TASKS: usize = 10;

/// Places of an agent: for those tasks and the ones that hold theirs.
const TASKS_AT_ONCE: u32 = 20;

const TABLE: &str = "CREATE TABLE effects (task_id text NOT NULL)";

/// The agent that needs nothing but the broker.
async fn deploy_echo(host: &Host) -> String {
    let name = unique("echo");
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let manifest = manifest.replace("name = \"echo\"", &format!("name = \"{name}\""));
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    assert_eq!(host.deploy(&name, &manifest, module).await.status(), 201);
    name
}

/// Submits so many tasks of the same steps.
async fn submit(host: &Host, agent: &str, steps: &[Value]) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..TASKS {
        ids.push(host.submit(agent, "", script(steps)).await);
    }
    ids
}

/// Sends so many tasks of the same steps, past the host.
pub(crate) async fn send(stranger: &Stranger, agent: &str, steps: &[Value]) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..TASKS {
        ids.push(send_one(stranger, agent, &script(steps)).await);
    }
    ids
}

async fn send_one(stranger: &Stranger, agent: &str, body: &str) -> String {
    let id = unique("task");
    stranger.send(agent, &id, FieldTable::default(), body.as_bytes()).await;
    id
}

/// Waits until so many tasks of an agent have been put off.
pub(crate) async fn until_put_off(host: &Host, agent: &str, times: usize) {
    wait_until("its tasks are put off", async || {
        (put_off(host, agent).await >= u64::try_from(times).unwrap()).then_some(())
    })
    .await;
}

pub(crate) async fn each_succeeded_at_its_first_attempt(host: &Host, ids: &[String]) {
    for id in ids {
        let task = host.finished(id).await;
        assert_eq!((&task["status"], &task["attempt"]), (&json!("succeeded"), &json!(1)), "{task}");
    }
}

/// The tasks whose rows are in the agent's table, in order.
pub(crate) async fn effects(fleet: &Fleet, agent: &str) -> Vec<String> {
    let effects = format!("SELECT task_id FROM agent_{agent}.effects ORDER BY 1");
    sqlx::query_scalar(&effects).fetch_all(&fleet.pool).await.unwrap()
}

pub(crate) fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

pub(crate) async fn count_once_more(host: &Host, agent: &str, steps: &[Value]) -> Vec<u64> {
    let answer = host.run(agent, "application/json", script(steps)).await;
    let text = answer.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cache_its_tasks_wait_and_others_run() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let (counting, writing, echo) = (unique("counting"), unique("writing"), deploy_echo(&host).await);
    deploy(&host, &counting, TASKS_AT_ONCE, &[KEY_VALUE, CACHE], "").await;
    deploy(&host, &writing, TASKS_AT_ONCE, &[SQL], TABLE).await;
    let (key_value, cache) = ([json!({ "key-value": "n" })], [json!({ "cache": "n" })]);

    fleet.cache.cut();
    let mut ids = submit(&host, &counting, &key_value).await;
    ids.extend(submit(&host, &counting, &cache).await);
    let written = submit(&host, &writing, &[sql("INSERT INTO effects VALUES ($1)")]).await;
    until_put_off(&host, &counting, ids.len()).await;
    each_succeeded_at_its_first_attempt(&host, &written).await;
    assert_eq!(effects(&fleet, &writing).await, sorted(written));
    assert_eq!(host.run(&echo, "text/plain", "still here").await.text().await.unwrap(), "still here");
    assert_eq!(host.get("/readyz").await.unwrap().status(), 200);
    for id in &ids {
        let task = host.task(id).await;
        assert!(["queued", "running", "retrying"].contains(&task["status"].as_str().unwrap()), "{task}");
    }

    fleet.cache.mend();
    each_succeeded_at_its_first_attempt(&host, &ids).await;
    for step in [key_value, cache] {
        let counted = count_once_more(&host, &counting, &step).await;
        assert_eq!(counted, [u64::try_from(TASKS).unwrap() + 1], "{step:?}");
    }
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_the_cache_is_not_overtaken_by_others_of_its_key() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let counting = unique("counting");
    deploy(&host, &counting, TASKS_AT_ONCE, &[KEY_VALUE], "").await;

    fleet.cache.cut();
    let stranger = Stranger::connect_to(fleet.broker.url()).await;
    let (mut headers, mut ids) = (FieldTable::default(), Vec::new());
    headers.insert("x-partition-key".into(), AMQPValue::LongString("line".into()));
    for steps in [script(&[json!({ "key-value": "n" })]), script(&[]), script(&[])] {
        let id = unique("task");
        stranger.send(&counting, &id, headers.clone(), steps.as_bytes()).await;
        ids.push(id);
    }
    let kept = format!("agent_settlements{{agent=\"{counting}\",reason=\"host-error\",settlement=\"hand-back\"}}");
    wait_until("the first is put off", async || (metric(&host, &kept).await >= 2).then_some(())).await;
    for id in &ids[1..] {
        assert_eq!(host.get(&format!("/v1/tasks/{id}")).await.unwrap().status(), 404, "it has not begun");
    }

    fleet.cache.mend();
    for id in &ids {
        let known = async || host.get(&format!("/v1/tasks/{id}")).await.unwrap().status().is_success().then_some(());
        wait_until("it has begun", known).await;
    }
    each_succeeded_at_its_first_attempt(&host, &ids).await;
    let mut before = 0;
    for id in &ids {
        let task = host.task(id).await;
        assert!(task["started_at"].as_u64().unwrap() >= before, "the one before ended at {before}: {task}");
        before = task["finished_at"].as_u64().unwrap();
    }
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_its_tasks_wait_and_others_run_to_their_end() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let (counting, writing, echo) = (unique("counting"), unique("writing"), deploy_echo(&host).await);
    deploy(&host, &counting, TASKS_AT_ONCE, &[KEY_VALUE], "").await;
    deploy(&host, &writing, TASKS_AT_ONCE, &[SQL, KEY_VALUE], TABLE).await;
    let insert = sql("INSERT INTO effects VALUES ($1)");
    let count = |key: &str| json!({ "key-value": key });

    // One without SQL that runs, and one in the middle of its transaction.
    let running =
        host.submit(&counting, "", script(&[count("begun"), json!({ "await": "gate" }), count("ended")])).await;
    let writes = script(&[insert.clone(), count("inserted"), json!({ "await": "gate" })]);
    let mut written = vec![host.submit(&writing, "", writes).await];
    wait_until("one has inserted its row, and the other runs", async || {
        (fleet.idle_transactions().await == 1 && host.task(&running).await["status"] == "running").then_some(())
    })
    .await;

    let stranger = Stranger::connect_to(fleet.broker.url()).await;
    fleet.database.cut();
    written.extend(send(&stranger, &writing, std::slice::from_ref(&insert)).await);
    let mut others = vec![running, send_one(&stranger, &echo, "no database").await];
    others.push(send_one(&stranger, &counting, &script(&[count("gate")])).await);
    others.extend(send(&stranger, &counting, &[count("n")]).await);
    until_put_off(&host, &writing, TASKS).await;
    wait_until("what needs no database has run", async || {
        let counted = runs(&host, &counting).await;
        (counted == u64::try_from(TASKS).unwrap() + 2 && runs(&host, &echo).await == 1).then_some(())
    })
    .await;
    assert_eq!(host.get("/readyz").await.unwrap().status(), 200);
    assert_eq!(effects(&fleet, &writing).await, Vec::<String>::new());

    fleet.database.mend();
    // The one whose transaction broke finds that out when it is let through, and then it is the host's to repeat it.
    written.push(host.submit(&writing, "", script(&[insert, count("gate")])).await);
    each_succeeded_at_its_first_attempt(&host, &others).await;
    each_succeeded_at_its_first_attempt(&host, &written).await;
    assert_eq!(effects(&fleet, &writing).await, sorted(written));
    let counted = count_once_more(&host, &counting, &[count("begun"), count("ended"), count("n")]).await;
    assert_eq!(counted, [2, 2, u64::try_from(TASKS).unwrap() + 1], "each ran once before");
    assert_eq!(count_once_more(&host, &writing, &[count("inserted")]).await, [3], "it ran twice before");
    drop(host);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_a_host_is_not_ready_and_promises_nothing() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let echo = deploy_echo(&host).await;
    for round in 0..3 {
        let before = format!("before {round}");
        assert_eq!(host.run(&echo, "text/plain", before.clone()).await.text().await.unwrap(), before);

        fleet.broker.cut();
        let url = host.url(&format!("/v1/agents/{echo}/tasks"));
        // Sent until it is not ready: whichever of these is accepted was confirmed by the broker, and must run.
        let accepted = RefCell::new(Vec::new());
        let is_ready = async || host.get("/readyz").await.unwrap().status();
        wait_until("it is not ready", async || {
            if is_ready().await != 200 {
                return Some(());
            }
            let answer = host.client().post(&url).body("in between").send().await.unwrap();
            match answer.status().as_u16() {
                202 => {
                    let task: Value = answer.json().await.unwrap();
                    accepted.borrow_mut().push(task["id"].as_str().unwrap().to_owned());
                }
                status => assert_eq!(status, 503, "{}", answer.text().await.unwrap()),
            }
            None
        })
        .await;
        assert_eq!(is_ready().await, 503);
        let answer = host.client().post(&url).body("away").send().await.unwrap();
        let batch = host.client().post(host.url(&format!("/v1/agents/{echo}/tasks:batch"))).body("1\n2\n").send().await;
        assert_eq!((answer.status().as_u16(), batch.unwrap().status().as_u16()), (503, 503));
        assert_eq!(host.get("/healthz").await.unwrap().status(), 200);

        fleet.broker.mend();
        wait_until("it is ready again", async || (is_ready().await == 200).then_some(())).await;
        each_succeeded_at_its_first_attempt(&host, &accepted.into_inner()).await;
    }
    assert_eq!(host.run(&echo, "text/plain", "back").await.text().await.unwrap(), "back");
    drop(host);
    fleet.end().await;
}
