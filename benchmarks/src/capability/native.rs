//! The native clients, used as their documentation shows it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use deadpool_redis::redis;
use sqlx::PgPool;

use super::Call;

/// The statement of both sides: what it costs the database is least, what it costs to call is what remains.
pub(super) const STATEMENT: &str = "SELECT 1";
/// The counter.
const KEY: &str = "benchmark:calls";

/// Pools of both.
pub(super) struct Native {
    database: PgPool,
    redis: deadpool_redis::Pool,
}

impl Native {
    pub(super) async fn connect(database: &str, redis: &str) -> Result<Self> {
        let database = PgPool::connect(database).await.context("connecting to PostgreSQL")?;
        let pool = deadpool_redis::Config::from_url(redis).create_pool(Some(deadpool_redis::Runtime::Tokio1))?;
        Ok(Self { database, redis: pool })
    }

    /// How long so many calls take.
    pub(super) async fn took(&mut self, call: Call, calls: u32) -> Result<Duration> {
        match call {
            // In a transaction, as an agent's are.
            Call::Sql => {
                let mut transaction = self.database.begin().await?;
                let begun = Instant::now();
                for _ in 0..calls {
                    sqlx::query(STATEMENT).execute(&mut *transaction).await?;
                }
                let took = begun.elapsed();
                transaction.commit().await?;
                Ok(took)
            }
            Call::KeyValue | Call::Cache => {
                let mut connection = self.redis.get().await.context("connecting to Redis")?;
                let begun = Instant::now();
                for _ in 0..calls {
                    let _count: i64 = redis::cmd("INCRBY").arg(KEY).arg(1).query_async(&mut connection).await?;
                }
                Ok(begun.elapsed())
            }
        }
    }
}
