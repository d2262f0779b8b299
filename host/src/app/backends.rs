//! The outside things: for each, the real one or its embedded twin, as the configuration says.

use std::sync::Arc;

use prometheus::Registry;
use tokio::runtime::Handle;

use crate::broker::amqp::{AmqpBroker, AmqpConfig};
use crate::broker::measured::MeasuredBroker;
use crate::broker::memory as embedded_broker;
use crate::capability::cache::{Cache, MemoryCache, RedisCache};
use crate::capability::key_value::{KeyValue, MemoryKeyValue, RedisKeyValue};
use crate::capability::measured::{OperationMetrics, System};
use crate::capability::outbound_http::TcpNetwork;
use crate::capability::redis::RedisConnections;
use crate::capability::secrets::{EnvironmentSecrets, OperatorSecrets, SecretSource};
use crate::capability::sql::{Database, LazyDatabase, Postgres, PostgresConfig};
use crate::capability::{self, Capabilities};
use crate::catalog::{Catalog, Events, MemoryCatalog, PostgresCatalog};
use crate::cli::StartError;
use crate::config::{Backend, Config};
use crate::delivery::Broker;
use crate::deploy::DeployedAgents;
use crate::memory::MemoryLedger;
use crate::records::{MemoryLimits, MemoryRecords, PostgresRecords, PostgresSettings, Records};
use crate::secrets::{MemorySecretStore, PostgresSecretStore, SecretAdmin, SecretStore};
use crate::store::HostDatabase;

/// Everything outside of the process that the host talks to.
pub(super) struct Backends {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) records: Arc<dyn Records>,
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) events: Arc<dyn Events>,
    pub(super) secrets: Arc<dyn SecretAdmin>,
    pub(super) capabilities: Capabilities,
}

impl Backends {
    /// Connects to everything; all that is missing is reported at once.
    ///
    /// What it takes them to answer is measured in `registry`; what they hold for tasks is in the account of `memory`.
    /// `guests` are the threads of those that wait for Redis.
    pub(super) async fn connect(
        config: &Config,
        deployed: &Arc<DeployedAgents>,
        registry: &Registry,
        memory: &MemoryLedger,
        guests: &Handle,
    ) -> Result<Self, StartError> {
        let (broker, state, cache, database) =
            tokio::join!(broker(config, memory), state(config), cache(config, guests), database(config));
        let mut problems = Vec::new();
        let (broker, state) = (keep(broker, &mut problems), keep(state, &mut problems));
        let (cache, database) = (keep(cache, &mut problems), keep(database, &mut problems));
        let (Some(broker), Some(State { records, catalog, secrets }), Some((key_value, cache)), Some(database)) =
            (broker, state, cache, database)
        else {
            return Err(StartError::Unavailable(problems));
        };
        let registering = |error| super::internal("registering metrics", error);
        let broker: Arc<dyn Broker> = Arc::new(MeasuredBroker::new(broker, registry).map_err(registering)?);
        let operations = OperationMetrics::new(registry).map_err(registering)?;
        let cache_system = if config.cache == Backend::Embedded { System::Memory } else { System::Redis };
        let directory = Arc::clone(deployed);
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let secrets = Arc::new(OperatorSecrets::new(EnvironmentSecrets::new(variables), secrets));
        let capabilities = Capabilities::new(capability::Backends {
            // The embedded database is a PostgreSQL too.
            database: operations.database(System::Postgresql, database),
            key_value: operations.key_value(cache_system, key_value),
            cache: operations.cache(cache_system, cache),
            secrets: Arc::clone(&secrets) as Arc<dyn SecretSource>,
            outbound: operations.outbound(Arc::new(TcpNetwork::default())),
            directory: Arc::new(move |agent: &_| directory.contains(agent)),
        });
        let events = Arc::clone(&catalog) as Arc<dyn Events>;
        Ok(Self { broker, records, catalog, events, secrets, capabilities })
    }

    /// Flushes and closes everything, what others still write to last.
    pub(super) async fn close(self) {
        self.broker.close().await;
        self.records.close().await;
        self.capabilities.backends().database.close().await;
    }
}

