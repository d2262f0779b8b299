//! The catalog in PostgreSQL, for a fleet.

mod entries;
mod fleet;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use sqlx::postgres::{PgListener, PgPool, PgRow};
use sqlx::types::Json;
use sqlx::{PgConnection, Row};
use tokio::sync::Mutex;

use self::entries::{NOTIFIED, decoded, kept};
pub(crate) use self::entries::{log, tell};
use super::{
    Added, AgentEntry, Catalog, CatalogError, Change, ChangeRefused, Event, Events, Migration, NewEvent, NewRevision,
    RevisionSummary, StoredRevision, Tally,
};
use crate::signature::{Signature, merged};
use crate::store::HostDatabase;
use crate::task::{AgentName, InvalidName, unix_ms_now};

/// Deployments and polls are rare; two connections let a poll pass a large upload, and one listens.
const CONNECTIONS_MAX: u32 = 3;

/// Bytes of a module per row and message, so that beside the module itself only this much more is held.
const PART_BYTES: usize = 1 << 20;

/// The catalog in PostgreSQL.
#[derive(Debug)]
pub struct PostgresCatalog {
    pool: PgPool,
    /// Learns of changes; none before it is first needed, and after its connection was lost.
    listener: Mutex<Option<PgListener>>,
}

/// Why the database's answer is no use.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the database did not do it")]
    Database(#[from] sqlx::Error),
    #[error("the catalog's tables hold a name that is none")]
    Name(#[from] InvalidName),
    #[error("the module {digest} has {found} of {expected} bytes")]
    Module { digest: String, found: u64, expected: u64 },
}

fn read(error: impl Into<Unusable>) -> CatalogError {
    CatalogError { action: "read", source: Box::new(error.into()) }
}

fn written(error: impl Into<Unusable>) -> CatalogError {
    CatalogError { action: "written", source: Box::new(error.into()) }
}

impl PostgresCatalog {
    /// The catalog in this database; connects when it is first used.
    #[must_use]
    pub fn new(database: &HostDatabase) -> Self {
        Self { pool: database.pool(CONNECTIONS_MAX), listener: Mutex::default() }
    }

    /// Its connections, for what is changed beside it.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn try_add(&self, revision: &NewRevision, event: &NewEvent) -> Result<Added, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        sqlx::query("INSERT INTO agents (agent) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(revision.agent.as_str())
            .execute(&mut *connection)
            .await?;
        // From here to the commit nobody else numbers revisions of this agent. A rollback gives the number back.
        let last: i64 = sqlx::query_scalar("SELECT revision_last FROM agents WHERE agent = $1 FOR UPDATE")
            .bind(revision.agent.as_str())
            .fetch_one(&mut *connection)
            .await?;
        const KNOWN: &str =
            "SELECT revision, signatures, migrations FROM revisions WHERE agent = $1 AND digest = $2 AND manifest = $3";
        let known = sqlx::query(KNOWN)
            .bind(revision.agent.as_str())
            .bind(&revision.digest)
            .bind(&revision.manifest)
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(known) = known {
            let number: i64 = known.try_get(0)?;
            let Json(signatures): Json<Vec<Signature>> = known.try_get(1)?;
            let Json(migrations): Json<Vec<Migration>> = known.try_get(2)?;
            let all = merged(&revision.signatures, &signatures);
            if all != signatures || migrations != revision.migrations {
                // Both: a signature may be one of these migrations.
                sqlx::query("UPDATE revisions SET signatures = $3, migrations = $4 WHERE agent = $1 AND revision = $2")
                    .bind(revision.agent.as_str())
                    .bind(number)
                    .bind(Json(all))
                    .bind(Json(&revision.migrations))
                    .execute(&mut *connection)
                    .await?;
                transaction.commit().await?;
            }
            return Ok(Added::Known(unsigned(number)));
        }
        store_module(connection, &revision.digest, &revision.module).await?;
        let number = last + 1;
        sqlx::query(
            "INSERT INTO revisions (agent, revision, digest, module_bytes, manifest, migrations, created_at_ms, signatures)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(revision.agent.as_str())
        .bind(number)
        .bind(&revision.digest)
        .bind(signed(revision.module.len() as u64))
        .bind(&revision.manifest)
        .bind(Json(&revision.migrations))
        .bind(signed(unix_ms_now()))
        .bind(Json(&revision.signatures))
        .execute(&mut *connection)
        .await?;
        sqlx::query("UPDATE agents SET revision_last = $2 WHERE agent = $1")
            .bind(revision.agent.as_str())
            .bind(number)
            .execute(&mut *connection)
            .await?;
        log(connection, event).await?;
        transaction.commit().await?;
        Ok(Added::New(unsigned(number)))
    }

    async fn try_get(&self, agent: &AgentName, revision: u64) -> Result<Option<StoredRevision>, Unusable> {
        let row = sqlx::query(
            "SELECT digest, module_bytes, manifest, migrations, created_at_ms, signatures
             FROM revisions WHERE agent = $1 AND revision = $2",
        )
        .bind(agent.as_str())
        .bind(signed(revision))
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let digest: String = row.try_get(0)?;
        let module = self.module(&digest, unsigned(row.try_get(1)?)).await?;
        let Json(migrations): Json<Vec<Migration>> = row.try_get(3)?;
        let Json(signatures): Json<Vec<Signature>> = row.try_get(5)?;
        let (agent, manifest) = (agent.clone(), row.try_get(2)?);
        let content = NewRevision { agent, digest, manifest, module, migrations, signatures };
        Ok(Some(StoredRevision { revision, created_at_ms: unsigned(row.try_get(4)?), content }))
    }

    async fn module(&self, digest: &str, expected: u64) -> Result<Bytes, Unusable> {
        let mut parts =
            sqlx::query("SELECT bytes FROM modules WHERE digest = $1 ORDER BY part").bind(digest).fetch(&self.pool);
        let mut module = BytesMut::with_capacity(usize::try_from(expected).unwrap_or(0));
        while let Some(part) = parts.try_next().await? {
            module.extend_from_slice(part.try_get::<&[u8], _>(0)?);
        }
        let found = module.len() as u64;
        if found == expected {
            Ok(module.freeze())
        } else {
            Err(Unusable::Module { digest: digest.to_owned(), found, expected })
        }
    }
}

/// Stores a module unless it is there. Its parts come in with the revision's transaction, all or none.
async fn store_module(connection: &mut PgConnection, digest: &str, module: &Bytes) -> Result<(), sqlx::Error> {
    let is_known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM modules WHERE digest = $1)")
        .bind(digest)
        .fetch_one(&mut *connection)
        .await?;
    if is_known {
        return Ok(());
    }
    for (part, bytes) in (0i32..).zip(module.chunks(PART_BYTES)) {
        // Another agent may be storing the same module: then this waits for its commit, and has nothing left to do.
        sqlx::query("INSERT INTO modules (digest, part, bytes) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(digest)
            .bind(part)
            .bind(bytes)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

#[async_trait::async_trait]
impl Catalog for PostgresCatalog {
    async fn add(&self, revision: NewRevision, event: NewEvent) -> Result<Added, CatalogError> {
        self.try_add(&revision, &event).await.map_err(written)
    }

    async fn change(
        &self,
        agent: &AgentName,
        change: Change,
        event: NewEvent,
    ) -> Result<Result<AgentEntry, ChangeRefused>, CatalogError> {
        self.try_change(agent, &change, &event).await.map_err(written)
    }

    async fn entries(&self) -> Result<Vec<AgentEntry>, CatalogError> {
        const SELECT: &str = "
            SELECT agent, revision_active, revision_previous, canary, canary_percent, is_paused, change
            FROM agents WHERE revision_active IS NOT NULL ORDER BY agent";
        let rows = sqlx::query(SELECT).fetch_all(&self.pool).await.map_err(read)?;
        rows.iter().map(decoded).collect::<Result<_, _>>().map_err(read)
    }

    async fn changed(&self) -> Result<(), CatalogError> {
        let mut kept = self.listener.lock().await;
        // Taken out while it waits: where the caller goes away, or the connection is lost, it is made anew.
        let mut listener = match kept.take() {
            Some(listener) => listener,
            None => {
                let mut listener = PgListener::connect_with(&self.pool).await.map_err(read)?;
                listener.listen(NOTIFIED).await.map_err(read)?;
                *kept = Some(listener);
                // What changed before it listened, nobody tells.
                return Ok(());
            }
        };
        let notified = listener.try_recv().await.map_err(read)?;
        if notified.is_some() {
            *kept = Some(listener);
        }
        Ok(())
    }

    async fn get(&self, agent: &AgentName, revision: u64) -> Result<Option<StoredRevision>, CatalogError> {
        self.try_get(agent, revision).await.map_err(read)
    }

    async fn revisions(&self, agent: &AgentName) -> Result<Vec<RevisionSummary>, CatalogError> {
        let rows = sqlx::query(
            "SELECT revision, digest, module_bytes, created_at_ms, revision IS NOT DISTINCT FROM revision_active,
                jsonb_array_length(signatures)
             FROM revisions JOIN agents USING (agent) WHERE agent = $1 ORDER BY revision",
        )
        .bind(agent.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(read)?;
        let summary = |row: &PgRow| -> Result<_, Unusable> {
            Ok(RevisionSummary {
                revision: unsigned(row.try_get(0)?),
                digest: row.try_get(1)?,
                module_bytes: unsigned(row.try_get(2)?),
                created_at_ms: unsigned(row.try_get(3)?),
                active: row.try_get(4)?,
                signatures: u32::try_from(row.try_get::<i32, _>(5)?).unwrap_or(0),
            })
        };
        rows.iter().map(summary).collect::<Result<_, _>>().map_err(read)
    }

    async fn tally(
        &self,
        agent: &AgentName,
        of_change: u64,
        counted: &[(u64, Tally)],
    ) -> Result<Vec<(u64, Tally)>, CatalogError> {
        self.try_tally(agent, of_change, counted).await.map_err(written)
    }
}

#[async_trait::async_trait]
impl Events for PostgresCatalog {
    async fn log(&self, event: NewEvent) -> Result<(), CatalogError> {
        let mut connection = self.pool.acquire().await.map_err(written)?;
        log(&mut connection, &event).await.map_err(written)
    }

    async fn events(
        &self,
        agent: Option<&AgentName>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Event>, CatalogError> {
        // Two statements, so that each goes by its index.
        const ALL: &str = "
            SELECT id, at_ms, actor, host, action, agent, detail FROM events WHERE id < $1 ORDER BY id DESC LIMIT $2";
        const OF_AGENT: &str = "
            SELECT id, at_ms, actor, host, action, agent, detail FROM events
            WHERE agent = $3 AND id < $1 ORDER BY id DESC LIMIT $2";
        let query = sqlx::query(if agent.is_some() { OF_AGENT } else { ALL });
        let mut query = query.bind(before.map_or(i64::MAX, signed)).bind(i64::from(limit));
        if let Some(agent) = agent {
            query = query.bind(agent.as_str());
        }
        let rows = query.fetch_all(&self.pool).await.map_err(read)?;
        rows.iter().map(kept).collect::<Result<_, _>>().map_err(read)
    }
}

/// PostgreSQL has no unsigned numbers. A number past its range names no revision.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
