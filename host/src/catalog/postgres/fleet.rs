//! How far each host follows the agents' changes.

use std::collections::BTreeMap;

use sqlx::types::Json;

use super::{PostgresCatalog, read, written};
use crate::catalog::{CatalogError, Fleet, Following, HostSeen, SILENT_MAX};
use crate::task::AgentName;

/// Rows of hosts that died are removed after so many seconds.
const DEAD_AFTER_S: f64 = 3_600.0;

#[async_trait::async_trait]
impl Fleet for PostgresCatalog {
    async fn report(&self, host: &str, agents: &BTreeMap<AgentName, Following>) -> Result<(), CatalogError> {
        const REPORT: &str = "
            WITH dead AS (
                DELETE FROM hosts WHERE reported_at < now() - make_interval(secs => $3) AND host <> $1
            )
            INSERT INTO hosts (host, agents, reported_at) VALUES ($1, $2, now())
            ON CONFLICT (host) DO UPDATE SET agents = EXCLUDED.agents, reported_at = EXCLUDED.reported_at";
        let agents: BTreeMap<&str, &Following> =
            agents.iter().map(|(agent, following)| (agent.as_str(), following)).collect();
        let report = sqlx::query(REPORT).bind(host).bind(Json(agents)).bind(DEAD_AFTER_S);
        report.execute(&self.pool).await.map(drop).map_err(written)
    }

    async fn leave(&self, host: &str) -> Result<(), CatalogError> {
        let left = sqlx::query("DELETE FROM hosts WHERE host = $1").bind(host);
        left.execute(&self.pool).await.map(drop).map_err(written)
    }

    async fn hosts(&self, agent: &AgentName) -> Result<Vec<HostSeen>, CatalogError> {
        const SELECT: &str = "
            SELECT host, agents -> $1 FROM hosts WHERE reported_at > now() - make_interval(secs => $2) ORDER BY host";
        let rows: Vec<(String, Option<Json<Following>>)> = sqlx::query_as(SELECT)
            .bind(agent.as_str())
            .bind(SILENT_MAX.as_secs_f64())
            .fetch_all(&self.pool)
            .await
            .map_err(read)?;
        let seen = |(host, following): (String, Option<Json<Following>>)| HostSeen {
            host,
            following: following.map(|Json(following)| following),
        };
        Ok(rows.into_iter().map(seen).collect())
    }
}
