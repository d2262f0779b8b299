//! The database port over a PostgreSQL server, through sqlx.
//!
//! Each agent has its own login role, named after the installation and the agent (roles are cluster-wide), its own schema,
//! and its own few connections, opened when they are needed and kept open. There is no statement on the hot path but the
//! agent's own, `BEGIN` and `COMMIT`: no ping before or after, statements prepared once per connection, and the reset of
//! the connection's state travels with the commit.

mod codec;
mod connection;
mod kept;
mod pool;
mod provision;
mod running;
mod statement;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgMessageTooLarge, PgNoMessageRoom, PgPoolOptions, PgTypeTooDeep};
use sqlx::{ConnectOptions as _, PgPool};

use self::connection::PostgresConnection;
use self::pool::{AgentPool, Slots};
use self::provision::Installation;
use super::{ConnectionCounts, Database, DbError, ERROR_TEXT_BYTES_MAX, MESSAGE_BYTES_MAX};
use super::{ProvisionError, SqlConnection, SqlError};
use crate::capability::{Cause, log};
use crate::catalog::Migration;
use crate::manifest::{SqlGrant, TransactionMode};
use crate::memory::NoRoom;
use crate::task::AgentName;

/// Connections of the host's own role: one to provision, one to stop statements whose task is gone.
const ADMIN_CONNECTIONS_MAX: u32 = 2;
/// How long a new connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most connections in the names of agents, over all agents of one host, unless told otherwise.
const CONNECTIONS_MAX: usize = 16;
/// Connections that one host has in its own name beside agents': records, catalog, provisioning.
const OWN_CONNECTIONS: usize = 12;
/// How long a host that ends waits for the statements of tasks that it has stopped to be gone at the server.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How a server is used.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Where it is, and the host's own role: one that may create roles and schemas.
    pub options: PgConnectOptions,
    /// Most connections in the names of agents, over all agents of this host: 16, for PostgreSQL allows 100 by default, for
    /// all hosts of a fleet and everyone else. Fewer where the server allows fewer.
    pub connections_max: usize,
    /// Most of those for one agent: half, so that one agent cannot hold off the others.
    pub connections_per_agent_max: usize,
    /// How long a task waits for a connection while all are in use.
    pub acquire_timeout: Duration,
    /// Whether the records of tasks are kept in the same database: then the end of a task is part of its transaction.
    pub keeps_records: bool,
}

impl PostgresConfig {
    /// A server by its URL (`postgres://user:password@host/database`), with the default limits.
    ///
    /// # Errors
    /// The text is no PostgreSQL URL.
    pub fn parse(url: &str) -> Result<Self, ProvisionError> {
        let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| ProvisionError::Unavailable {
            what: "DATABASE_URL is not a PostgreSQL URL: expected postgres://user:password@host[:port]/database",
            source: error.into(),
        })?;
        Ok(Self::new(options))
    }

    /// A server by its connect options, with the default limits.
    #[must_use]
    pub fn new(options: PgConnectOptions) -> Self {
        Self {
            // The statement that makes a role has its password in it, and a slow statement is logged as a warning.
            options: options.disable_statement_logging(),
            connections_max: CONNECTIONS_MAX,
            connections_per_agent_max: CONNECTIONS_MAX / 2,
            acquire_timeout: Duration::from_secs(5),
            keeps_records: false,
        }
    }

    /// With at most so many connections in the names of agents, and half as many for one of them.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self { connections_max, connections_per_agent_max: (connections_max / 2).max(1), ..self }
    }
}

/// A PostgreSQL server with a schema and a login role for each agent.
pub struct Postgres {
    admin: PgPool,
    config: PostgresConfig,
    installation: Installation,
    slots: Arc<Slots>,
    pools: RwLock<HashMap<AgentName, Arc<AgentPool>>>,
}

impl Postgres {
    /// Connects with the host's own role and makes sure that its schema `agent_host` has what this module keeps there.
    ///
    /// # Errors
    /// The server cannot be reached, or the role may not create the schema.
    pub async fn connect(mut config: PostgresConfig) -> Result<Self, ProvisionError> {
        // What other roles may have made outside of `pg_catalog` is not for the host to find; and the driver would log its
        // statements, passwords of agents included.
        config.options = config
            .options
            .options([("search_path", "pg_catalog")])
            .message_bytes_max(MESSAGE_BYTES_MAX)
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(ADMIN_CONNECTIONS_MAX)
            .acquire_timeout(CONNECT_TIMEOUT)
            .test_before_acquire(true);
        let unreachable = |error: sqlx::Error| ProvisionError::Unavailable {
            what: "no connection to PostgreSQL could be made: check DATABASE_URL and that the server runs",
            source: error.into(),
        };
        let admin = pool.connect_with(config.options.clone()).await.map_err(unreachable)?;
        config.connections_max =
            config.connections_max.min(connections_allowed(&admin, config.connections_max).await.map_err(unreachable)?);
        let installation = provision::install(&admin, &config.options).await?;
        let slots = Arc::new(Slots::new(config.connections_max));
        slots.look_after_idle();
        Ok(Self { admin, config, installation, slots, pools: RwLock::default() })
    }

    fn pool(&self, agent: &AgentName) -> Option<Arc<AgentPool>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).get(agent).map(Arc::clone)
    }

    fn pool_or_new(&self, agent: &AgentName) -> Arc<AgentPool> {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let login = self.installation.login(agent);
            let end_task = self.config.keeps_records.then(|| self.installation.end_task());
            AgentPool::new(login, &self.config, self.admin.clone(), end_task, Arc::clone(&self.slots))
        };
        Arc::clone(pools.entry(agent.clone()).or_insert_with(made))
    }
}

