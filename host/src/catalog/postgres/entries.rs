//! The agents' entries, what is counted of splits, and the log of changes.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::{PostgresCatalog, Unusable, signed, unsigned};
use crate::catalog::{AgentEntry, Canary, Change, ChangeRefused, EVENTS_KEPT, Event, NewEvent, Tally, Traffic};
use crate::task::{AgentName, unix_ms_now};

/// The channel on which changes are told.
pub(super) const NOTIFIED: &str = "agent_host_catalog";
const NOTIFY: &str = "NOTIFY agent_host_catalog";

impl PostgresCatalog {
    pub(super) async fn try_change(
        &self,
        agent: &AgentName,
        change: &Change,
        event: &NewEvent,
    ) -> Result<Result<AgentEntry, ChangeRefused>, Unusable> {
        const SELECT: &str = "
            SELECT agent, revision_active, revision_previous, canary, canary_percent, is_paused, change
            FROM agents WHERE agent = $1 FOR UPDATE";
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        let row = sqlx::query(SELECT).bind(agent.as_str()).fetch_optional(&mut *connection).await?;
        let Some(row) = row else { return Ok(Err(ChangeRefused::NotDeployed)) };
        let entry = decoded(&row)?;
        let next = match entry.changed(change) {
            Ok(next) => next,
            Err(refused) => return Ok(Err(refused)),
        };
        let wanted: Vec<i64> = next.revisions().into_iter().map(signed).collect();
        let known: Vec<i64> =
            sqlx::query_scalar("SELECT revision FROM revisions WHERE agent = $1 AND revision = ANY($2)")
                .bind(agent.as_str())
                .bind(&wanted)
                .fetch_all(&mut *connection)
                .await?;
        if let Some(unknown) = wanted.iter().find(|revision| !known.contains(revision)) {
            return Ok(Err(ChangeRefused::UnknownRevision(unsigned(*unknown))));
        }
        if next != entry {
            write(connection, &next).await?;
            log(connection, event).await?;
            transaction.commit().await?;
        }
        Ok(Ok(next))
    }

    pub(super) async fn try_tally(
        &self,
        agent: &AgentName,
        of_change: u64,
        counted: &[(u64, Tally)],
    ) -> Result<Vec<(u64, Tally)>, sqlx::Error> {
        // Only of the split that there is: what comes late counts no more. Rows in order, so that hosts do not lock crosswise.
        const ADD: &str = "
            INSERT INTO canary_counts AS c (agent, change, revision, succeeded, failed)
            SELECT $1, $2, n.revision, n.succeeded, n.failed
            FROM unnest($3::bigint[], $4::bigint[], $5::bigint[]) AS n (revision, succeeded, failed)
            WHERE EXISTS (SELECT FROM agents WHERE agent = $1 AND change = $2)
            ORDER BY n.revision
            ON CONFLICT (agent, change, revision) DO UPDATE
            SET succeeded = c.succeeded + EXCLUDED.succeeded, failed = c.failed + EXCLUDED.failed";
        const SUMS: &str = "SELECT revision, succeeded, failed FROM canary_counts WHERE agent = $1 AND change = $2";
        if !counted.is_empty() {
            sqlx::query(ADD)
                .bind(agent.as_str())
                .bind(signed(of_change))
                .bind(counted.iter().map(|(revision, _)| signed(*revision)).collect::<Vec<_>>())
                .bind(counted.iter().map(|(_, tally)| signed(tally.succeeded)).collect::<Vec<_>>())
                .bind(counted.iter().map(|(_, tally)| signed(tally.failed)).collect::<Vec<_>>())
                .execute(&self.pool)
                .await?;
        }
        let rows = sqlx::query(SUMS).bind(agent.as_str()).bind(signed(of_change)).fetch_all(&self.pool).await?;
        let sum = |row: &PgRow| -> Result<_, sqlx::Error> {
            let tally = Tally { succeeded: unsigned(row.try_get(1)?), failed: unsigned(row.try_get(2)?) };
            Ok((unsigned(row.try_get(0)?), tally))
        };
        rows.iter().map(sum).collect()
    }
}

/// Writes an entry, and tells every host.
async fn write(connection: &mut PgConnection, entry: &AgentEntry) -> Result<(), sqlx::Error> {
    let canary = entry.traffic.and_then(|traffic| traffic.canary);
    sqlx::query(
        "UPDATE agents SET revision_active = $2, revision_previous = $3, canary = $4, canary_percent = $5, is_paused = $6,
            change = $7
         WHERE agent = $1",
    )
    .bind(entry.agent.as_str())
    .bind(entry.traffic.map(|traffic| signed(traffic.active)))
    .bind(entry.previous.map(signed))
    .bind(canary.map(|canary| signed(canary.revision)))
    .bind(canary.map(|canary| i16::from(canary.percent)))
    .bind(entry.is_paused)
    .bind(signed(entry.change))
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM canary_counts WHERE agent = $1")
        .bind(entry.agent.as_str())
        .execute(&mut *connection)
        .await?;
    tell(connection).await
}

/// Tells every host that something changed. It arrives with the commit.
pub(crate) async fn tell(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Not by pg_notify(), which is taken from PUBLIC.
    sqlx::query(NOTIFY).execute(&mut *connection).await.map(drop)
}

/// Adds to the log, and forgets what is past its time.
pub(crate) async fn log(connection: &mut PgConnection, event: &NewEvent) -> Result<(), sqlx::Error> {
    let now = unix_ms_now();
    sqlx::query("INSERT INTO events (at_ms, actor, host, action, agent, detail) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(signed(now))
        .bind(event.actor.as_str())
        .bind(&event.host)
        .bind(event.action)
        .bind(event.agent.as_ref().map(AgentName::as_str))
        .bind(&event.detail)
        .execute(&mut *connection)
        .await?;
    // The oldest are the first: one step of the index, and mostly nothing to do.
    let kept_ms = u64::try_from(EVENTS_KEPT.as_millis()).unwrap_or(u64::MAX);
    sqlx::query("DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT 100) AND at_ms < $1")
        .bind(signed(now.saturating_sub(kept_ms)))
        .execute(&mut *connection)
        .await
        .map(drop)
}

pub(super) fn decoded(row: &PgRow) -> Result<AgentEntry, Unusable> {
    let canary = match (row.try_get::<Option<i64>, _>(3)?, row.try_get::<Option<i16>, _>(4)?) {
        (Some(revision), Some(percent)) => {
            Some(Canary { revision: unsigned(revision), percent: u8::try_from(percent).unwrap_or(0) })
        }
        _ => None,
    };
    let active = row.try_get::<Option<i64>, _>(1)?.map(unsigned);
    Ok(AgentEntry {
        agent: AgentName::parse(row.try_get(0)?)?,
        traffic: active.map(|active| Traffic { active, canary }),
        previous: row.try_get::<Option<i64>, _>(2)?.map(unsigned),
        is_paused: row.try_get(5)?,
        change: unsigned(row.try_get(6)?),
    })
}

pub(super) fn kept(row: &PgRow) -> Result<Event, sqlx::Error> {
    Ok(Event {
        id: unsigned(row.try_get(0)?),
        at_ms: unsigned(row.try_get(1)?),
        actor: row.try_get(2)?,
        host: row.try_get(3)?,
        action: row.try_get(4)?,
        agent: row.try_get(5)?,
        detail: row.try_get(6)?,
    })
}
