//! Roles, schemas and migrations.
//!
//! What the host keeps is in its own schema `agent_host`: who it is (`sql_installation`), and which migrations were
//! applied (`sql_migrations`). A migration runs under the agent's own role, so it can do no more than the agent can, and
//! is recorded in its own transaction by a function that writes for the calling role only.
//!
//! Nothing here waits for an advisory lock: any role can take any of those, and keep it.

mod restrict;

use std::fmt::Write;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Executor, PgPool, Row};

use super::{MESSAGE_BYTES_MAX, PostgresConfig};
use crate::capability::Cause;
use crate::capability::sql::ProvisionError;
use crate::catalog::Migration;
use crate::records::EndTask;
use crate::store::SchemaLock;
use crate::task::AgentName;

/// PostgreSQL cuts identifiers after so many bytes.
const IDENTIFIER_BYTES_MAX: usize = 63;
/// How long one migration may take: enough to build an index, short enough that a deploy answers.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a session may sit in a transaction without a statement. The host ends sessions with their task, after 20
/// minutes at the latest; this is for hosts that hang.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(21 * 60);
/// Most that one session of an agent may have spilled to the server's disk, where the host's role may say so.
const TEMP_FILES_MAX: &str = "256MB";
/// Most connections of one agent's role at the server, over all hosts: eight hosts with all that one agent may have there,
/// and well below PostgreSQL's default of 100 for everyone.
const CONNECTIONS_PER_ROLE_MAX: u32 = 64;
/// How long making a role waits for a lock that somebody else holds, such as a transaction of the agent's that changes its
/// role.
const LOCK_TIMEOUT: &str = "30s";

const TABLES: &str = "\
CREATE SCHEMA IF NOT EXISTS agent_host;
CREATE TABLE IF NOT EXISTS agent_host.sql_installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id text NOT NULL,
    password_key bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS agent_host.sql_migrations (
    role text NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (role, name)
);
CREATE TABLE IF NOT EXISTS agent_host.sql_roles (
    role text PRIMARY KEY
);
CREATE OR REPLACE FUNCTION agent_host.record_migration(name text, digest text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
$$ INSERT INTO agent_host.sql_migrations (role, name, digest) VALUES (session_user, $1, $2) $$;
REVOKE ALL ON FUNCTION agent_host.record_migration(text, text) FROM PUBLIC;
";

/// Who this installation is: what tells its roles from those of another in the same cluster.
pub(super) struct Installation {
    id: String,
    password_key: Vec<u8>,
    /// Whether the server can notice by itself that a client is gone: from version 14 on.
    checks_clients: bool,
}

/// An agent's role and schema.
#[derive(Clone)]
pub(super) struct Login {
    role: String,
    schema: String,
    password: String,
    checks_clients: bool,
}

impl Installation {
    pub(super) fn end_task(&self) -> EndTask {
        EndTask::new(&self.password_key)
    }

    pub(super) fn login(&self, agent: &AgentName) -> Login {
        let role = identifier(&format!("ah_{}_", self.id), agent.as_str());
        let schema = identifier("agent_", agent.as_str());
        // Twice, as HMAC does: a hash of the key and the name alone could be continued by whoever knows one of them.
        let inner = Sha256::new().chain_update(&self.password_key).chain_update(&role).finalize();
        let outer = Sha256::new().chain_update(&self.password_key).chain_update(inner).finalize();
        Login { role, schema, password: hex(&outer), checks_clients: self.checks_clients }
    }
}

impl Login {
    /// The name of the role.
    pub(super) fn role(&self) -> &str {
        &self.role
    }

    /// Connect options of this role, at the same server. What the session starts with is said here and not in settings of
    /// the role: any role can change its own.
    pub(super) fn options(&self, server: &PgConnectOptions) -> PgConnectOptions {
        let mut settings = vec![
            ("search_path", format!("\"{}\"", self.schema)),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT.as_millis().to_string()),
            ("client_min_messages", "error".to_owned()),
        ];
        if self.checks_clients {
            // A backend notices within this time that its host is gone.
            settings.push(("client_connection_check_interval", "2s".to_owned()));
        }
        server
            .clone()
            .username(&self.role)
            .password(&self.password)
            .application_name("agent-host")
            .message_bytes_max(MESSAGE_BYTES_MAX)
            .options(settings)
            // The driver would log the statements of agents, values of theirs included.
            .disable_statement_logging()
    }

    /// Makes the role's password what it was.
    pub(super) async fn restore_password(&self, admin: &PgPool) -> Result<(), sqlx::Error> {
        let Self { role, password, .. } = self;
        tracing::warn!(role, "the password of an agent's role was changed, and is changed back");
        admin.execute(format!("ALTER ROLE \"{role}\" PASSWORD '{password}'").as_str()).await.map(drop)
    }
}

