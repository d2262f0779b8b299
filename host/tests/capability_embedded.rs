//! The capabilities on their embedded servers, through the same suites as the real ones.

use agent_host::broker::conformance::wait_until;
use agent_host::capability::cache::{self, MemoryCache};
use agent_host::capability::key_value::{self, MemoryKeyValue};
use agent_host::capability::sql::{self, Database, LazyDatabase};
use agent_host::embedded;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_private_postgresql_keeps_the_rules_of_sql() {
    let data = tempfile::tempdir().unwrap();
    let database = LazyDatabase::new(data.path().to_owned());
    assert!(!data.path().join("postgres").exists(), "nothing is started before the first grant");
    sql::conformance::exercise(&database).await;
    database.close().await;
}

#[tokio::test]
async fn the_memory_store_keeps_the_rules_of_key_value() {
    key_value::conformance::exercise(&MemoryKeyValue::new()).await;
}

#[tokio::test]
async fn the_memory_cache_keeps_the_rules_of_the_cache() {
    cache::conformance::exercise(&MemoryCache::new()).await;
}

#[tokio::test]
async fn a_killed_server_is_started_again_with_its_data() {
    use sqlx::{ConnectOptions, Executor};
    let data = tempfile::tempdir().unwrap();
    let server = embedded::Postgres::start(data.path()).await.unwrap();
    let mut connection = server.options().connect().await.unwrap();
    connection.execute("CREATE TABLE t AS SELECT 42 AS n").await.unwrap();
    // Not even a crash: the lock file stays, and so does what was written ahead.
    let pid = server.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    drop(server);

    let server = embedded::Postgres::start(data.path()).await.unwrap();
    let mut connection = server.options().connect().await.unwrap();
    let row = connection.fetch_one("SELECT n FROM t").await.unwrap();
    assert_eq!(sqlx::Row::get::<i32, _>(&row, 0), 42);
    server.stop().await;
    assert!(!data.path().join("postgres/data/postmaster.pid").exists(), "a clean stop leaves no lock");
}

/// Set in the process that plays the host that is killed: the folder of its server's data.
const PLAY_HOST: &str = "CAPABILITY_TEST_DATA_DIR";

#[tokio::test]
async fn a_killed_host_leaves_no_server_behind() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    if let Ok(data) = std::env::var(PLAY_HOST) {
        let server = embedded::Postgres::start(data.as_ref()).await.unwrap();
        println!("server {}", server.pid());
        std::future::pending::<()>().await;
    }

    let data = tempfile::tempdir().unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_host_leaves_no_server_behind", "--nocapture"])
        .env(PLAY_HOST, data.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    // The test harness may have begun the line.
    let pid = lines.map_while(Result::ok).find_map(|line| line.split_once("server ").map(|(_, pid)| pid.to_owned()));
    let process = std::path::PathBuf::from(format!("/proc/{}", pid.unwrap()));
    assert!(process.exists());

    host.kill().unwrap();
    host.wait().unwrap();
    // A server that has ended stays a zombie until whoever inherited it looks; that it runs no more is what counts.
    let runs = || std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
    wait_until("the end of the server with its host", async || (!runs()).then_some(())).await;
}
