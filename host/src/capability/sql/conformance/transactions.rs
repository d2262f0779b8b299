//! What commits, what does not, and what an agent is told.

use futures::future::join_all;

use super::{TIMEOUT, agent, execute, one, open, rows, sqlstate};
use crate::capability::sql::{CommitError, Database, End, SqlError, Value};
use crate::manifest::TransactionMode;
use crate::task::AgentName;

const SCHEMA: &str = "\
CREATE TABLE t (n int PRIMARY KEY, note text NOT NULL DEFAULT '');
CREATE TABLE child (n int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE counter (n int NOT NULL);
INSERT INTO counter VALUES (0);
";

pub(super) async fn exercise(database: &dyn Database) {
    let agent = agent(database, "transactions", SCHEMA).await;
    commit_and_rollback(database, &agent).await;
    failures(database, &agent).await;
    control_is_refused(database, &agent).await;
    statement_mode(database, &agent).await;
    concurrent_updates(database, &agent).await;
}

async fn count(database: &dyn Database, agent: &AgentName) -> i64 {
    let mut connection = open(database, agent).await;
    let count = one(&mut connection, "SELECT count(*) FROM t", &[]).await;
    connection.finish(End::Rollback).await.unwrap();
    match count {
        Value::Int64(count) => count,
        other => panic!("{other:?}"),
    }
}

async fn commit_and_rollback(database: &dyn Database, agent: &AgentName) {
    let mut connection = open(database, agent).await;
    assert_eq!(execute(&mut connection, "INSERT INTO t VALUES (1), (2)").await.unwrap(), 2);
    assert_eq!(count(database, agent).await, 0, "nothing is seen before the commit");
    connection.finish(End::Commit(None)).await.unwrap();
    assert_eq!(count(database, agent).await, 2);

    let mut connection = open(database, agent).await;
    execute(&mut connection, "INSERT INTO t VALUES (3)").await.unwrap();
    connection.finish(End::Rollback).await.unwrap();
    let mut connection = open(database, agent).await;
    execute(&mut connection, "INSERT INTO t VALUES (4)").await.unwrap();
    drop(connection);
    // The dropped one's row is not in the way of the same key, once the server has seen it go.
    let mut connection = open(database, agent).await;
    execute(&mut connection, "INSERT INTO t VALUES (4)").await.unwrap();
    connection.finish(End::Rollback).await.unwrap();
    assert_eq!(count(database, agent).await, 2);
}

async fn failures(database: &dyn Database, agent: &AgentName) {
    let mut connection = open(database, agent).await;
    execute(&mut connection, "INSERT INTO t VALUES (10)").await.unwrap();
    let error = execute(&mut connection, "INSERT INTO t VALUES (1)").await.unwrap_err();
    match &error {
        SqlError::Query(error) => {
            assert_eq!(error.sqlstate, "23505");
            assert_eq!(error.severity, "ERROR");
            assert_eq!(error.constraint.as_deref(), Some("t_pkey"));
            assert_eq!(error.table.as_deref(), Some("t"));
        }
        other => panic!("{other:?}"),
    }
    let error = execute(&mut connection, "SELECT 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), "25P02", "the transaction is aborted");
    let error = connection.finish(End::Commit(None)).await.unwrap_err();
    assert!(matches!(error, CommitError::Aborted(_)), "{error:?}");
    assert_eq!(count(database, agent).await, 2, "nothing of an aborted transaction is kept");

    // A failure that shows at the commit only.
    let mut connection = open(database, agent).await;
    execute(&mut connection, "INSERT INTO child VALUES (999)").await.unwrap();
    let error = connection.finish(End::Commit(None)).await.unwrap_err();
    assert!(matches!(&error, CommitError::Refused(error) if error.sqlstate == "23503"), "{error:?}");

    // One that shows while the rows are read.
    let mut connection = open(database, agent).await;
    let statement = "SELECT 1 / (5000 - n) FROM generate_series(1, 10000) AS n";
    assert_eq!(sqlstate(&rows(&mut connection, statement, &[]).await.unwrap_err()), "22012");
    connection.finish(End::Rollback).await.unwrap();

    for (statement, state) in [("SELEC 1", "42601"), ("SELECT * FROM absent", "42P01"), ("SELECT 1; SELECT 2", "42601")]
    {
        let mut connection = open(database, agent).await;
        assert_eq!(sqlstate(&execute(&mut connection, statement).await.unwrap_err()), state, "{statement}");
        connection.finish(End::Rollback).await.unwrap();
    }
}

async fn control_is_refused(database: &dyn Database, agent: &AgentName) {
    let mut connection = open(database, agent).await;
    execute(&mut connection, "INSERT INTO t VALUES (20)").await.unwrap();
    for statement in ["COMMIT", "/* */ rollback", "BEGIN", "SAVEPOINT s", "COPY t TO STDOUT", "DISCARD ALL"] {
        let error = execute(&mut connection, statement).await.unwrap_err();
        assert!(matches!(error, SqlError::Denied(_)), "{statement}: {error:?}");
        let error = rows(&mut connection, statement, &[]).await.unwrap_err();
        assert!(matches!(error, SqlError::Denied(_)), "{statement}: {error:?}");
    }
    // Not by way of code that runs in the server either.
    let error = execute(&mut connection, "DO $$ BEGIN COMMIT; END $$").await.unwrap_err();
    assert_eq!(sqlstate(&error), "2D000");
    connection.finish(End::Rollback).await.unwrap();
    assert_eq!(count(database, agent).await, 2);
}

async fn statement_mode(database: &dyn Database, agent: &AgentName) {
    let mut connection = database.open(agent, TransactionMode::Statement, TIMEOUT).await.unwrap();
    execute(&mut connection, "INSERT INTO t VALUES (30)").await.unwrap();
    assert_eq!(count(database, agent).await, 3, "each statement commits by itself");
    assert_eq!(sqlstate(&execute(&mut connection, "INSERT INTO t VALUES (30)").await.unwrap_err()), "23505");
    assert_eq!(execute(&mut connection, "DELETE FROM t WHERE n = 30").await.unwrap(), 1);
    connection.finish(End::Commit(None)).await.unwrap();
    assert_eq!(count(database, agent).await, 2);
}

async fn concurrent_updates(database: &dyn Database, agent: &AgentName) {
    // More tasks than connections: they wait for each other and none is lost.
    let tasks = (0..60).map(|_| async {
        let mut connection = open(database, agent).await;
        execute(&mut connection, "UPDATE counter SET n = n + 1").await.unwrap();
        connection.finish(End::Commit(None)).await.unwrap();
    });
    join_all(tasks).await;
    let mut connection = open(database, agent).await;
    assert_eq!(one(&mut connection, "SELECT n FROM counter", &[]).await, Value::Int32(60));
    connection.finish(End::Commit(None)).await.unwrap();
    let counts = database.connections();
    assert_eq!(counts.used, 0, "{counts:?}");
    assert!((1..=counts.max).contains(&counts.idle), "{counts:?}");
}
