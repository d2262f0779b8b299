//! Cancelling a task that has written to the database, while it is in the middle of something.

use serde_json::{Value, json};
use sqlx::PgPool;

use super::common::{Host, wait_until};
use super::fleet::Fleet;
use super::scripts::{KEY_VALUE, SQL, deploy, metric, runs, script, sql, unique};

const TABLES: &str = "
    CREATE TABLE effects (task_id text NOT NULL);
    CREATE TABLE gate (n int PRIMARY KEY);
    INSERT INTO gate VALUES (1);
";

/// What a task is in the middle of when it is cancelled, after it has inserted its row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Busy {
    /// Computing without a call to the host.
    Spinning,
    /// In a call to the host that ends in an hour.
    Sleeping,
    /// In a statement that waits for a lock of the test's.
    Locked,
}

impl Busy {
    fn steps(self) -> [Value; 2] {
        let last = match self {
            Self::Spinning => json!("spin"),
            Self::Sleeping => json!("sleep"),
            Self::Locked => sql("SELECT n FROM gate FOR UPDATE"),
        };
        [sql("INSERT INTO effects VALUES ($1)"), last]
    }
}

/// An agent's schema, as the test sees it.
struct Schema {
    pool: PgPool,
    name: String,
}

impl Schema {
    /// Sessions of agents that are in a transaction and have inserted a row, and do nothing or wait for a lock.
    async fn transactions(&self, locked: bool) -> i64 {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE 'ah\\_%'
             AND CASE WHEN $1 THEN cardinality(pg_blocking_pids(pid)) > 0
                 ELSE state = 'idle in transaction' AND query LIKE 'INSERT INTO effects%' END";
        sqlx::query_scalar(busy).bind(locked).fetch_one(&self.pool).await.unwrap()
    }

    async fn open_transactions(&self) -> i64 {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename LIKE 'ah\\_%'
             AND xact_start IS NOT NULL";
        sqlx::query_scalar(open).fetch_one(&self.pool).await.unwrap()
    }

    async fn effects(&self) -> Vec<String> {
        sqlx::query_scalar(&format!("SELECT task_id FROM {}.effects", self.name)).fetch_all(&self.pool).await.unwrap()
    }
}

async fn live(host: &Host) -> u64 {
    metric(host, "host_live_instances").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_leaves_nothing_in_sql_whatever_it_was_doing_and_whichever_host_is_asked() {
    let fleet = Fleet::start().await;
    let hosts = [fleet.host().start().await, fleet.host().start().await];
    let agent = unique("cancel");
    deploy(&hosts[0], &agent, 1, &[SQL], TABLES).await;
    wait_until("the other host follows", async || {
        let agents = hosts[1].get(&format!("/v1/agents/{agent}")).await.unwrap();
        (agents.status() == 200 && hosts[1].get("/readyz").await.unwrap().status() == 200).then_some(())
    })
    .await;
    let schema = Schema { pool: fleet.pool.clone(), name: format!("agent_{agent}") };
    for busy in [Busy::Spinning, Busy::Sleeping, Busy::Locked] {
        for ask_the_other in [false, true] {
            cancel_one(&hosts, &agent, &schema, busy, ask_the_other).await;
        }
    }
    drop(hosts);
    fleet.end().await;
}

async fn cancel_one(hosts: &[Host; 2], agent: &str, schema: &Schema, busy: Busy, ask_the_other: bool) {
    let what = format!("{busy:?}, asking the other host: {ask_the_other}");
    let mut gate = schema.pool.begin().await.unwrap();
    sqlx::query(&format!("SELECT n FROM {}.gate FOR UPDATE", schema.name)).execute(&mut *gate).await.unwrap();
    let id = hosts[0].submit(agent, "", script(&busy.steps())).await;
    let runner = wait_until("it is in the middle of it", async || {
        if schema.transactions(busy == Busy::Locked).await == 0 {
            return None;
        }
        (live(&hosts[0]).await + live(&hosts[1]).await == 1).then_some(())?;
        Some(if live(&hosts[0]).await == 1 { 0 } else { 1 })
    })
    .await;
    let asked = if ask_the_other { &hosts[1 - runner] } else { &hosts[runner] };
    let answer = asked.client().delete(asked.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
    assert_eq!(answer.status(), 202, "{what}");
    for host in hosts {
        let task = host.task(&id).await;
        assert_eq!((&task["status"], &task["attempt"]), (&json!("cancelled"), &json!(1)), "{what}: {task}");
    }
    // The test still holds its lock: a task that waits for it has been torn off.
    wait_until("its instance and its transaction are gone", async || {
        let live = live(&hosts[0]).await + live(&hosts[1]).await;
        (live == 0 && schema.open_transactions().await == 0).then_some(())
    })
    .await;
    gate.rollback().await.unwrap();
    assert_eq!(schema.effects().await, Vec::<String>::new(), "{what}");
    // The agent has one place per host: the one that was taken is free again.
    let before = runs(&hosts[runner], agent).await;
    let steps = script(&[sql("INSERT INTO effects VALUES ($1)"), sql("DELETE FROM effects WHERE task_id = $1")]);
    wait_until("the next task runs where it was", async || {
        let answer = hosts[0].run(agent, "application/json", steps.clone()).await;
        assert_eq!(answer.text().await.unwrap(), "[1,1]", "{what}");
        (runs(&hosts[runner], agent).await > before).then_some(())
    })
    .await;
    assert_eq!(hosts[0].task(&id).await["status"], "cancelled", "{what}");
}

/// It sees that it is to stop, and has the time for a last word; what it answers counts no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_looks_whether_it_is_cancelled_stops_tidily() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    let agent = unique("tidy");
    deploy(&host, &agent, 2, &[SQL, KEY_VALUE], TABLES).await;
    let steps = [
        sql("INSERT INTO effects VALUES ($1)"),
        json!({ "key-value": "began" }),
        json!("await-cancel"),
        json!({ "key-value": "tidied" }),
    ];
    let id = host.submit(&agent, "", script(&steps)).await;
    let run = async |step: Value| host.run(&agent, "application/json", script(&[step])).await.text().await.unwrap();
    assert_eq!(run(json!({ "await": "began" })).await, "[]", "it is in the middle of it");
    let answer = host.client().delete(host.url(&format!("/v1/tasks/{id}"))).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    wait_until("it is gone", async || (live(&host).await == 0).then_some(())).await;
    assert_eq!(run(json!({ "key-value": "tidied" })).await, "[2]", "it had said its last word");
    assert_eq!(host.task(&id).await["status"], "cancelled");
    let schema = Schema { pool: fleet.pool.clone(), name: format!("agent_{agent}") };
    assert_eq!(schema.effects().await, Vec::<String>::new());
    fleet.end().await;
}
