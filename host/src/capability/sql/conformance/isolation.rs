//! One agent's statements reach nothing else, and one task's nothing of the next.

use std::time::{Duration, Instant};

use super::{PATIENCE, TIMEOUT, agent, execute, migration, one, open, rows, sqlstate};
use crate::capability::sql::{CommitError, Committed, Database, End, SqlConnection, SqlError, Value};
use crate::manifest::TransactionMode;
use crate::task::AgentName;

/// A table, and one whose commit ends the session.
const OWN: &str = "\
    CREATE SEQUENCE own_n; CREATE TABLE own (n int); CREATE TABLE doomed (n int); \
    CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NULL; END $$; \
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON doomed DEFERRABLE INITIALLY DEFERRED \
    FOR EACH ROW EXECUTE FUNCTION end_session()";

pub(super) async fn exercise(database: &dyn Database) {
    let victim = agent(database, "victim", "CREATE TABLE t (n int); INSERT INTO t VALUES (42)").await;
    let intruder = agent(database, "intruder", OWN).await;
    other_agents(database, &victim, &intruder).await;
    session_state(database, &intruder).await;
    locks(database, &intruder).await;
    own_role(database, &intruder).await;
    own_failures(database, &intruder).await;
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

/// Whatever a task leaves in its session, the next finds none of it: on the same connection where it was reset, on another
/// where that is not known.
async fn session_state(database: &dyn Database, agent: &AgentName) {
    // Where everyone may make some: what may not be revoked by the host's role.
    let temporary =
        "DO $$ BEGIN CREATE TEMP TABLE own (secret text); EXCEPTION WHEN insufficient_privilege THEN END $$";
    let usual: &[&str] = &[
        temporary,
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_advisory_lock_shared(8, 9)",
        "SELECT setval('own_n', 7), nextval('own_n')",
        "SET search_path = pg_catalog",
        "SET statement_timeout = 0",
        "SET idle_in_transaction_session_timeout = 0",
        "SELECT set_config('app.user', 'secret', false)",
        "DECLARE left_over CURSOR WITH HOLD FOR SELECT 1",
        "DO $$ BEGIN EXECUTE 'LISTEN everything'; END $$",
        "NOTIFY everything",
        "SET default_transaction_read_only = on",
    ];
    let unusual: [&[&str]; 3] = [
        &["DO $$ BEGIN EXECUTE 'PREPARE mine AS SELECT 1'; END $$"],
        &["SELECT 1", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"],
        &["DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; EXECUTE 'PREPARE sqlx_s_1 AS SELECT 1'; END $$"],
    ];
    for round in 0..ALTERNATIONS {
        for mode in [TransactionMode::Task, TransactionMode::Statement] {
            for commit in [true, false] {
                let unusual = unusual.get(round).copied();
                let mut connection = database.open(agent, mode, TIMEOUT).await.unwrap();
                let before = one(&mut connection, "SELECT pg_catalog.pg_backend_pid()", &[]).await;
                for statement in unusual.unwrap_or(usual) {
                    execute(&mut connection, statement).await.unwrap();
                }
                connection.finish(if commit { End::Commit(None) } else { End::Rollback }).await.unwrap();

                let mut connection = open(database, agent).await;
                let after = one(&mut connection, "SELECT pg_backend_pid()", &[]).await;
                assert_eq!(before == after, unusual.is_none(), "round {round}, {mode:?}: the connection is used again");
                let Value::Text(state) = one(&mut connection, STATE, &[]).await else { panic!() };
                assert_eq!(state, "|20s|21min|off|0|0|0|0", "round {round}, {mode:?}");
                // The search path leads to the agent's own table again.
                assert_eq!(one(&mut connection, "SELECT count(*) FROM own", &[]).await, Value::Int64(0));
                let error = rows(&mut connection, "SELECT lastval()", &[]).await.unwrap_err();
                assert_eq!(sqlstate(&error), "55000", "no sequence was used in this session");
                connection.finish(End::Rollback).await.unwrap();
            }
        }
    }
}

/// How often one task's session is followed by another's, in each mode and with each end.
const ALTERNATIONS: usize = 20;

const STATE: &str = "SELECT concat_ws('|', COALESCE(current_setting('app.user', true), ''), current_setting('statement_timeout'), \
    current_setting('idle_in_transaction_session_timeout'), current_setting('default_transaction_read_only'), \
    to_regclass('pg_temp.own')::text, \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
    (SELECT count(*) FROM pg_cursors WHERE name = 'left_over'), (SELECT count(*) FROM pg_listening_channels()), \
    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql))";

