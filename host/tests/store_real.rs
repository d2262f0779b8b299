//! Task records and the catalog on a real PostgreSQL, at `DATABASE_URL`.
//!
//! Every test makes a database of its own on that server and drops it again, so the role must be allowed to.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "store_real/ended_session.rs"]
mod ended_session;
#[path = "store_real/ends_in_sql.rs"]
mod ends_in_sql;
#[path = "store_real/sealed_secrets.rs"]
mod sealed_secrets;

use std::panic::AssertUnwindSafe;
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_host::broker::conformance::wait_until;
use agent_host::catalog::{self, PostgresCatalog};
use agent_host::records::conformance::{self, ended, new_task, update};
use agent_host::records::{Inbox, PostgresRecords, PostgresSettings, Queued, Records, Status, TaskRecords};
use agent_host::store::{HostDatabase, StoreError};
use futures::FutureExt;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

/// Far longer than anything here takes: what is awaited never comes.
const NEVER: Duration = Duration::from_secs(60);

/// A database of one test.
struct Scratch {
    /// The server's own database.
    server: String,
    name: String,
    url: String,
}

impl Scratch {
    async fn make() -> Self {
        let server = std::env::var("DATABASE_URL")
            .expect("DATABASE_URL is not set: run `cargo xtask test`, or set DATABASE_URL to a PostgreSQL server");
        let mut admin = PgConnection::connect(&server).await.expect("DATABASE_URL names a PostgreSQL server that runs");
        let name = format!("agent_host_test_{}", uuid::Uuid::now_v7().simple());
        admin.execute(format!("CREATE DATABASE {name}").as_str()).await.expect("the role may create databases");
        let options: PgConnectOptions = server.parse().unwrap();
        let url = options.database(&name).to_url_lossy().to_string();
        Self { server, name, url }
    }

    async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.server).await.unwrap()
    }

    async fn open(&self) -> HostDatabase {
        HostDatabase::open(&self.url).await.expect("a fresh database can be migrated")
    }

    /// A connection of the test's own to its database.
    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

/// Runs a test on a database of its own, which is dropped also when the test fails.
async fn with_database<F: Future<Output = ()>>(test: impl FnOnce(Arc<Scratch>) -> F) {
    let scratch = Scratch::make().await;
    let mut admin = scratch.admin().await;
    let name = scratch.name.clone();
    let result = AssertUnwindSafe(test(Arc::new(scratch))).catch_unwind().await;
    admin.execute(format!("DROP DATABASE {name} WITH (FORCE)").as_str()).await.unwrap();
    if let Err(failed) = result {
        std::panic::resume_unwind(failed);
    }
}

async fn records_with(scratch: &Scratch, settings: PostgresSettings) -> PostgresRecords {
    PostgresRecords::start(&scratch.open().await, settings).await.unwrap()
}

async fn records(scratch: &Scratch) -> PostgresRecords {
    records_with(scratch, PostgresSettings::default()).await
}

/// Records that outlast a database which is often away.
async fn patient_records(scratch: &Scratch) -> PostgresRecords {
    records_with(scratch, PostgresSettings { wait_max: NEVER, ..PostgresSettings::default() }).await
}

