//! Messages on their way out: forgotten once they have left, given out once they were left behind.

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{PostgresRecords, written};
use crate::records::{Outbox, Outgoing, RecordsError, UNSENT_BYTES_MAX, UNSENT_CLAIM};

/// Messages that one call gives out: a second of work for a broker, far less than the half minute until they are given to
/// another host.
const UNSENT_MAX: i64 = 256;

#[async_trait::async_trait]
impl Outbox for PostgresRecords {
    fn sent(&self, ids: Vec<Uuid>) {
        self.sent.add(ids);
    }

    async fn unsent(&self) -> Result<Vec<Outgoing>, RecordsError> {
        self.seldom.run(unsent).await.map_err(written)
    }
}

async fn unsent(connection: &mut PgConnection) -> Result<Vec<Outgoing>, sqlx::Error> {
    // Rows that another host is looking at are skipped, not waited for. Of a payload's size the table's row tells, so that
    // those which are left for later are not read.
    const CLAIM: &str = "
        WITH due AS (
            SELECT id, due_at, octet_length(payload)::bigint AS bytes FROM outbox
            WHERE due_at <= now() ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ), summed AS (
            SELECT id, bytes, sum(bytes) OVER (ORDER BY due_at, id) AS so_far FROM due
        )
        UPDATE outbox SET due_at = now() + make_interval(secs => $1)
        WHERE id IN (SELECT id FROM summed WHERE so_far <= $3 OR so_far = bytes)
        RETURNING id, payload";
    let rows = sqlx::query(CLAIM)
        .bind(UNSENT_CLAIM.as_secs_f64())
        .bind(UNSENT_MAX)
        .bind(i64::try_from(UNSENT_BYTES_MAX).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok(Outgoing { id: row.try_get(0)?, payload: row.try_get::<Vec<u8>, _>(1)?.into() })).collect()
}
