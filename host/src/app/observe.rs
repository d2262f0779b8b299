//! The state of the host for `/metrics`, and for a collector that it is pushed to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::Registry;
use prometheus::proto::MetricFamily;
use tokio_util::sync::CancellationToken;

use crate::agents::Agents;
use crate::catalog::{CatalogError, HostDoing};
use crate::deploy::{Deployer, Seen};
use crate::memory::MemoryLedger;
use crate::task::{AgentName, UnixMs, unix_ms_now};
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

    /// How the hosts of the fleet do.
    pub(super) async fn doing(&self) -> Result<Vec<HostDoing>, CatalogError> {
        self.deployer.doing().await
    }

    /// Keeps the queue depths fresh until the host drains.
    pub(super) async fn watch_queues(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(QUEUE_WATCH_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ages = QueueAges::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // Depths are asked for agent by agent; while the broker is away the last ones stand.
            for agent in self.deployer.list().await.unwrap_or_default() {
                if let (Some(ready), Some(dead)) = (agent.queue_depth, agent.dead_letters) {
                    let newest = self.deployer.newest_enqueued_ms(&agent.name);
                    let age_ms = ages.age_ms(&agent.name, ready, newest, unix_ms_now());
                    self.metrics.queue_depth(&agent.name, ready, age_ms, dead);
                }
            }
        }
    }
}

/// Since when each queue may have held what it holds. The broker does not tell, but queues are in order.
#[derive(Default)]
struct QueueAges {
    /// When a queue was first looked at, and when it was last seen empty.
    looked: BTreeMap<AgentName, (UnixMs, Option<UnixMs>)>,
}

impl QueueAges {
    /// How long the oldest ready task has waited, at most, in milliseconds: it was enqueued after the youngest that came here, and
    /// after the queue was last empty. Of a queue where neither is known, no more than since it was first looked at.
    fn age_ms(&mut self, agent: &AgentName, ready: u64, newest: Option<UnixMs>, now: UnixMs) -> u64 {
        let (first, empty) = self.looked.entry(agent.clone()).or_insert((now, None));
        if ready == 0 {
            *empty = Some(now);
        }
        now.saturating_sub(newest.max(*empty).unwrap_or(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_as_old_as_what_may_wait_in_it() {
        let (mut ages, agent) = (QueueAges::default(), AgentName::parse("a").unwrap());
        let mut at = |now, ready, newest| ages.age_ms(&agent, ready, newest, now);
        assert_eq!(at(10_000, 5, None), 0);
        assert_eq!(at(15_000, 5, None), 5_000, "since somebody looks");
        assert_eq!(at(20_000, 5, Some(2_000)), 18_000, "what comes is as old as that");
        assert_eq!(at(25_000, 0, Some(2_000)), 0);
        assert_eq!(at(30_000, 5, Some(2_000)), 5_000, "it was empty since");
        assert_eq!(at(35_000, 5, Some(34_000)), 1_000);
        assert_eq!(at(40_000, 5, Some(90_000)), 0, "by a clock that is ahead");
    }
}
