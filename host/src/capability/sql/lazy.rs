//! The database port over a private PostgreSQL server, started for the first agent that wants it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::{ConnectionCounts, Database, Postgres, PostgresConfig, ProvisionError, SqlConnection, SqlError};
use crate::catalog::Migration;
use crate::embedded;
use crate::manifest::{SqlGrant, TransactionMode};
use crate::task::AgentName;

/// A private PostgreSQL server that is started when the first agent with an sql grant is provisioned.
#[derive(Debug)]
pub struct LazyDatabase {
    data_dir: PathBuf,
    connections_max: Option<usize>,
    started: OnceCell<Started>,
}

#[derive(Debug)]
struct Started {
    server: embedded::Postgres,
    database: Postgres,
}

impl LazyDatabase {
    /// A server that keeps its data in the folder `postgres` of `data_dir`. Nothing is started yet.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, connections_max: None, started: OnceCell::new() }
    }

    /// With at most so many connections in the names of agents.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self { connections_max: Some(connections_max), ..self }
    }

    async fn started(&self) -> Result<&Started, ProvisionError> {
        self.started
            .get_or_try_init(|| async {
                let server = embedded::Postgres::start(&self.data_dir).await.map_err(|error| match error {
                    embedded::StartError::NoBinaries { .. } => ProvisionError::Missing(error.to_string()),
                    other => ProvisionError::Unavailable {
                        what: "the embedded PostgreSQL server could not be started",
                        source: other.into(),
                    },
                })?;
                let mut config = PostgresConfig::new(server.options());
                if let Some(max) = self.connections_max {
                    config = config.with_connections_max(max);
                }
                let database = Postgres::connect(config).await?;
                Ok(Started { server, database })
            })
            .await
    }
}

#[async_trait::async_trait]
impl Database for LazyDatabase {
    async fn provision(
        &self,
        agent: &AgentName,
        grants: &[SqlGrant],
        migrations: &[Migration],
    ) -> Result<(), ProvisionError> {
        self.started().await?.database.provision(agent, grants, migrations).await
    }

    async fn open(
        &self,
        agent: &AgentName,
        mode: TransactionMode,
        statement_timeout: Duration,
    ) -> Result<Box<dyn SqlConnection>, SqlError> {
        let started = self.started.get().ok_or_else(|| SqlError::Unavailable {
            what: "the agent's schema is not ready on this host".into(),
            source: format!("{agent} was not provisioned").into(),
        })?;
        started.database.open(agent, mode, statement_timeout).await
    }

    fn connections(&self) -> ConnectionCounts {
        self.started.get().map_or_else(ConnectionCounts::default, |started| started.database.connections())
    }

    async fn close(&self) {
        if let Some(started) = self.started.get() {
            started.database.close().await;
            started.server.stop().await;
        }
    }
}
