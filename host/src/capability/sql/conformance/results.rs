//! Streaming, buffering and the caps, as a session has them.

use std::sync::Arc;

use super::{Value, agent};
use crate::capability::SessionPlan;
use crate::capability::outbound_http::{MemoryNetwork, Outbound};
use crate::capability::sql::session::{Reach, SqlSession};
use crate::capability::sql::{CommitError, Database, ERROR_TEXT_BYTES_MAX, End, RESULT_BYTES_MAX, Row, SqlError};
use crate::manifest::Manifest;
use crate::task::AgentName;

const ROWS_MAX: u32 = 20_000;

pub(super) async fn exercise(database: &dyn Database) {
    let agent =
        agent(database, "results", "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 5000)").await;
    let task = plan(&agent, "task");
    streaming(database, &task).await;
    interleaving(database, &task).await;
    caps(database, &task).await;
    before_they_are_read(database, &task).await;
    statements_are_forgotten(database, &task).await;
    caps_by_statement(database, &plan(&agent, "statement")).await;
}

fn plan(agent: &AgentName, mode: &str) -> SessionPlan {
    let manifest = format!(
        "manifest_version = 1\n[agent]\nname = \"{agent}\"\nmodule = \"a.wasm\"\n[effects]\ntransaction = \"{mode}\"\n\
         [grants]\nsql = [{{ name = \"main\", max_rows = {ROWS_MAX}, statement_timeout = \"20s\" }}]\n"
    );
    let outbound = Arc::new(Outbound::new(Arc::new(MemoryNetwork::default())));
    SessionPlan::new(agent.clone(), 1, Arc::new(Manifest::parse(&manifest).unwrap()), Arc::default(), outbound)
}

fn reach<'a>(database: &'a dyn Database, plan: &'a SessionPlan) -> Reach<'a> {
    Reach { database, plan, grant: &plan.manifest().grants.sql[0] }
}

async fn rest(session: &mut SqlSession, id: u64, max: u32) -> Result<Vec<Row>, SqlError> {
    let mut all = Vec::new();
    loop {
        let rows = session.next(id, max).await?;
        if rows.is_empty() {
            return Ok(all);
        }
        assert!(rows.len() <= usize::try_from(max.max(1)).unwrap());
        all.extend(rows);
    }
}

async fn streaming(database: &dyn Database, plan: &SessionPlan) {
    let mut session = SqlSession::default();
    for (max, count) in [(0, 3), (7, 1_000), (u32::MAX, 5_000)] {
        let statement = format!("SELECT n FROM t WHERE n <= {count} ORDER BY n");
        let (id, columns) = session.query(reach(database, plan), &statement, &[]).await.unwrap();
        assert_eq!(columns.len(), 1);
        let rows = rest(&mut session, id, max).await.unwrap();
        let expected: Vec<Row> = (1..=count).map(|n| vec![Value::Int32(n)]).collect();
        assert_eq!(rows, expected);
        assert_eq!(session.next(id, 1).await.unwrap(), Vec::<Row>::new(), "the end stays the end");
        session.forget(id);
    }
    session.finish(End::Commit(None)).await.unwrap();
}