#[async_trait::async_trait]
impl Database for Postgres {
    async fn provision(
        &self,
        agent: &AgentName,
        _grants: &[SqlGrant],
        migrations: &[Migration],
    ) -> Result<(), ProvisionError> {
        let login = self.installation.login(agent);
        let changed = provision::provision(&self.admin, &self.config, &login, migrations).await?;
        let pool = self.pool_or_new(agent);
        if changed {
            // Statements prepared against the old tables would fail on the new ones.
            pool.retire_idle();
        }
        Ok(())
    }

    async fn open(
        &self,
        agent: &AgentName,
        mode: TransactionMode,
        statement_timeout: Duration,
    ) -> Result<Box<dyn SqlConnection>, SqlError> {
        let pool = self.pool(agent).ok_or_else(|| SqlError::Unavailable {
            what: "the agent's schema is not ready on this host".into(),
            source: format!("{agent} was not provisioned").into(),
        })?;
        Ok(Box::new(PostgresConnection::open(pool, mode, statement_timeout).await?))
    }

    fn connections(&self) -> ConnectionCounts {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let idle = pools.values().map(|pool| pool.idle()).sum();
        let (open, max) = self.slots.open_and_max();
        ConnectionCounts { used: open.saturating_sub(idle), idle, max }
    }

    async fn close(&self) {
        self.slots.close();
        let pools: Vec<_> = {
            let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
            pools.drain().map(|(_, pool)| pool).collect()
        };
        for pool in pools {
            pool.retire_idle();
        }
        // Statements of tasks that were stopped are being ended through `admin`.
        let _ = tokio::time::timeout(END_TIMEOUT, self.slots.all_free()).await;
        self.admin.close().await;
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the options: they hold the password.
        f.debug_struct("Postgres").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

/// How many connections a host may open in the names of agents: what the server allows, less the host's own.
async fn connections_allowed(admin: &PgPool, wanted: usize) -> Result<usize, sqlx::Error> {
    let allowed: i32 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int",
    )
    .fetch_one(admin)
    .await?;
    let left = usize::try_from(allowed).unwrap_or_default().saturating_sub(OWN_CONNECTIONS).max(1);
    if left < wanted {
        tracing::warn!(
            max_connections = allowed,
            agents = left,
            "PostgreSQL allows few connections: agents wait for them"
        );
    }
    Ok(left)
}

/// What a failure of the driver means to an agent. One that ended the session ([`DbError::ended_session`]) may have been
/// the server's end as well: see `connection::told`.
fn lowered(error: sqlx::Error) -> SqlError {
    match error {
        sqlx::Error::Database(database) if !is_the_servers(&*database) => SqlError::Query(Box::new(db_error(database))),
        sqlx::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<PgNoMessageRoom>()) => NoRoom.into(),
        sqlx::Error::Io(error) => match limit_in(&error) {
            Some(text) => SqlError::LimitExceeded(text),
            None => unreachable_database(error.into()),
        },
        // What PostgreSQL said was not understood. The agent makes it say so: with another `client_encoding`, or with
        // operators of its own for the driver's questions about a type. Not a host's failure, which would be tried again
        // without end.
        sqlx::Error::Protocol(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::RowNotFound
        | sqlx::Error::TypeNotFound { .. } => {
            let text = log::escaped(&error.to_string(), ERROR_TEXT_BYTES_MAX);
            SqlError::Conversion(format!("the answer of PostgreSQL could not be read: {text}"))
        }
        other => unreachable_database(other.into()),
    }
}

fn unreachable_database(source: Cause) -> SqlError {
    SqlError::Unavailable { what: "the connection to the database broke".into(), source }
}

/// The cap of the driver's that this is.
fn limit_in(error: &std::io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    if let Some(error) = inner.downcast_ref::<PgMessageTooLarge>() {
        let (bytes, max) = (error.message_bytes, error.message_bytes_max);
        return Some(format!("a row (or an error) of {bytes} bytes: at most {max}"));
    }
    inner.downcast_ref::<PgTypeTooDeep>().map(ToString::to_string)
}

/// Whether the server is at its end with this, and not the agent: a crash, no slot, no connection (`57P02` and on, 53300,
/// class 08). `57P01`, an operator's order, is one that agents can give too.
fn is_the_servers(error: &dyn sqlx::error::DatabaseError) -> bool {
    error
        .code()
        .is_some_and(|code| ["57P02", "57P03", "57P04", "53300"].contains(&code.as_ref()) || code.starts_with("08"))
}

fn db_error(error: Box<dyn sqlx::error::DatabaseError>) -> DbError {
    let text = |text: &str| {
        let end = text.floor_char_boundary(ERROR_TEXT_BYTES_MAX);
        text.get(..end).unwrap_or_default().to_owned()
    };
    match error.try_downcast::<sqlx::postgres::PgDatabaseError>() {
        Ok(error) => DbError {
            sqlstate: error.code().to_owned(),
            severity: format!("{:?}", error.severity()).to_ascii_uppercase(),
            message: text(error.message()),
            detail: error.detail().map(text),
            table: error.table().map(text),
            column: error.column().map(text),
            constraint: error.constraint().map(text),
        },
        // The driver is PostgreSQL's, so this does not happen; `XX000` is its "internal error".
        Err(other) => DbError {
            sqlstate: "XX000".to_owned(),
            severity: "ERROR".to_owned(),
            message: text(other.message()),
            detail: None,
            table: None,
            column: None,
            constraint: None,
        },
    }
}