/// The host waits for no lock that an agent can take: not even for those that it once took itself.
async fn locks(database: &dyn Database, agent: &AgentName) {
    let mut connection = open(database, agent).await;
    for statement in [
        "SELECT pg_advisory_lock(7018690069354017652)",
        "SELECT pg_advisory_lock(('x' || substr(encode(sha256(current_user::text::bytea), 'hex'), 1, 16))::bit(64)::bigint)",
    ] {
        execute(&mut connection, statement).await.unwrap();
    }
    database.provision(agent, &[], &[migration("0001_create.sql", OWN)]).await.unwrap();
    connection.finish(End::Rollback).await.unwrap();
}

/// An agent that changes its own password, or what its sessions begin with, keeps neither itself nor the host out.
async fn own_role(database: &dyn Database, agent: &AgentName) {
    let mut connection = open(database, agent).await;
    for statement in [
        "DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L', current_user, 'mine'); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET search_path = pg_catalog', current_user); END $$",
        "DO $$ BEGIN EXECUTE format('ALTER ROLE %I SET statement_timeout = 0', current_user); END $$",
        "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
    ] {
        execute(&mut connection, statement).await.unwrap();
    }
    // The last of them has the connection closed.
    connection.finish(End::Commit(None)).await.unwrap();
    let mut connection = open(database, agent).await;
    assert_eq!(one(&mut connection, "SELECT count(*) FROM own", &[]).await, Value::Int64(0));
    let timeout = one(&mut connection, "SELECT current_setting('statement_timeout')", &[]).await;
    assert_eq!(timeout, Value::Text("20s".to_owned()));
    execute(&mut connection, "DO $$ BEGIN EXECUTE format('ALTER ROLE %I RESET ALL', current_user); END $$")
        .await
        .unwrap();
    connection.finish(End::Commit(None)).await.unwrap();
}