/// Makes the host's own tables, under a lock that hosts which start together share, and takes from everyone what agents are
/// not to have.
pub(super) async fn install(admin: &PgPool, server: &PgConnectOptions) -> Result<Installation, ProvisionError> {
    let failed = |error: sqlx::Error| ProvisionError::Unavailable {
        what: "the schema agent_host could not be made: the role of DATABASE_URL must be allowed to create schemas",
        source: error.into(),
    };
    let lock = SchemaLock::take(server).await.map_err(failed)?;
    let mut transaction = admin.begin().await.map_err(failed)?;
    // Notices such as "already exists, skipping" are no news.
    transaction.execute("SET LOCAL client_min_messages = warning").await.map_err(failed)?;
    transaction.execute(TABLES).await.map_err(failed)?;
    let random = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let key: Vec<u8> = random.iter().flat_map(|part| *part.as_bytes()).collect();
    let id: String = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
    sqlx::query("INSERT INTO agent_host.sql_installation (id, password_key) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(id)
        .bind(key)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    let row = sqlx::query(
        "SELECT id, password_key, current_setting('server_version_num')::int >= 140000 AS checks_clients \
         FROM agent_host.sql_installation",
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(failed)?;
    let installation = Installation {
        id: row.try_get("id").map_err(failed)?,
        password_key: row.try_get("password_key").map_err(failed)?,
        checks_clients: row.try_get("checks_clients").map_err(failed)?,
    };
    transaction.commit().await.map_err(failed)?;
    restrict::everyone(admin).await.map_err(failed)?;
    lock.release().await;
    Ok(installation)
}

/// Brings an agent's role, schema and tables up to date. Answers whether a migration was applied.
pub(super) async fn provision(
    admin: &PgPool,
    config: &PostgresConfig,
    login: &Login,
    migrations: &[Migration],
) -> Result<bool, ProvisionError> {
    let unavailable = |source: sqlx::Error| ProvisionError::Unavailable {
        what: "the agent's role and schema could not be made: the role of DATABASE_URL must be allowed to create roles and schemas",
        source: source.into(),
    };
    // Out of the pool for good: on any failure it is closed, and the lock with it.
    let mut lock = admin.acquire().await.map_err(unavailable)?.detach();
    lock_role(&mut lock, &login.role).await.map_err(unavailable)?;
    let mut connection = config.options.connect().await.map_err(unavailable)?;
    make_role(&mut connection, login).await.map_err(unavailable)?;
    let changed = apply(&mut connection, &config.options, login, migrations).await?;
    if config.keeps_records {
        let grant = grant_use(&login.role, "end_task_now");
        connection.execute(grant.as_str()).await.map_err(unavailable)?;
    }
    connection.close().await.map_err(unavailable)?;
    // Closing ends the transaction, which has changed nothing.
    lock.close().await.map_err(unavailable)?;
    Ok(changed)
}

/// Holds off others that would provision the same role, until the transaction in which this connection then is ends.
async fn lock_role(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO agent_host.sql_roles (role) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(role)
        .execute(&mut *connection)
        .await?;
    connection.execute("BEGIN").await?;
    let take = sqlx::query("SELECT FROM agent_host.sql_roles WHERE role = $1 FOR UPDATE");
    take.bind(role).execute(connection).await.map(drop)
}

async fn make_role(connection: &mut PgConnection, login: &Login) -> Result<(), sqlx::Error> {
    let Login { role, schema, password, .. } = login;
    // Identifiers cannot be parameters; these hold only a-z, 0-9, '-' and '_'.
    let known =
        sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1").bind(role).fetch_optional(&mut *connection).await?;
    let mut statements = format!("SET client_min_messages = warning;\nSET lock_timeout = '{LOCK_TIMEOUT}';\n");
    if known.is_none() {
        let _ = writeln!(
            statements,
            "CREATE ROLE \"{role}\" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT;"
        );
    }
    // Also where it is there: a role can change its password itself.
    let _ = writeln!(
        statements,
        "ALTER ROLE \"{role}\" CONNECTION LIMIT {CONNECTIONS_PER_ROLE_MAX} PASSWORD '{password}';"
    );
    let superuser: bool = sqlx::query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if superuser {
        // Only a superuser may set it; and so the agent cannot lift it.
        let database: String =
            sqlx::query("SELECT current_database()::text").fetch_one(&mut *connection).await?.try_get(0)?;
        let database = database.replace('"', "\"\"");
        let _ = writeln!(
            statements,
            "ALTER ROLE \"{role}\" IN DATABASE \"{database}\" SET temp_file_limit = '{TEMP_FILES_MAX}';"
        );
    } else {
        // Making a schema for a role, and ending its statements, takes membership in it.
        let _ = writeln!(statements, "GRANT \"{role}\" TO CURRENT_USER;");
    }
    let _ = writeln!(statements, "CREATE SCHEMA IF NOT EXISTS \"{schema}\" AUTHORIZATION \"{role}\";");
    connection.execute(statements.as_str()).await?;
    Ok(())
}

async fn apply(
    admin: &mut PgConnection,
    server: &PgConnectOptions,
    login: &Login,
    migrations: &[Migration],
) -> Result<bool, ProvisionError> {
    let unavailable = |error: sqlx::Error| ProvisionError::Unavailable {
        what: "the record of applied migrations could not be read",
        source: error.into(),
    };
    let applied: Vec<(String, String)> =
        sqlx::query_as("SELECT name, digest FROM agent_host.sql_migrations WHERE role = $1")
            .bind(&login.role)
            .fetch_all(&mut *admin)
            .await
            .map_err(unavailable)?;
    let mut new = Vec::new();
    for migration in migrations {
        let digest = hex(&Sha256::digest(&migration.sql));
        match applied.iter().find(|(name, _)| *name == migration.name) {
            None => new.push((migration, digest)),
            Some((_, known)) if *known == digest => {}
            Some(_) => return Err(ProvisionError::Changed { name: migration.name.clone() }),
        }
    }
    if new.is_empty() {
        return Ok(false);
    }
    let role = &login.role;
    admin.execute(grant_use(role, "record_migration").as_str()).await.map_err(unavailable)?;
    let result = async {
        for (migration, digest) in new {
            let failed = |source: Cause| ProvisionError::Migration { name: migration.name.clone(), source };
            let mut pid = None;
            let migrating = migrate(server, login, migration, &digest, &mut pid);
            match tokio::time::timeout(MIGRATION_TIMEOUT, migrating).await {
                Ok(result) => result.map_err(|error| failed(error.into()))?,
                Err(elapsed) => {
                    // It may have lifted its statement_timeout, and would run on.
                    end_process(&mut *admin, &login.role, pid).await.map_err(unavailable)?;
                    return Err(failed(elapsed.into()));
                }
            }
        }
        Ok(true)
    }
    .await;
    // Not the use of the schema: tasks of the revision that runs meanwhile call `end_task` in it.
    let revoke = format!(
        "{ONE_AT_A_TIME}; \
         REVOKE EXECUTE ON FUNCTION agent_host.record_migration FROM \"{role}\""
    );
    admin.execute(revoke.as_str()).await.map_err(unavailable)?;
    result
}

/// PostgreSQL refuses one of two changes of the same privileges at the same moment. Not an advisory lock: those an agent can
/// take too.
const ONE_AT_A_TIME: &str = "SELECT FROM agent_host.sql_installation FOR UPDATE";

/// Lets a role call a function of the host's schema, in which it can do nothing else.
fn grant_use(role: &str, function: &str) -> String {
    format!(
        "{ONE_AT_A_TIME}; GRANT USAGE ON SCHEMA agent_host TO \"{role}\"; \
         GRANT EXECUTE ON FUNCTION agent_host.{function} TO \"{role}\""
    )
}

async fn migrate(
    server: &PgConnectOptions,
    login: &Login,
    migration: &Migration,
    digest: &str,
    pid: &mut Option<i32>,
) -> Result<(), sqlx::Error> {
    let timeout = MIGRATION_TIMEOUT.as_millis().to_string();
    let mut connection = login.options(server).options([("statement_timeout", timeout)]).connect().await?;
    *pid = Some(sqlx::query_scalar("SELECT pg_catalog.pg_backend_pid()").fetch_one(&mut connection).await?);
    let mut transaction = connection.begin().await?;
    transaction.execute(migration.sql.as_str()).await?;
    sqlx::query("SELECT agent_host.record_migration($1, $2)")
        .bind(&migration.name)
        .bind(digest)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    connection.close().await
}

/// Ends the role's process of this number, if there is one.
async fn end_process(admin: &mut PgConnection, role: &str, pid: Option<i32>) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND usename = $2")
        .bind(pid)
        .bind(role)
        .execute(admin)
        .await
        .map(drop)
}

/// `prefix` and `name`, shortened with a hash where PostgreSQL would cut it.
fn identifier(prefix: &str, name: &str) -> String {
    const HASH_DIGITS: usize = 16;
    let whole = [prefix, name].concat();
    if whole.len() <= IDENTIFIER_BYTES_MAX {
        return whole;
    }
    let hash: String = hex(&Sha256::digest(name)).chars().take(HASH_DIGITS).collect();
    let kept: String = whole.chars().take(IDENTIFIER_BYTES_MAX - HASH_DIGITS - 1).collect();
    format!("{kept}_{hash}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart_and_fit() {
        let installation = Installation { id: "0123abcd".to_owned(), password_key: vec![1; 48], checks_clients: true };
        let name = |last: &str| AgentName::parse(&["a".repeat(62).as_str(), last].concat()).unwrap();
        let (one, other) = (installation.login(&name("x")), installation.login(&name("y")));
        assert!(one.role.len() <= IDENTIFIER_BYTES_MAX && one.schema.len() <= IDENTIFIER_BYTES_MAX);
        assert_ne!(one.role, other.role);
        assert_ne!(one.schema, other.schema);
        assert_ne!(one.password, other.password);
    }
}
