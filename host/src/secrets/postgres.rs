//! Secrets in PostgreSQL, sealed, for a fleet.
//!
//! A host holds the sealed rows as it saw them last, and opens one when a task asks for it: a task waits for no database, and
//! gets its secrets also while that is away.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use sqlx::postgres::{PgPool, PgRow};
use sqlx::{PgConnection, Row};

use super::{
    KeyId, Keyring, SECRETS_PER_AGENT_MAX, Sealed, Secret, SecretName, SecretStore, SecretsError, StoredSecret,
    Unreadable,
};
use crate::catalog::{NewEvent, PostgresCatalog, log_event, tell_hosts};
use crate::task::{AgentName, UnixMs, unix_ms_now};

/// Secrets in PostgreSQL.
#[derive(Debug)]
pub struct PostgresSecretStore {
    pool: PgPool,
    keys: Keyring,
    seen: RwLock<Seen>,
    /// Held by a look, so that what is seen last was read last.
    looking: tokio::sync::Mutex<()>,
}

/// What there was at the last look.
#[derive(Debug, Default)]
struct Seen {
    /// Nothing before the first look.
    changes: Option<u64>,
    rows: Rows,
}

/// By agent and name.
type Rows = BTreeMap<String, BTreeMap<String, Stored>>;

#[derive(Debug)]
struct Stored {
    /// Nothing where the row's columns are no key's id and no nonce.
    sealed: Option<Sealed>,
    set_at_ms: UnixMs,
    set_by: String,
}

impl Stored {
    fn open(&self, keys: &Keyring, agent: &str, name: &str) -> Result<Secret, Unreadable> {
        self.sealed.as_ref().ok_or(Unreadable::Damaged).and_then(|sealed| keys.open(agent, name, sealed))
    }
}

fn read(error: sqlx::Error) -> SecretsError {
    SecretsError::Away { action: "read", source: Box::new(error) }
}

fn written(error: sqlx::Error) -> SecretsError {
    SecretsError::Away { action: "written", source: Box::new(error) }
}

impl PostgresSecretStore {
    /// Secrets in the database of this catalog, over its connections: its log has their events, and it tells of their changes.
    #[must_use]
    pub fn beside(catalog: &PostgresCatalog, keys: Keyring) -> Self {
        let (seen, looking) = (RwLock::default(), tokio::sync::Mutex::default());
        Self { pool: catalog.pool().clone(), keys, seen, looking }
    }

    /// Reads everything anew where something has changed.
    async fn looked(&self) -> Result<u64, SecretsError> {
        let _alone = self.looking.lock().await;
        let mut connection = self.pool.acquire().await.map_err(read)?;
        // First: what changes between the two is read again at the next look.
        let changes: i64 =
            sqlx::query_scalar("SELECT changes FROM secret_changes").fetch_one(&mut *connection).await.map_err(read)?;
        let changes = u64::try_from(changes).unwrap_or(0);
        let last = self.seen.read().unwrap_or_else(PoisonError::into_inner).changes;
        if last == Some(changes) {
            return Ok(changes);
        }
        let rows = rows(&mut connection).await.map_err(read)?;
        warn_of_unreadable(&unreadable(&rows, &self.keys));
        // Also where the count is lower than before, as after a restore of the database.
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Seen { changes: Some(changes), rows };
        Ok(changes)
    }

    async fn try_set(
        &self,
        agent: &AgentName,
        name: &SecretName,
        sealed: &Sealed,
        event: &NewEvent,
    ) -> Result<Option<bool>, sqlx::Error> {
        const SET: &str = "
            INSERT INTO secrets (agent, name, key_id, nonce, sealed, set_at_ms, set_by) VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (agent, name) DO UPDATE SET key_id = EXCLUDED.key_id, nonce = EXCLUDED.nonce,
                sealed = EXCLUDED.sealed, set_at_ms = EXCLUDED.set_at_ms, set_by = EXCLUDED.set_by";
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        count_change(connection).await?;
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM secrets WHERE agent = $1")
            .bind(agent.as_str())
            .fetch_all(&mut *connection)
            .await?;
        let replaced = names.iter().any(|known| known == name.as_str());
        if !replaced && names.len() >= SECRETS_PER_AGENT_MAX {
            return Ok(None);
        }
        sqlx::query(SET)
            .bind(agent.as_str())
            .bind(name.as_str())
            .bind(sealed.key_id.as_slice())
            .bind(sealed.nonce.as_slice())
            .bind(&sealed.bytes)
            .bind(i64::try_from(unix_ms_now()).unwrap_or(i64::MAX))
            .bind(event.actor.as_str())
            .execute(&mut *connection)
            .await?;
        finish(transaction, event).await?;
        Ok(Some(replaced))
    }

    async fn try_remove(&self, agent: &AgentName, name: &SecretName, event: &NewEvent) -> Result<bool, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        count_change(connection).await?;
        let removed = sqlx::query("DELETE FROM secrets WHERE agent = $1 AND name = $2")
            .bind(agent.as_str())
            .bind(name.as_str())
            .execute(&mut *connection)
            .await?;
        if removed.rows_affected() == 0 {
            return Ok(false);
        }
        finish(transaction, event).await?;
        Ok(true)
    }

    /// A change is made: this host's next tasks go by it, where the database can be read again at once.
    async fn follow_own(&self) {
        if let Err(error) = self.looked().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the secrets are read again soon");
        }
    }
}

