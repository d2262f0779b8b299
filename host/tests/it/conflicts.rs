//! Transactions that meet: what PostgreSQL refuses for another's sake is run again inside the attempt.

use serde_json::Value;
use sqlx::PgPool;

use super::common::{Host, wait_until};
use super::fleet::Fleet;
use super::scripts::{SQL, deploy, script, sql, unique};

/// `runs` counts runs, also those that are rolled back; `effects` has what stays of them.
const TABLES: &str = "
    CREATE SEQUENCE runs;
    CREATE TABLE effects (task_id text NOT NULL);
    CREATE TABLE pair (name text PRIMARY KEY, n int NOT NULL);
    INSERT INTO pair VALUES ('a', 0), ('b', 0);
    CREATE TABLE gate (n int PRIMARY KEY);
    INSERT INTO gate VALUES (1), (2);
    CREATE SEQUENCE refusals;
    CREATE TABLE refused_once (task_id text NOT NULL);
    CREATE FUNCTION refuse_once() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('refusals') = 1 THEN RAISE EXCEPTION 'another was in the way' USING ERRCODE = TG_ARGV[0]; END IF;
        RETURN NULL;
    END $$;
";

/// An agent with those tables.
struct Bench<'a> {
    host: &'a Host,
    agent: String,
    pool: PgPool,
}

impl<'a> Bench<'a> {
    async fn with(fleet: &Fleet, host: &'a Host, tables: &str) -> Self {
        let agent = unique("conflict");
        deploy(host, &agent, 2, &[SQL], tables).await;
        let options = fleet.pool.connect_options().as_ref().clone();
        let pool = PgPool::connect_with(options.options([("search_path", format!("agent_{agent}"))])).await.unwrap();
        Self { host, agent, pool }
    }

    /// Runs two tasks, both of which come to the gate before either is let through.
    async fn two_meet(&self, tasks: [&[Value]; 2]) {
        let mut gate = self.pool.begin().await.unwrap();
        let holder: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *gate).await.unwrap();
        sqlx::query("SELECT n FROM gate FOR UPDATE").execute(&mut *gate).await.unwrap();
        let mut ids = Vec::new();
        for steps in tasks {
            ids.push(self.host.submit(&self.agent, "", script(steps)).await);
        }
        wait_until("both are at the gate", async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))";
            let waiting: i64 = sqlx::query_scalar(waiting).bind(holder).fetch_one(&self.pool).await.unwrap();
            (waiting == 2).then_some(())
        })
        .await;
        gate.rollback().await.unwrap();
        self.each_had_one_effect(ids).await;
    }

    /// Waits for the tasks' ends, which came at the first attempt, left one effect each, and took more runs than tasks.
    async fn each_had_one_effect(&self, mut ids: Vec<String>) {
        for id in &ids {
            let task = self.host.finished(id).await;
            assert_eq!((task["status"].as_str(), task["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{task}");
        }
        let effects = "SELECT task_id FROM effects ORDER BY 1";
        let effects: Vec<String> = sqlx::query_scalar(effects).fetch_all(&self.pool).await.unwrap();
        ids.sort();
        assert_eq!(effects, ids);
        let runs: i64 = sqlx::query_scalar("SELECT last_value FROM runs").fetch_one(&self.pool).await.unwrap();
        assert!(runs > i64::try_from(ids.len()).unwrap(), "{runs} runs: there was no conflict");
    }

    async fn pair(&self) -> Vec<i32> {
        sqlx::query_scalar("SELECT n FROM pair ORDER BY name").fetch_all(&self.pool).await.unwrap()
    }
}

/// How each task begins: it is counted, and leaves its effect.
fn begun() -> [Value; 2] {
    [sql("SELECT nextval('runs')"), sql("INSERT INTO effects VALUES ($1)")]
}

fn gate(number: u32) -> Value {
    sql(&format!("SELECT n FROM gate WHERE n = {number} FOR SHARE"))
}

fn raise(name: &str) -> Value {
    sql(&format!("UPDATE pair SET n = n + 1 WHERE name = '{name}'"))
}

async fn deadlock(bench: &Bench<'_>) {
    let task = |first, number, second| [&begun()[..], &[raise(first), gate(number), raise(second)]].concat();
    bench.two_meet([&task("a", 1, "b"), &task("b", 2, "a")]).await;
    assert_eq!(bench.pair().await, [2, 2]);
}

async fn concurrent_update(bench: &Bench<'_>) {
    let level = [sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")];
    let task = |number| [&level[..], &begun(), &[gate(number), raise("a")]].concat();
    bench.two_meet([&task(1), &task(2)]).await;
    assert_eq!(bench.pair().await, [2, 0]);
}

/// Each reads what the other writes: either of them alone would be right, and both together are not.
async fn write_skew(bench: &Bench<'_>) {
    let level = [sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")];
    let read = sql("SELECT sum(n) FROM pair");
    let task = |number, name: &str, other: &str| {
        let sum = format!("1 + (SELECT n FROM pair WHERE name = '{other}')");
        let follow = sql(&format!("UPDATE pair SET n = {sum} WHERE name = '{name}'"));
        [&level[..], &begun(), &[read.clone(), gate(number), follow]].concat()
    };
    bench.two_meet([&task(1, "a", "b"), &task(2, "b", "a")]).await;
    let pair = bench.pair().await;
    assert!(pair == [1, 2] || pair == [2, 1], "{pair:?}: one after the other, in either order");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_are_in_each_others_way_are_run_again_inside_the_attempt() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    deadlock(&Bench::with(&fleet, &host, TABLES).await).await;
    concurrent_update(&Bench::with(&fleet, &host, TABLES).await).await;
    write_skew(&Bench::with(&fleet, &host, TABLES).await).await;
    drop(host);
    fleet.end().await;
}

/// A deferred trigger refuses the first commit, with either of the codes.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_at_the_commit_is_run_again_inside_the_attempt() {
    let fleet = Fleet::start().await;
    let host = fleet.host().start().await;
    for code in ["40001", "40P01"] {
        let trigger = format!(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON refused_once DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse_once('{code}');"
        );
        let bench = Bench::with(&fleet, &host, &[TABLES, &trigger].concat()).await;
        let steps = [&begun()[..], &[sql("INSERT INTO refused_once VALUES ($1)")]].concat();
        let id = host.submit(&bench.agent, "", script(&steps)).await;
        bench.each_had_one_effect(vec![id]).await;
    }
    drop(host);
    fleet.end().await;
}
