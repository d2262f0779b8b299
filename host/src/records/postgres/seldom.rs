//! Few connections for what is rare: cancelling, dead letters, messages left behind.

use sqlx::{PgConnection, PgPool};

use super::link::STATEMENT_TIMEOUT;
use crate::store::HostDatabase;

/// Enough that one statement which waits for a lock does not keep everything else waiting.
const CONNECTIONS_MAX: u32 = 2;

#[derive(Debug)]
pub(super) struct Seldom {
    pool: PgPool,
}

impl Seldom {
    pub(super) fn new(database: &HostDatabase) -> Self {
        Self { pool: database.pool(CONNECTIONS_MAX) }
    }

    /// Runs statements on one of the connections, within the time that a statement has.
    pub(super) async fn run<T>(
        &self,
        statements: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        // Bounded by the pool itself.
        let mut connection = self.pool.acquire().await?;
        let Ok(done) = tokio::time::timeout(STATEMENT_TIMEOUT, statements(&mut connection)).await else {
            // Given back, it would first be asked whether it is well, for as long as it says nothing.
            drop(connection.detach());
            let text = format!("the database did not answer within {} s", STATEMENT_TIMEOUT.as_secs());
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text).into());
        };
        done
    }
}