fn keep<T>(result: Result<T, String>, problems: &mut Vec<String>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

/// An error with its causes on one line, as errors of the start are printed.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn broker(config: &Config, memory: &MemoryLedger) -> Result<Arc<dyn Broker>, String> {
    match &config.broker {
        Backend::Embedded => Ok(Arc::new(embedded_broker::MemoryBroker::new(embedded_broker::MemoryLimits::default()))),
        Backend::Url(url) => {
            let memory = memory.clone();
            let config = AmqpConfig { predeclared: config.predeclared, memory, ..AmqpConfig::new(url.expose()) };
            let broker = AmqpBroker::connect(config).await.map_err(|error| format!("AMQP_URL: {}", chain(&error)))?;
            Ok(Arc::new(broker))
        }
    }
}

/// What the host keeps of its own.
struct State {
    records: Arc<dyn Records>,
    catalog: Arc<dyn Catalog>,
    secrets: Arc<dyn SecretStore>,
}

/// Records, catalog and secrets: in the database where there is a real one, otherwise in process. The embedded database is for
/// agents alone, and starts only when one needs it.
async fn state(config: &Config) -> Result<State, String> {
    match &config.database {
        Backend::Embedded => {
            // In process a task's record is also what remembers that it has ended, so it stays for the longer of the two.
            let limits = MemoryLimits { retention: config.inbox_retention, ..MemoryLimits::default() };
            let catalog = Arc::<MemoryCatalog>::default();
            let secrets = Arc::new(MemorySecretStore::beside(&catalog));
            Ok(State { records: Arc::new(MemoryRecords::new(limits)), catalog, secrets })
        }
        Backend::Url(url) => {
            let failed = |error: &dyn std::error::Error| format!("DATABASE_URL: {}", chain(error));
            let database = HostDatabase::open(url.expose()).await.map_err(|error| failed(&error))?;
            let settings = PostgresSettings {
                retention: config.record_retention,
                inbox_retention: config.inbox_retention,
                ..PostgresSettings::default()
            };
            let records = PostgresRecords::start(&database, settings).await.map_err(|error| failed(&error))?;
            let catalog = PostgresCatalog::new(&database);
            let secrets = Arc::new(PostgresSecretStore::beside(&catalog, config.secrets_keys.clone()));
            Ok(State { records: Arc::new(records), catalog: Arc::new(catalog), secrets })
        }
    }
}

async fn cache(config: &Config, guests: &Handle) -> Result<(Arc<dyn KeyValue>, Arc<dyn Cache>), String> {
    match &config.cache {
        Backend::Embedded => Ok((Arc::new(MemoryKeyValue::new()), Arc::new(MemoryCache::new()))),
        Backend::Url(url) => {
            let url = url.expose().to_owned();
            // The connections are served where they are made. On other threads than those that wait for the answers, each
            // would have to be carried across, which takes as long as Redis does.
            let connected = guests.spawn(async move { RedisConnections::connect(&url).await });
            let connected = connected.await.map_err(|error| format!("REDIS_URL: {}", chain(&error)))?;
            let connections = connected.map_err(|error| format!("REDIS_URL: {}", chain(&error)))?;
            Ok((Arc::new(RedisKeyValue::new(connections.clone())), Arc::new(RedisCache::new(connections))))
        }
    }
}

/// The agents' database. Each agent gets a role and a schema of its own in it.
async fn database(config: &Config) -> Result<Arc<dyn Database>, String> {
    let connections_max = usize::try_from(config.sql_connections_max).unwrap_or(usize::MAX);
    match &config.database {
        Backend::Embedded => {
            Ok(Arc::new(LazyDatabase::new(config.data_dir.clone()).with_connections_max(connections_max)))
        }
        Backend::Url(url) => {
            let failed = |error: &dyn std::error::Error| format!("DATABASE_URL: {}", chain(error));
            let settings = PostgresConfig::parse(url.expose()).map_err(|error| failed(&error))?;
            // The records are in this database too; see `state`.
            let settings = PostgresConfig { keeps_records: true, ..settings }.with_connections_max(connections_max);
            let database = Postgres::connect(settings).await.map_err(|error| failed(&error))?;
            Ok(Arc::new(database))
        }
    }
}
