//! The rules of [`Database`], as a suite that every server is run through.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite, compiled only for tests; a broken rule is told by a panic"
)]

mod isolation;
mod results;
mod transactions;
mod values;

use std::time::Duration;

use super::{Column, Database, End, ProvisionError, Row, SqlConnection, SqlError, Value};
use crate::catalog::Migration;
use crate::manifest::TransactionMode;
use crate::task::AgentName;

/// Longer than any statement here takes.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What is waited at most for a state that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the suite. Each run has agents of its own, so it can be run at a server that is in use.
pub async fn exercise(database: &dyn Database) {
    migrations(database).await;
    values::exercise(database).await;
    transactions::exercise(database).await;
    results::exercise(database).await;
    isolation::exercise(database).await;
}

/// An agent of one part of the suite, with its schema made by these statements.
async fn agent(database: &dyn Database, part: &str, schema: &str) -> AgentName {
    let name = unique(part);
    database.provision(&name, &[], &[migration("0001_create.sql", schema)]).await.unwrap();
    name
}

fn unique(part: &str) -> AgentName {
    let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
    AgentName::parse(&format!("conformance-{part}-{id}")).unwrap()
}

fn migration(name: &str, sql: &str) -> Migration {
    Migration { name: name.to_owned(), sql: sql.to_owned() }
}

async fn open(database: &dyn Database, agent: &AgentName) -> Box<dyn SqlConnection> {
    database.open(agent, TransactionMode::Task, TIMEOUT).await.unwrap()
}

async fn execute(connection: &mut Box<dyn SqlConnection>, statement: &str) -> Result<u64, SqlError> {
    connection.execute(statement, &[], TIMEOUT).await
}

/// All rows of a query.
async fn rows(
    connection: &mut Box<dyn SqlConnection>,
    statement: &str,
    parameters: &[Value],
) -> Result<(Vec<Column>, Vec<Row>), SqlError> {
    let columns = connection.query(statement, parameters, TIMEOUT).await?;
    let mut all = Vec::new();
    while connection.is_streaming() {
        all.extend(connection.next_rows().await?.unwrap_or_default().rows);
    }
    Ok((columns, all))
}

/// The one value of a query.
async fn one(connection: &mut Box<dyn SqlConnection>, statement: &str, parameters: &[Value]) -> Value {
    let (_, rows) = rows(connection, statement, parameters).await.unwrap();
    assert_eq!(rows.len(), 1, "{statement}");
    rows[0][0].clone()
}

fn sqlstate(error: &SqlError) -> &str {
    match error {
        SqlError::Query(error) => &error.sqlstate,
        other => panic!("expected PostgreSQL to refuse it, not {other:?}"),
    }
}

async fn migrations(database: &dyn Database) {
    let name = unique("migrations");
    let first = migration("0001_a.sql", "CREATE TABLE a (n int); INSERT INTO a VALUES (1);");
    let second = migration("0002_b.sql", "INSERT INTO a VALUES (2); CREATE TABLE b (n int);");
    let broken = migration("0003_c.sql", "INSERT INTO a VALUES (3); SELECT nothing_of_this_name;");

    // Hosts that deploy together apply each migration once.
    let both = [first.clone(), second.clone()];
    let together = futures::future::join_all((0..4).map(|_| database.provision(&name, &[], &both))).await;
    for result in together {
        result.unwrap();
    }
    let sum = async || {
        let mut connection = open(database, &name).await;
        let sum = one(&mut connection, "SELECT sum(n) FROM a", &[]).await;
        connection.finish(End::Commit(None)).await.unwrap();
        sum
    };
    assert_eq!(sum().await, Value::Int64(3));

    let error = database.provision(&name, &[], &[first.clone(), second.clone(), broken]).await.unwrap_err();
    assert!(matches!(&error, ProvisionError::Migration { name, .. } if name == "0003_c.sql"), "{error:?}");
    assert_eq!(sum().await, Value::Int64(3), "nothing of a failed migration is kept");

    let changed = migration("0001_a.sql", "CREATE TABLE a (n bigint);");
    let error = database.provision(&name, &[], &[changed]).await.unwrap_err();
    assert!(matches!(&error, ProvisionError::Changed { name } if name == "0001_a.sql"), "{error:?}");

    // The mended one is applied, also to connections that have prepared statements on the old tables.
    let mended = migration("0003_c.sql", "ALTER TABLE a ALTER COLUMN n TYPE numeric; INSERT INTO a VALUES (3);");
    database.provision(&name, &[], &[first, second, mended]).await.unwrap();
    assert_eq!(sum().await, Value::Decimal("6".to_owned()));
}