/// Waits until a query in the test's database answers `true`.
async fn until_true(connection: &mut PgConnection, query: &str) {
    let connection = tokio::sync::Mutex::new(connection);
    wait_until(query, async || {
        let is_true: bool = sqlx::query_scalar(query).fetch_one(&mut **connection.lock().await).await.unwrap();
        is_true.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_keep_the_rules() {
    with_database(|scratch| async move { conformance::exercise(async || records(&scratch).await).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_keeps_the_rules() {
    with_database(|scratch| async move {
        let database = scratch.open().await;
        catalog::conformance::exercise(async || PostgresCatalog::new(&database)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_a_fleet_agree_on_revisions() {
    with_database(|scratch| async move {
        let database = scratch.open().await;
        let fleet = [(); 3].map(|()| Arc::new(PostgresCatalog::new(&database)));
        catalog::conformance::numbers_without_gaps_under_concurrency(&fleet).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_a_fleet_agree_on_records() {
    with_database(|scratch| async move {
        let fleet = [Arc::new(records(&scratch).await), Arc::new(records(&scratch).await)];
        conformance::duplicates_agree(&fleet).await;
        conformance::interleavings_end_well(&fleet).await;
        // Followed on one host, run and ended on the other.
        let [here, there] = fleet;
        let task = new_task("a");
        here.queued(vec![task.clone()]).await.unwrap();
        let mut follower = here.follow(&task.id);
        there.note(update(&task, Status::Running));
        let runs = follower.wait_for(|record| record.as_ref().is_some_and(|record| record.status == Status::Running));
        tokio::time::timeout(NEVER, runs).await.unwrap().unwrap();
        there.finished(&ended(&task, Status::Succeeded).into()).await.unwrap();
        let seen = conformance::seen_to_end(follower).await;
        assert_eq!(Some(seen), there.get(&task.id).await.unwrap());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_may_all_start_at_once() {
    with_database(|scratch| async move {
        let starting = (0..8).map(|_| HostDatabase::open(&scratch.url));
        futures::future::try_join_all(starting).await.unwrap();
        // And again later, beside a newer version that has migrated further.
        let mut connection = scratch.connect().await;
        connection
            .execute(
                "INSERT INTO agent_host._sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9000, 'of a newer version', true, '', 0)",
            )
            .await
            .unwrap();
        scratch.open().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_create_the_schema_is_told_so() {
    with_database(|scratch| async move {
        let mut admin = scratch.connect().await;
        let role = scratch.name.replace("agent_host_test", "r");
        let sql = format!("CREATE ROLE {role} LOGIN PASSWORD 'hush-hush'");
        admin.execute(sql.as_str()).await.unwrap();
        let options: PgConnectOptions = scratch.url.parse().unwrap();
        let url = options.username(&role).password("hush-hush").to_url_lossy();
        let refused = HostDatabase::open(url.as_str()).await;
        // The role goes before anything can fail.
        admin.execute(format!("DROP ROLE {role}").as_str()).await.unwrap();
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::Migrate(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_nothing() {
    const KILLS: u64 = 30;
    with_database(|scratch| async move {
        let records = Arc::new(patient_records(&scratch).await);
        let (kills, finished) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut working = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (records, kills, finished) = (Arc::clone(&records), Arc::clone(&kills), Arc::clone(&finished));
            working.spawn(async move {
                let mut done = Vec::new();
                while kills.load(Ordering::Relaxed) < KILLS {
                    let task = new_task("a");
                    // A repeated try must find its own row: exactly `New`, although the answer may have been lost.
                    assert_eq!(records.queued(vec![task.clone()]).await.unwrap(), [Queued::New]);
                    records.note(update(&task, Status::Running));
                    records.finished(&ended(&task, Status::Succeeded).into()).await.unwrap();
                    done.push(task);
                    finished.fetch_add(1, Ordering::Relaxed);
                }
                done
            });
        }
        let mut killer = scratch.connect().await;
        while kills.load(Ordering::Relaxed) < KILLS {
            const KILL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'agent-host' AND state = 'active'";
            let killed = killer.execute(KILL).await.unwrap().rows_affected();
            kills.fetch_add(killed, Ordering::Relaxed);
            let before = finished.load(Ordering::Relaxed);
            wait_until("some work between two kills", async || {
                (finished.load(Ordering::Relaxed) > before).then_some(())
            })
            .await;
        }
        let done = working.join_all().await.concat();
        assert!(!done.is_empty());
        for task in &done {
            let record = records.get(&task.id).await.unwrap().unwrap();
            assert_eq!((record.status, record.output), (Status::Succeeded, ended(task, Status::Succeeded).output));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_after_the_wait_and_work_again_afterwards() {
    with_database(|scratch| async move {
        let settings = PostgresSettings { wait_max: Duration::from_millis(200), ..PostgresSettings::default() };
        let records = records_with(&scratch, settings).await;
        let mut blocker = scratch.connect().await;
        blocker.execute("BEGIN; LOCK TABLE agent_host.tasks IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let task = new_task("a");
        let error = records.finished(&ended(&task, Status::Succeeded).into()).await.unwrap_err();
        assert_eq!(error.action, "written");
        assert_eq!(records.queued(vec![task.clone()]).await.unwrap_err().action, "written");
        assert_eq!(records.get(&task.id).await.unwrap_err().action, "read");
        blocker.execute("ROLLBACK").await.unwrap();
        let again = async {
            while records.finished(&ended(&task, Status::Succeeded).into()).await.is_err() {}
            while records.get(&task.id).await.is_err() {}
        };
        tokio::time::timeout(NEVER, again).await.unwrap();
        assert_eq!(records.get(&task.id).await.unwrap().unwrap().status, Status::Succeeded);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_fails_alone() {
    with_database(|scratch| async move {
        let records = Arc::new(records(&scratch).await);
        let tasks: Vec<_> = (0..40).map(|_| new_task("a")).collect();
        // Stands for whatever a row may hold that a server refuses.
        let trigger = format!(
            "CREATE FUNCTION agent_host.refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '22000'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON agent_host.tasks
                 FOR EACH ROW WHEN (NEW.id = '{}') EXECUTE FUNCTION agent_host.refuse()",
            tasks[17].id
        );
        scratch.connect().await.execute(trigger.as_str()).await.unwrap();
        let ends = tasks.iter().map(async |task| records.finished(&ended(task, Status::Succeeded).into()).await);
        let results = futures::future::join_all(ends).await;
        for (index, (task, result)) in tasks.iter().zip(results).enumerate() {
            assert_eq!(result.is_err(), index == 17, "{index}: {result:?}");
            assert_eq!(records.get(&task.id).await.unwrap().is_none(), index == 17);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_past_their_time_are_forgotten_and_no_others() {
    with_database(|scratch| async move {
        let writing = records(&scratch).await;
        let over: Vec<_> = (0..2_500).map(|_| new_task("a")).collect();
        let [fresh, waiting, abandoned] = ["b", "c", "d"].map(new_task);
        writing.queued(over.clone()).await.unwrap();
        writing.queued(vec![waiting.clone(), abandoned.clone(), fresh.clone()]).await.unwrap();
        let ends = over
            .iter()
            .chain([&fresh])
            .map(async |task| writing.finished(&ended(task, Status::Succeeded).into()).await);
        futures::future::try_join_all(ends).await.unwrap();
        writing.close().await;
        let mut connection = scratch.connect().await;
        // Past the inbox's time; past the time that they are shown; and two that have not ended.
        let (forgotten, hidden) = over.split_at(1_400);
        for (tasks, days) in [(forgotten, 8), (hidden, 2), (from_ref(&waiting), 30), (from_ref(&abandoned), 32)] {
            let ids: Vec<_> = tasks.iter().map(|task| task.id.as_str().to_owned()).collect();
            sqlx::query(
                "UPDATE agent_host.tasks SET created_at = created_at - make_interval(days => $2),
                     updated_at = updated_at - make_interval(days => $2) WHERE id = ANY($1)",
            )
            .bind(ids)
            .bind(days)
            .execute(&mut connection)
            .await
            .unwrap();
        }
        // Submitted long ago, ended just now.
        sqlx::query("UPDATE agent_host.tasks SET created_at = created_at - interval '9 days' WHERE id = $1")
            .bind(fresh.id.as_str())
            .execute(&mut connection)
            .await
            .unwrap();
        // What was said long ago by a task that ended long ago, by one that has not ended, and by one that is shown.
        for task in [&hidden[0], &waiting, &fresh] {
            sqlx::query(
                "INSERT INTO agent_host.task_logs (task_id, run, generation, attempt, host, is_cut, lines, created_at)
                 VALUES ($1, gen_random_uuid(), 0, 1, 'h', false, '', now() - interval '2 days')",
            )
            .bind(task.id.as_str())
            .execute(&mut connection)
            .await
            .unwrap();
        }
        let pruning = records(&scratch).await;
        until_true(&mut connection, "SELECT count(*) = 2 FROM agent_host.task_logs").await;
        assert_eq!(pruning.logs(&hidden[0].id).await.unwrap(), []);
        assert_eq!(pruning.logs(&waiting.id).await.unwrap().len(), 1);
        until_true(&mut connection, "SELECT count(*) = 1102 FROM agent_host.tasks").await;
        until_true(&mut connection, "SELECT count(*) = 1 FROM agent_host.tasks WHERE output IS NOT NULL").await;
        assert_eq!(pruning.get(&hidden[0].id).await.unwrap(), None, "it is not shown any more");
        assert!(pruning.ended(&hidden[0].id, 0).await.unwrap().is_some(), "and is not run again either");
        assert_eq!(pruning.get(&fresh.id).await.unwrap().unwrap().status, Status::Succeeded);
        assert_eq!(pruning.get(&waiting.id).await.unwrap().unwrap().status, Status::Queued);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_writes_what_was_noted_and_refuses_more() {
    with_database(|scratch| async move {
        let records = Arc::new(patient_records(&scratch).await);
        let (noted, more) = (new_task("a"), new_task("b"));
        let ends: Vec<_> = (0..500).map(|_| new_task("c")).collect();
        let mut ending = tokio::task::JoinSet::new();
        for task in &ends {
            let (records, task) = (Arc::clone(&records), task.clone());
            ending
                .spawn(async move { (records.finished(&ended(&task, Status::Succeeded).into()).await.is_ok(), task) });
        }
        records.note(update(&noted, Status::Running));
        records.close().await;
        assert!(records.finished(&ended(&more, Status::Succeeded).into()).await.is_err());
        let after = self::records(&scratch).await;
        assert_eq!(after.get(&noted.id).await.unwrap().unwrap().status, Status::Running);
        // Each end was written, or its caller was told that it was not.
        for (written, task) in ending.join_all().await {
            assert_eq!(after.get(&task.id).await.unwrap().is_some(), written);
        }
    })
    .await;
}