/// Counts a change. The row's lock, until the commit, has others wait.
async fn count_change(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE secret_changes SET changes = changes + 1").execute(connection).await.map(drop)
}

/// Logs and tells of a change, and commits it.
async fn finish(mut transaction: sqlx::Transaction<'_, sqlx::Postgres>, event: &NewEvent) -> Result<(), sqlx::Error> {
    log_event(&mut transaction, event).await?;
    tell_hosts(&mut transaction).await?;
    transaction.commit().await
}

async fn rows(connection: &mut PgConnection) -> Result<Rows, sqlx::Error> {
    const ALL: &str = "SELECT agent, name, key_id, nonce, sealed, set_at_ms, set_by FROM agent_host.secrets";
    let mut rows = Rows::new();
    for row in sqlx::query(ALL).fetch_all(connection).await? {
        let stored = Stored {
            sealed: sealed(&row)?,
            set_at_ms: u64::try_from(row.try_get::<i64, _>(5)?).unwrap_or(0),
            set_by: row.try_get(6)?,
        };
        rows.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, stored);
    }
    Ok(rows)
}

fn sealed(row: &PgRow) -> Result<Option<Sealed>, sqlx::Error> {
    Ok(Sealed::of_row(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
}

/// Those that these keys do not open: agent, name, why.
fn unreadable(rows: &Rows, keys: &Keyring) -> Vec<(String, String, Unreadable)> {
    let all = rows.iter().flat_map(|(agent, named)| named.iter().map(move |(name, stored)| (agent, name, stored)));
    let closed = all.filter_map(|(agent, name, stored)| {
        let why = stored.open(keys, agent, name).err()?;
        Some((agent.clone(), name.clone(), why))
    });
    closed.collect()
}

fn warn_of_unreadable(unreadable: &[(String, String, Unreadable)]) {
    if let Some((agent, name, why)) = unreadable.first() {
        let secrets = unreadable.len();
        tracing::warn!(
            agent,
            secret = name,
            secrets,
            "stored secrets cannot be read on this host, such as this one: {why}"
        );
    }
}

/// What is stored, as these keys see it, for whoever looks at a database without running a host on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// How many secrets are stored.
    pub stored: usize,
    /// How many of them take the key that is to be given up.
    pub with_previous_key: usize,
    /// Those that the keys do not open: agent, name, why.
    pub unreadable: Vec<(String, String, Unreadable)>,
}

/// Looks at the secrets of the host's schema. Nothing is changed, or made where it is not there yet.
///
/// # Errors
/// The database's own.
pub async fn inspect(connection: &mut PgConnection, keys: &Keyring) -> Result<Inspected, sqlx::Error> {
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regclass('agent_host.secrets') IS NOT NULL").fetch_one(&mut *connection).await?;
    let rows = if is_there { rows(connection).await? } else { Rows::new() };
    let all = || rows.values().flat_map(BTreeMap::values);
    let is_previous =
        |stored: &&Stored| stored.sealed.as_ref().is_some_and(|sealed| keys.is_previous(KeyId(sealed.key_id)));
    Ok(Inspected {
        stored: all().count(),
        with_previous_key: all().filter(is_previous).count(),
        unreadable: unreadable(&rows, keys),
    })
}

#[async_trait::async_trait]
impl SecretStore for PostgresSecretStore {
    async fn set(
        &self,
        agent: &AgentName,
        name: &SecretName,
        value: &Secret,
        event: NewEvent,
    ) -> Result<bool, SecretsError> {
        let sealed = self.keys.seal(agent.as_str(), name.as_str(), value)?;
        let set = self.try_set(agent, name, &sealed, &event).await.map_err(written)?;
        let replaced = set.ok_or_else(|| SecretsError::TooMany(agent.clone()))?;
        self.follow_own().await;
        Ok(replaced)
    }

    async fn remove(&self, agent: &AgentName, name: &SecretName, event: NewEvent) -> Result<bool, SecretsError> {
        let removed = self.try_remove(agent, name, &event).await.map_err(written)?;
        self.follow_own().await;
        Ok(removed)
    }

    async fn list(&self, agent: &AgentName) -> Result<Vec<StoredSecret>, SecretsError> {
        self.looked().await?;
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let stored = seen.rows.get(agent.as_str()).into_iter().flatten().map(|(name, stored)| StoredSecret {
            name: name.clone(),
            set_at_ms: stored.set_at_ms,
            set_by: stored.set_by.clone(),
            has_previous_key: stored.sealed.as_ref().is_some_and(|sealed| self.keys.is_previous(KeyId(sealed.key_id))),
            unreadable: stored.open(&self.keys, agent.as_str(), name).err(),
        });
        Ok(stored.collect())
    }

    async fn get(&self, agent: &AgentName, name: &str) -> Result<Option<Secret>, SecretsError> {
        if self.seen.read().unwrap_or_else(PoisonError::into_inner).changes.is_none() {
            self.looked().await?;
        }
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let Some(stored) = seen.rows.get(agent.as_str()).and_then(|named| named.get(name)) else { return Ok(None) };
        Ok(Some(stored.open(&self.keys, agent.as_str(), name)?))
    }

    async fn look(&self) -> Result<u64, SecretsError> {
        self.looked().await
    }
}
