//! The state of the host for `/metrics`, and for a collector that it is pushed to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::Registry;
use prometheus::proto::MetricFamily;
use tokio_util::sync::CancellationToken;

use crate::agents::Agents;
use crate::deploy::{Deployer, Seen};
use crate::memory::MemoryLedger;
use crate::telemetry::{HostMetrics, HostReadings, rendered};

/// How often queue depths are asked for; each costs the broker a passive declare per agent.
const QUEUE_WATCH_PERIOD: Duration = Duration::from_secs(5);

/// Reads the state of the host.
#[derive(Clone)]
pub(super) struct Observer {
    metrics: HostMetrics,
    ledger: MemoryLedger,
    deployer: Arc<Deployer>,
    /// One scrape at a time: some series are emptied and filled again, which another scrape must not see half-done.
    scraping: Arc<Mutex<()>>,
}

impl Observer {
    pub(super) fn new(registry: &Registry, ledger: MemoryLedger, deployer: Arc<Deployer>) -> prometheus::Result<Self> {
        Ok(Self { metrics: HostMetrics::new(registry)?, ledger, deployer, scraping: Arc::default() })
    }

    /// All metrics in Prometheus's text format.
    pub(super) fn render(&self) -> String {
        rendered(&self.gather())
    }

    /// All metrics.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        let _alone = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let active = self.deployer.active();
        self.metrics
            .revisions(active.iter().map(|revision| (&revision.agent, revision.number, revision.digest.as_str())));
        let capabilities = &self.deployer.capabilities;
        let cache = capabilities.cache_counts();
        self.metrics.cache_counts(cache.iter().map(|(agent, counts)| (agent, counts.hits(), counts.misses())));
        self.metrics.gather(self.readings())
    }

    /// What the process knows about itself.
    pub(super) fn readings(&self) -> HostReadings {
        let connections = self.deployer.capabilities.backends().database.connections();
        let accounts = self.ledger.accounts();
        HostReadings {
            budget_bytes: self.ledger.budget_bytes(),
            reserved_bytes: accounts.reserved_bytes,
            baseline_bytes: accounts.baseline_bytes,
            waiting: accounts.waiting,
            live_instances: self.deployer.runner.live_instances(),
            connections_used: connections.used as u64,
            connections_idle: connections.idle as u64,
            connections_max: connections.max as u64,
        }
    }

    /// Hits and misses in the cache, of all agents.
    pub(super) fn cache_counts(&self) -> (u64, u64) {
        let counts = self.deployer.capabilities.cache_counts();
        counts.iter().fold((0, 0), |(hits, misses), (_, of)| (hits + of.hits(), misses + of.misses()))
    }

    /// The agents of this host, as they are now.
    pub(super) fn agents(&self) -> Vec<Seen> {
        self.deployer.seen()
    }

    /// Keeps the queue depths fresh until the host drains.
    pub(super) async fn watch_queues(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(QUEUE_WATCH_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // Depths are asked for agent by agent; while the broker is away the last ones stand.
            for agent in self.deployer.list().await.unwrap_or_default() {
                if let (Some(ready), Some(dead)) = (agent.queue_depth, agent.dead_letters) {
                    self.metrics.queue_depth(&agent.name, ready, dead);
                }
            }
        }
    }
}