async fn interleaving(database: &dyn Database, plan: &SessionPlan) {
    let mut session = SqlSession::default();
    let (one, _) = session.query(reach(database, plan), "SELECT n FROM t ORDER BY n", &[]).await.unwrap();
    let first = session.next(one, 1).await.unwrap();
    // A second result and a change while the first is not read to its end.
    let (other, _) = session.query(reach(database, plan), "SELECT -n FROM t ORDER BY n", &[]).await.unwrap();
    assert_eq!(session.execute(reach(database, plan), "DELETE FROM t", &[]).await.unwrap(), 5_000);
    assert_eq!(first.len() + rest(&mut session, one, 100).await.unwrap().len(), 5_000);
    // A cursor that is dropped early is in nobody's way.
    session.next(other, 1).await.unwrap();
    session.forget(other);
    let (third, _) = session.query(reach(database, plan), "SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(rest(&mut session, third, 1).await.unwrap(), vec![vec![Value::Int64(0)]]);
    session.finish(End::Rollback).await.unwrap();

    // Dropped while it streams, and then committed.
    let mut session = SqlSession::default();
    session.execute(reach(database, plan), "INSERT INTO t VALUES (0)", &[]).await.unwrap();
    let (id, _) = session.query(reach(database, plan), "SELECT n FROM t", &[]).await.unwrap();
    session.forget(id);
    session.finish(End::Commit(None)).await.unwrap();
    let mut session = SqlSession::default();
    assert_eq!(session.execute(reach(database, plan), "DELETE FROM t WHERE n = 0", &[]).await.unwrap(), 1);
    session.finish(End::Commit(None)).await.unwrap();
}

async fn caps(database: &dyn Database, plan: &SessionPlan) {
    let wide = format!("SELECT repeat('x', 100000) FROM generate_series(1, {})", RESULT_BYTES_MAX / 100_000 + 10);
    let long = format!("SELECT n FROM generate_series(1, {}) AS n", ROWS_MAX + 1);
    let endless = "SELECT generate_series(1, 1000000000)";
    for statement in [wide.as_str(), &long, endless] {
        let mut session = SqlSession::default();
        session.execute(reach(database, plan), "INSERT INTO t VALUES (-1)", &[]).await.unwrap();
        let (id, _) = session.query(reach(database, plan), statement, &[]).await.unwrap();
        // Taken as it comes, only the number of rows and their bytes together can be too many.
        let error = rest(&mut session, id, 1_000).await.unwrap_err();
        assert!(matches!(error, SqlError::LimitExceeded(_)), "{error:?}");
        // Not as the host's failure, which would be tried again without end.
        let error = session.execute(reach(database, plan), "SELECT 1", &[]).await.unwrap_err();
        assert!(matches!(error, SqlError::LimitExceeded(_)), "{error:?}");
        let error = session.finish(End::Commit(None)).await.unwrap_err();
        assert!(matches!(error, CommitError::Aborted(_)), "{error:?}");
    }
    // Exactly as many rows as allowed are no fault.
    let mut session = SqlSession::default();
    let exact = format!("SELECT n FROM generate_series(1, {ROWS_MAX}) AS n");
    let (id, _) = session.query(reach(database, plan), &exact, &[]).await.unwrap();
    assert_eq!(rest(&mut session, id, 4_096).await.unwrap().len(), usize::try_from(ROWS_MAX).unwrap());
    let (id, _) = session.query(reach(database, plan), "SELECT count(*) FROM t WHERE n = -1", &[]).await.unwrap();
    assert_eq!(rest(&mut session, id, 1).await.unwrap(), vec![vec![Value::Int64(0)]], "nothing was committed");
    session.finish(End::Commit(None)).await.unwrap();

    let mut session = SqlSession::default();
    let statement = format!("SELECT '{}'", "x".repeat(super::super::STATEMENT_BYTES_MAX));
    let error = session.execute(reach(database, plan), &statement, &[]).await.unwrap_err();
    assert!(matches!(error, SqlError::LimitExceeded(_)), "{error:?}");
    session.finish(End::Commit(None)).await.unwrap();
}

/// What is far larger than it may be is not read, or not made of what was read.
async fn before_they_are_read(database: &dyn Database, plan: &SessionPlan) {
    let types = "DO $$ BEGIN CREATE TYPE level0 AS (n int); FOR i IN 1..40 LOOP \
                 EXECUTE format('CREATE TYPE level%s AS (n level%s)', i, i - 1); END LOOP; END $$";
    let statements = [
        "SELECT repeat('x', 500000000)",
        "SELECT n, repeat('x', 9000000) FROM generate_series(1, 3) AS n",
        "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 500000000); END $$",
        "SELECT array_agg(1e131071::numeric) FROM generate_series(1, 100000)",
        "SELECT array_agg(NULL::text) FROM generate_series(1, 2000000)",
        "SELECT NULL::level40",
    ];
    for statement in statements {
        let mut session = SqlSession::default();
        session.execute(reach(database, plan), types, &[]).await.unwrap();
        let error = match session.query(reach(database, plan), statement, &[]).await {
            Ok((id, _)) => rest(&mut session, id, 1).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(error, SqlError::LimitExceeded(_)), "{statement}: {error:?}");
        let error = session.finish(End::Commit(None)).await.unwrap_err();
        assert!(matches!(error, CommitError::Aborted(_)), "{statement}: {error:?}");
    }
    let mut session = SqlSession::default();
    let many = "SELECT generate_series(1, 1000000)";
    let error = session.execute(reach(database, plan), many, &[]).await.unwrap_err();
    assert!(matches!(error, SqlError::LimitExceeded(_)), "{error:?}");
    session.finish(End::Rollback).await.unwrap();
    // An error is told, but not in any length.
    let mut session = SqlSession::default();
    let long = "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 1000000); END $$";
    let Err(SqlError::Query(error)) = session.execute(reach(database, plan), long, &[]).await else { panic!() };
    assert_eq!(error.message.len(), ERROR_TEXT_BYTES_MAX);
    session.finish(End::Rollback).await.unwrap();
}

/// More statements than are kept, and larger ones, and each of them again.
async fn statements_are_forgotten(database: &dyn Database, plan: &SessionPlan) {
    let mut session = SqlSession::default();
    let blanks = " ".repeat(100_000);
    for round in 0..2 {
        for number in 0..150 {
            let padding = if number % 10 == 0 { blanks.as_str() } else { "" };
            let statement = format!("SELECT {number}{padding}");
            let (id, _) = session.query(reach(database, plan), &statement, &[]).await.unwrap();
            let rows = rest(&mut session, id, 1).await.unwrap();
            assert_eq!(rows, vec![vec![Value::Int32(number)]], "round {round}");
            session.forget(id);
        }
        let held = "SELECT count(*) < 100 AND sum(length(statement)) < 2000000 FROM pg_prepared_statements";
        let (id, _) = session.query(reach(database, plan), held, &[]).await.unwrap();
        assert_eq!(rest(&mut session, id, 1).await.unwrap(), vec![vec![Value::Boolean(true)]]);
    }
    session.finish(End::Commit(None)).await.unwrap();
}

async fn caps_by_statement(database: &dyn Database, plan: &SessionPlan) {
    let mut session = SqlSession::default();
    session.execute(reach(database, plan), "INSERT INTO t VALUES (-2)", &[]).await.unwrap();
    let endless = "SELECT generate_series(1, 1000000000)";
    let (id, _) = session.query(reach(database, plan), endless, &[]).await.unwrap();
    assert!(matches!(rest(&mut session, id, 1_000).await, Err(SqlError::LimitExceeded(_))));
    // What committed by itself stays, and the session goes on with another connection.
    let deleted = session.execute(reach(database, plan), "DELETE FROM t WHERE n = -2", &[]).await.unwrap();
    assert_eq!(deleted, 1);
    session.finish(End::Commit(None)).await.unwrap();
}
