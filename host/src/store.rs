//! The host's own database: where task records and the catalog of agents live, in the schema `agent_host`.
//!
//! Opening it brings the schema up to date, under a lock, so that the hosts of a fleet may all start at once. What is
//! used per task takes a connection of its own and keeps it: a pooled one costs round trips of health checks per query.

mod lock;

pub(crate) use lock::SchemaLock;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

/// How long opening one connection may take before it counts as unreachable; a local or near server needs milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a starting host waits for others that are migrating, and then for its own migrations.
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(120);

/// Most bytes of one message of the server, which is one row or one error: the largest row is a module of 128 MiB in the
/// catalog, or a dead letter with a body as large as RabbitMQ takes, which is as much.
const MESSAGE_BYTES_MAX: usize = 160 << 20;

/// Why the host's own database cannot be used. Holds no credentials.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is none.
    #[error(
        "the database URL cannot be read: expected postgres://user:password@server:5432/database, \
         with ?host=/folder for a unix socket"
    )]
    Url(#[source] sqlx::Error),
    /// The server is away or refuses the connection.
    #[error("the database cannot be reached: check that it runs, and the URL's server, user and database")]
    Connect(#[source] sqlx::Error),
    /// The server did not answer.
    #[error("the database did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The schema could not be made or brought up to date.
    #[error("the schema agent_host cannot be brought up to date: its user must own it, or be allowed to create it")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}

/// The host's own database, up to date. Cloning it shares nothing but the address.
#[derive(Clone)]
pub struct HostDatabase {
    options: PgConnectOptions,
    lock_timeout: Option<Duration>,
}

impl HostDatabase {
    /// Reads the URL, connects, and brings the schema `agent_host` up to date.
    ///
    /// # Errors
    /// [`StoreError`], any of them.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(StoreError::Url)?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("agent-host"),
        };
        // Statements carry what tasks carry, and are too many to log.
        let database = Self {
            options: options.disable_statement_logging().message_bytes_max(MESSAGE_BYTES_MAX),
            lock_timeout: None,
        };
        let mut connection = database.connect().await?;
        let migrating = async {
            let lock = SchemaLock::take(&database.options).await?;
            migrate(&mut connection).await?;
            lock.release().await;
            Ok(())
        };
        match tokio::time::timeout(MIGRATE_TIMEOUT, migrating).await {
            Ok(migrated) => migrated.map_err(StoreError::Migrate)?,
            Err(_) => return Err(StoreError::Timeout(MIGRATE_TIMEOUT)),
        }
        // Whether the goodbye reaches the server does not matter.
        let _ = connection.close().await;
        Ok(database)
    }

    /// The same, whose connections wait no longer for a row that another transaction holds: the statement then fails with
    /// SQLSTATE 55P03.
    #[must_use]
    pub fn with_lock_timeout(&self, lock_timeout: Duration) -> Self {
        Self { options: self.options.clone(), lock_timeout: Some(lock_timeout) }
    }

    /// Opens a connection for the caller to keep, whose unqualified names are those of the schema `agent_host`.
    ///
    /// # Errors
    /// [`StoreError::Connect`] or [`StoreError::Timeout`].
    pub async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connecting = async {
            let mut connection = self.options.connect().await?;
            prepare(&mut connection, self.lock_timeout).await?;
            connection.execute(KEEP_PLANS).await?;
            Ok(connection)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(StoreError::Connect),
            Err(_) => Err(StoreError::Timeout(CONNECT_TIMEOUT)),
        }
    }

    /// A pool for what is rare, such as deployments. Its connections open when they are first needed.
    #[must_use]
    pub fn pool(&self, connections_max: u32) -> PgPool {
        let lock_timeout = self.lock_timeout;
        PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| Box::pin(prepare(connection, lock_timeout)))
            .connect_lazy_with(self.options.clone())
    }
}

impl std::fmt::Debug for HostDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the options: they hold the password.
        f.debug_struct("HostDatabase").field("server", &self.options.get_host()).finish_non_exhaustive()
    }
}

/// Statements on a kept connection go by keys, a few at a time, so one plan is right for all of them. Left to itself the server
/// takes ten keys for so much dearer than one that it plans anew each time: 143 µs, beside 44 to look the rows up (measured).
const KEEP_PLANS: &str = "SELECT set_config('plan_cache_mode', 'force_generic_plan', false)";

/// What every connection starts with. A record must be on disk before its message is acknowledged, so a server or role
/// whose default is to answer commits early is overruled; any stricter setting stays.
///
/// Every statement of the host's goes by a key. The server would still plan a scan of the whole table while it takes that for
/// small, and keep the plan: in the minute until a new installation's tables are first analyzed, that made looking up the ends
/// of 60,000 tasks six times as slow (measured). Where it has no choice but such a scan, it takes that for so dear that it
/// would compile it first, which takes longer than the scan: so there is no compiling either.
async fn prepare(connection: &mut PgConnection, lock_timeout: Option<Duration>) -> Result<(), sqlx::Error> {
    const SETTINGS: &str = "
        SELECT set_config('search_path', 'agent_host', false);
        SELECT set_config('enable_seqscan', 'off', false);
        SELECT set_config('jit', 'off', false);
        SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
    let mut settings = SETTINGS.to_owned();
    if let Some(lock_timeout) = lock_timeout {
        settings.push_str(&format!("; SELECT set_config('lock_timeout', '{}ms', false)", lock_timeout.as_millis()));
    }
    connection.execute(settings.as_str()).await.map(drop)
}

/// Under our own lock instead of the migrator's, which is one that agents can take.
async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::migrate::MigrateError> {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.set_locking(false);
    // A newer host of the fleet may have migrated further already; migrations only ever add.
    migrator.set_ignore_missing(true);
    migrator.run_direct(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_url_that_is_none_is_refused_without_repeating_it() {
        for url in ["", "secret", "postgres://u:secret@:99999/x", "postgres://u:secret@h/x?sslmode=secret2"] {
            let error = HostDatabase::open(url).await.unwrap_err();
            assert!(matches!(error, StoreError::Url(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("secret@"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_server_is_named_as_such_without_the_password() {
        // Port 1 is reserved and nothing listens there.
        let error = HostDatabase::open("postgres://u:secret@127.0.0.1:1/x").await.unwrap_err();
        assert!(matches!(error, StoreError::Connect(_)), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}
