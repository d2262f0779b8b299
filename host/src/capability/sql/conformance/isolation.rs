//! One agent's statements reach nothing else, and one task's nothing of the next.

use std::time::{Duration, Instant};

use super::{PATIENCE, TIMEOUT, agent, execute, one, open, rows, sqlstate};
use crate::capability::sql::{Database, End, SqlError, Value};
use crate::manifest::TransactionMode;
use crate::task::AgentName;

pub(super) async fn exercise(database: &dyn Database) {
    let victim = agent(database, "victim", "CREATE TABLE t (n int); INSERT INTO t VALUES (42)").await;
    let intruder = agent(database, "intruder", "CREATE TABLE own (n int)").await;
    other_agents(database, &victim, &intruder).await;
    session_state(database, &intruder).await;
    time_limits(database, &intruder).await;
    dropped_statements_end(database, &intruder).await;
    dead_connections_are_replaced(database, &intruder).await;
}

async fn other_agents(database: &dyn Database, victim: &AgentName, intruder: &AgentName) {
    let mut connection = open(database, victim).await;
    let Value::Text(schema) = one(&mut connection, "SELECT current_schema()::text", &[]).await else { panic!() };
    let Value::Text(role) = one(&mut connection, "SELECT current_user::text", &[]).await else { panic!() };
    connection.finish(End::Commit(None)).await.unwrap();

    let attempts = [
        format!("SELECT * FROM \"{schema}\".t"),
        format!("CREATE TABLE \"{schema}\".mine (n int)"),
        format!("SET ROLE \"{role}\""),
        format!("SELECT set_config('role', '{role}', false)"),
        format!("SET SESSION AUTHORIZATION \"{role}\""),
        format!("ALTER ROLE \"{role}\" PASSWORD 'x'"),
        "SELECT * FROM agent_host.sql_installation".to_owned(),
        "SELECT agent_host.record_migration('x', 'y')".to_owned(),
        "CREATE ROLE another".to_owned(),
        "CREATE DATABASE another".to_owned(),
        "CREATE TABLE public.mine (n int)".to_owned(),
        "SELECT pg_read_file('/etc/passwd')".to_owned(),
        "SELECT pg_ls_dir('/')".to_owned(),
        "SELECT lo_import('/etc/passwd')".to_owned(),
        "CREATE EXTENSION dblink".to_owned(),
        "ALTER SYSTEM SET max_connections = 1".to_owned(),
        "SELECT passwd FROM pg_shadow".to_owned(),
    ];
    for attempt in attempts {
        // By statement: some of these may not run in a transaction, which is not why they must be refused.
        let mut connection = database.open(intruder, TransactionMode::Statement, TIMEOUT).await.unwrap();
        let error = execute(&mut connection, &attempt).await.unwrap_err();
        // "insufficient privilege" (also as "permission denied to set parameter"), "invalid parameter", "undefined file".
        let refused = ["42501", "22023", "58P01", "0A000", "42P01", "3F000"];
        assert!(refused.contains(&sqlstate(&error)), "{attempt}: {error:?}");
        connection.finish(End::Rollback).await.unwrap();
    }
}

async fn pid(database: &dyn Database, agent: &AgentName) -> Value {
    let mut connection = open(database, agent).await;
    let pid = one(&mut connection, "SELECT pg_backend_pid()", &[]).await;
    connection.finish(End::Commit(None)).await.unwrap();
    pid
}

async fn session_state(database: &dyn Database, agent: &AgentName) {
    for commit in [true, false] {
        let mut connection = open(database, agent).await;
        let before = one(&mut connection, "SELECT pg_backend_pid()", &[]).await;
        for statement in [
            "CREATE TEMP TABLE own (secret text)",
            "SELECT pg_advisory_lock(7)",
            "SET search_path = pg_catalog",
            "SET statement_timeout = 0",
            "SELECT set_config('app.user', 'secret', false)",
            "DECLARE left_over CURSOR WITH HOLD FOR SELECT 1",
        ] {
            execute(&mut connection, statement).await.unwrap();
        }
        connection.finish(if commit { End::Commit(None) } else { End::Rollback }).await.unwrap();

        let mut connection = open(database, agent).await;
        let after = one(&mut connection, "SELECT pg_backend_pid()", &[]).await;
        assert_eq!(before, after, "the connection is used again");
        let state = "SELECT concat_ws('|', current_setting('app.user', true), current_setting('statement_timeout'), \
                     to_regclass('pg_temp.own')::text, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = \
                     pg_backend_pid()), (SELECT count(*) FROM pg_cursors WHERE name = 'left_over'))";
        let Value::Text(state) = one(&mut connection, state, &[]).await else { panic!() };
        assert_eq!(state, "|20s|0|0");
        // The search path leads to the agent's own table again.
        assert_eq!(one(&mut connection, "SELECT count(*) FROM own", &[]).await, Value::Int64(0));
        connection.finish(End::Commit(None)).await.unwrap();
    }
}