/// What an agent makes PostgreSQL say is the agent's failure, not the host's, which would be tried again without end.
async fn own_failures(database: &dyn Database, agent: &AgentName) {
    let mut connection = open(database, agent).await;
    let error = rows(&mut connection, "SELECT pg_terminate_backend(pg_backend_pid())", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&error), "57P01");
    let error = execute(&mut connection, "SELECT 1").await.unwrap_err();
    assert!(matches!(error, SqlError::LimitExceeded(_)), "{error:?}");
    let error = connection.finish(End::Commit(None)).await.unwrap_err();
    assert!(matches!(error, CommitError::Aborted(_)), "{error:?}");

    let mut connection = open(database, agent).await;
    execute(&mut connection, "SET client_encoding = 'LATIN1'").await.unwrap();
    let error = rows(&mut connection, "SELECT chr(252)", &[]).await.unwrap_err();
    assert!(matches!(error, SqlError::Conversion(_)), "{error:?}");
    connection.finish(End::Rollback).await.unwrap();

    // At the commit.
    let mut connection = open(database, agent).await;
    execute(&mut connection, "INSERT INTO doomed VALUES (1)").await.unwrap();
    let error = connection.finish(End::Commit(None)).await.unwrap_err();
    assert!(matches!(&error, CommitError::Refused(error) if error.sqlstate == "57P01"), "{error:?}");
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
    let own = one(&mut connection, "SELECT pg_backend_pid()", &[]).await;
    assert_eq!(own, victim);
    // Whether the statement that finds it dead was prepared on it or not, and whatever it asks for.
    for (is_prepared, is_query) in [(false, false), (false, true), (true, false), (true, true)] {
        const QUERY: &str = "SELECT 1";
        const COMMAND: &str = "DELETE FROM own WHERE false";
        let mut other = open(database, agent).await;
        let others = one(&mut other, "SELECT pg_backend_pid()", &[]).await;
        if is_prepared {
            one(&mut other, QUERY, &[]).await;
            execute(&mut other, COMMAND).await.unwrap();
        }
        other.finish(End::Commit(None)).await.unwrap();
        // An operator ends the idle one.
        rows(&mut connection, "SELECT pg_terminate_backend($1)", std::slice::from_ref(&others)).await.unwrap();
        until_gone(&mut connection, others.clone()).await;
        // Nobody notices.
        let mut next = open(database, agent).await;
        if is_query {
            assert_eq!(one(&mut next, QUERY, &[]).await, Value::Int32(1));
        } else {
            assert_eq!(execute(&mut next, COMMAND).await.unwrap(), 0);
        }
        assert_ne!(one(&mut next, "SELECT pg_backend_pid()", &[]).await, others);
        execute(&mut next, "INSERT INTO own VALUES (2)").await.unwrap();
        assert_eq!(
            one(&mut connection, "SELECT count(*) FROM own", &[]).await,
            Value::Int64(0),
            "not in a transaction"
        );
        next.finish(End::Commit(None)).await.unwrap();
        assert_eq!(one(&mut connection, "SELECT count(*) FROM own", &[]).await, Value::Int64(1));
        execute(&mut connection, "DELETE FROM own").await.unwrap();
    }

    // One that ends with the first statement is not tried again: that was the statement's doing.
    const COUNT: &str = "SELECT nextval('own_n')";
    let Value::Int64(before) = one(&mut connection, COUNT, &[]).await else { panic!("no count") };
    let mut suicide = open(database, agent).await;
    let ends_itself = "SELECT nextval('own_n'), pg_terminate_backend(pg_backend_pid())";
    assert_eq!(sqlstate(&rows(&mut suicide, ends_itself, &[]).await.unwrap_err()), "57P01");
    assert!(suicide.finish(End::Commit(None)).await.is_err());
    // What a sequence has given no rollback takes back.
    assert_eq!(one(&mut connection, COUNT, &[]).await, Value::Int64(before + 2));

    // What was refused before the server heard of it leaves the connection as it was.
    let mut refused = open(database, agent).await;
    assert!(matches!(execute(&mut refused, "COMMIT").await, Err(SqlError::Denied(_))));
    assert_eq!(refused.finish(End::Commit(None)).await.unwrap(), Committed::Effects);

    // One that dies in the middle of a task is told, and not committed.
    let mut doomed = open(database, agent).await;
    execute(&mut doomed, "INSERT INTO own VALUES (1)").await.unwrap();
    let doomed_pid = one(&mut doomed, "SELECT pg_backend_pid()", &[]).await;
    rows(&mut connection, "SELECT pg_terminate_backend($1)", std::slice::from_ref(&doomed_pid)).await.unwrap();
    until_gone(&mut connection, doomed_pid).await;
    // By the agent's own order, so this is its own failure.
    assert_eq!(sqlstate(&execute(&mut doomed, "SELECT 1").await.unwrap_err()), "57P01");
    assert!(doomed.finish(End::Commit(None)).await.is_err());
    assert_eq!(one(&mut connection, "SELECT count(*) FROM own", &[]).await, Value::Int64(0));
    connection.finish(End::Commit(None)).await.unwrap();
}

async fn until_gone(connection: &mut Box<dyn SqlConnection>, pid: Value) {
    let there = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    let began = Instant::now();
    while one(connection, there, std::slice::from_ref(&pid)).await != Value::Int64(0) {
        assert!(began.elapsed() < PATIENCE, "a process of the server that was told to end goes on");
    }
}
