//! The capabilities against real servers, at `DATABASE_URL` and `REDIS_URL`.

#![expect(clippy::unwrap_used, reason = "a test helper, outside of what clippy takes for a test")]

use agent_host::capability::cache::{self, RedisCache};
use agent_host::capability::key_value::{self, RedisKeyValue};
use agent_host::capability::redis::RedisConnections;
use agent_host::capability::sql::{self, Database, Postgres, PostgresConfig};

/// The value of a variable. A test that cannot run says what is missing; it is not skipped.
fn url(variable: &str) -> String {
    let missing = format!("{variable} is not set: run `cargo xtask test`, or set it to a server's URL");
    std::env::var(variable).ok().ok_or(missing).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_keeps_the_rules_of_sql() {
    let database = Postgres::connect(PostgresConfig::parse(&url("DATABASE_URL")).unwrap()).await.unwrap();
    sql::conformance::exercise(&database).await;
    database.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_the_rules_of_key_value() {
    let connections = RedisConnections::connect(&url("REDIS_URL")).await.unwrap();
    key_value::conformance::exercise(&RedisKeyValue::new(connections)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_keeps_the_rules_of_the_cache() {
    let connections = RedisConnections::connect(&url("REDIS_URL")).await.unwrap();
    cache::conformance::exercise(&RedisCache::new(connections)).await;
}
