//! How far each host follows the agents' changes.

use std::collections::BTreeMap;

use sqlx::types::Json;

use super::{PostgresCatalog, read, written};
use crate::catalog::{CatalogError, Fleet, Following, HostDoing, HostFigures, HostSeen, SILENT_MAX};
use crate::task::AgentName;

/// Rows of hosts that died are removed after so many seconds.
const DEAD_AFTER_S: f64 = 3_600.0;

#[async_trait::async_trait]
impl Fleet for PostgresCatalog {
    async fn report(
        &self,
        host: &str,
        agents: &BTreeMap<AgentName, Following>,
        figures: &HostFigures,
    ) -> Result<(), CatalogError> {
        const REPORT: &str = "
            WITH dead AS (
                DELETE FROM hosts WHERE reported_at < now() - make_interval(secs => $3) AND host <> $1
            )
            INSERT INTO hosts (host, agents, reported_at, figures) VALUES ($1, $2, now(), $4)
            ON CONFLICT (host) DO UPDATE SET agents = EXCLUDED.agents, reported_at = EXCLUDED.reported_at,
                figures = EXCLUDED.figures";
        let agents: BTreeMap<&str, &Following> =
            agents.iter().map(|(agent, following)| (agent.as_str(), following)).collect();
        let report = sqlx::query(REPORT).bind(host).bind(Json(agents)).bind(DEAD_AFTER_S).bind(Json(figures));
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

    async fn doing(&self) -> Result<Vec<HostDoing>, CatalogError> {
        const SELECT: &str = "
            SELECT host, figures FROM hosts WHERE reported_at > now() - make_interval(secs => $1) ORDER BY host";
        let rows: Vec<(String, Option<Json<HostFigures>>)> =
            sqlx::query_as(SELECT).bind(SILENT_MAX.as_secs_f64()).fetch_all(&self.pool).await.map_err(read)?;
        let doing = |(host, figures): (String, Option<Json<HostFigures>>)| HostDoing {
            host,
            figures: figures.map(|Json(figures)| figures),
        };
        Ok(rows.into_iter().map(doing).collect())
    }
}
