//! The lock under which anything in the schema `agent_host` is made, here and for agents.
//!
//! It is on a table of the host's. An advisory lock would do for hosts, but every role can take those and keep them, so that
//! one agent could keep hosts from starting.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

/// Makes what the lock is on. Not with "if not exists" alone: that needs the right to create schemas also where the schema is
/// there already.
const MAKE: &str = "\
    DO $$ BEGIN \
        IF to_regnamespace('agent_host') IS NULL THEN CREATE SCHEMA agent_host; END IF; \
        IF to_regclass('agent_host.lock') IS NULL THEN CREATE TABLE agent_host.lock (); END IF; \
    END $$";
/// Conflicts with itself, and not with readers such as `pg_dump`.
const TAKE: &str = "LOCK TABLE agent_host.lock IN SHARE UPDATE EXCLUSIVE MODE";
/// "Duplicate schema", "duplicate table", and the violated index behind either.
const MADE_MEANWHILE: [&str; 3] = ["42P06", "42P07", "23505"];

/// Held until it is released, or its connection ends.
pub(crate) struct SchemaLock {
    connection: PgConnection,
}

impl SchemaLock {
    /// Waits for the lock, on a connection of its own.
    pub(crate) async fn take(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = options.connect().await?;
        if let Err(error) = connection.execute(MAKE).await {
            let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
            if !code.is_some_and(|code| MADE_MEANWHILE.contains(&code.as_str())) {
                return Err(error);
            }
        }
        connection.execute("BEGIN").await?;
        connection.execute(TAKE).await?;
        Ok(Self { connection })
    }

    /// Lets others have it.
    pub(crate) async fn release(self) {
        // The end of the connection ends its transaction, whether the goodbye reaches the server or not.
        let _ = self.connection.close().await;
    }
}