async fn time_limits(database: &dyn Database, agent: &AgentName) {
    let short = Duration::from_millis(100);
    let mut connection = database.open(agent, TransactionMode::Task, short).await.unwrap();
    let error = connection.execute("SELECT pg_sleep(60)", &[], short).await.unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    connection.finish(End::Rollback).await.unwrap();

    // An agent that lifts the limit is stopped by the host.
    let mut connection = database.open(agent, TransactionMode::Task, short).await.unwrap();
    connection.execute("SET statement_timeout = 0", &[], short).await.unwrap();
    let error = connection.execute("SELECT pg_sleep(60)", &[], short).await.unwrap_err();
    assert!(matches!(error, SqlError::LimitExceeded(_)), "{error:?}");
    drop(connection);
    until_no_sleeper(database, agent).await;
}

async fn dropped_statements_end(database: &dyn Database, agent: &AgentName) {
    let mut connection = open(database, agent).await;
    let stopped = {
        let work = connection.execute("SELECT pg_sleep(300)", &[], TIMEOUT);
        tokio::pin!(work);
        // Far enough that the statement runs; what then happens to it is the subject.
        let running = async {
            while sleepers(database, agent).await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            result = &mut work => Some(result),
            () = running => None,
        }
    };
    assert!(stopped.is_none(), "{stopped:?}");
    drop(connection);
    until_no_sleeper(database, agent).await;
}

async fn sleepers(database: &dyn Database, agent: &AgentName) -> i64 {
    let mut connection = open(database, agent).await;
    let statement = "SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND state = 'active' AND wait_event = 'PgSleep'";
    let count = one(&mut connection, statement, &[]).await;
    connection.finish(End::Commit(None)).await.unwrap();
    match count {
        Value::Int64(count) => count,
        other => panic!("{other:?}"),
    }
}

async fn until_no_sleeper(database: &dyn Database, agent: &AgentName) {
    let began = Instant::now();
    while sleepers(database, agent).await > 0 {
        assert!(began.elapsed() < PATIENCE, "the statement of a stopped task goes on running");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn dead_connections_are_replaced(database: &dyn Database, agent: &AgentName) {
    let victim = pid(database, agent).await;
    let mut connection = database.open(agent, TransactionMode::Statement, TIMEOUT).await.unwrap();
    let mut other = database.open(agent, TransactionMode::Statement, TIMEOUT).await.unwrap();
    let (own, others) = (
        one(&mut connection, "SELECT pg_backend_pid()", &[]).await,
        one(&mut other, "SELECT pg_backend_pid()", &[]).await,
    );
    assert_eq!(own, victim);
    other.finish(End::Commit(None)).await.unwrap();
    // An operator ends the idle one.
    rows(&mut connection, "SELECT pg_terminate_backend($1)", std::slice::from_ref(&others)).await.unwrap();
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    let began = Instant::now();
    while one(&mut connection, gone, std::slice::from_ref(&others)).await != Value::Int64(0) {
        assert!(began.elapsed() < PATIENCE);
    }
    // Nobody notices.
    let mut next = open(database, agent).await;
    assert_eq!(one(&mut next, "SELECT 1", &[]).await, Value::Int32(1));
    next.finish(End::Commit(None)).await.unwrap();

    // One that dies in the middle of a task is told, and not committed.
    let mut doomed = open(database, agent).await;
    execute(&mut doomed, "INSERT INTO own VALUES (1)").await.unwrap();
    let doomed_pid = one(&mut doomed, "SELECT pg_backend_pid()", &[]).await;
    rows(&mut connection, "SELECT pg_terminate_backend($1)", &[doomed_pid]).await.unwrap();
    let error = execute(&mut doomed, "SELECT 1").await.unwrap_err();
    assert!(matches!(error, SqlError::Unavailable { .. }), "{error:?}");
    assert!(doomed.finish(End::Commit(None)).await.is_err());
    assert_eq!(one(&mut connection, "SELECT count(*) FROM own", &[]).await, Value::Int64(0));
    connection.finish(End::Commit(None)).await.unwrap();
}
