//! The state of the process itself, read when metrics are scraped.

use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder, opts};

use crate::task::AgentName;

/// Gauges that are read at scrape time.
#[derive(Clone, Debug)]
pub struct HostMetrics {
    registry: Registry,
    budget_bytes: IntGauge,
    reserved_bytes: IntGauge,
    baseline_bytes: IntGauge,
    resident_bytes: IntGauge,
    waiting: IntGauge,
    live_instances: IntGauge,
    queue_depth: IntGaugeVec,
    queue_age_seconds: IntGaugeVec,
    dead_letter_depth: IntGaugeVec,
    revision_info: IntGaugeVec,
    connections_used: IntGauge,
    connections_idle: IntGauge,
    connections_max: IntGauge,
    cache_hits: IntCounterVec,
    cache_misses: IntCounterVec,
}

/// What the process knows about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostReadings {
    /// The memory budget.
    pub budget_bytes: u64,
    /// Accounted for: running tasks' memory, and bodies and results in flight.
    pub reserved_bytes: u64,
    /// Resident beside that.
    pub baseline_bytes: u64,
    /// Tasks that wait for memory.
    pub waiting: u64,
    /// Instances alive.
    pub live_instances: u64,
    /// Connections to the agents' database that a task uses.
    pub connections_used: u64,
    /// Connections to the agents' database that wait for a task.
    pub connections_idle: u64,
    /// How many connections to the agents' database there may be.
    pub connections_max: u64,
}

impl HostMetrics {
    /// Registers the gauges.
    ///
    /// # Errors
    /// A name that is registered already: a mistake in the host.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let labelled = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(opts!(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounterVec::new(opts!(name, help), &["agent"])?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let connections =
            labelled("db_client_connections", "Connections to the agents' database, by state.", &["state"])?;
        Ok(Self {
            registry: registry.clone(),
            budget_bytes: gauge("host_memory_budget_bytes", "What the process may keep resident.")?,
            reserved_bytes: gauge(
                "host_memory_reserved_bytes",
                "Accounted for: running tasks' memory, bodies and results in flight.",
            )?,
            baseline_bytes: gauge("host_memory_baseline_bytes", "Resident beside what is accounted for.")?,
            resident_bytes: gauge("host_memory_resident_bytes", "What the process keeps resident.")?,
            waiting: gauge("host_tasks_waiting_for_memory", "Tasks that wait for memory.")?,
            live_instances: gauge("host_live_instances", "Instances alive.")?,
            queue_depth: labelled("agent_queue_depth", "Ready messages in an agent's queue.", &["agent"])?,
            queue_age_seconds: labelled(
                "agent_queue_age_seconds",
                "How long the oldest ready message in an agent's queue has waited, at most.",
                &["agent"],
            )?,
            dead_letter_depth: labelled(
                "agent_dead_letter_depth",
                "Messages in an agent's dead-letter queue.",
                &["agent"],
            )?,
            revision_info: labelled("agent_revision_info", "The active revision.", &["agent", "revision", "digest"])?,
            connections_used: connections.with_label_values(&["used"]),
            connections_idle: connections.with_label_values(&["idle"]),
            connections_max: gauge(
                "db_client_connections_max",
                "How many connections there may be to the agents' database.",
            )?,
            cache_hits: counter("cache_hits", "Keys that agents looked up in the cache and found.")?,
            cache_misses: counter("cache_misses", "Keys that agents looked up in the cache and did not find.")?,
        })
    }

    /// Notes what waits in an agent's queues, and how long it has, in milliseconds.
    pub fn queue_depth(&self, agent: &AgentName, ready: u64, age_ms: u64, dead: u64) {
        self.queue_age_seconds.with_label_values(&[agent.as_str()]).set(gauge_value(age_ms / 1_000));
        self.queue_depth.with_label_values(&[agent.as_str()]).set(gauge_value(ready));
        self.dead_letter_depth.with_label_values(&[agent.as_str()]).set(gauge_value(dead));
    }

    /// Replaces what is known about active revisions.
    pub fn revisions<'a>(&self, active: impl Iterator<Item = (&'a AgentName, u64, &'a str)>) {
        self.revision_info.reset();
        for (agent, revision, digest) in active {
            let labels = [agent.as_str(), &revision.to_string(), digest];
            self.revision_info.with_label_values(&labels).set(1);
        }
    }

    /// Replaces what is known about hits and misses in the cache: each agent's totals since the host started.
    pub fn cache_counts<'a>(&self, totals: impl Iterator<Item = (&'a AgentName, u64, u64)>) {
        for (agent, hits, misses) in totals {
            for (counter, total) in [(&self.cache_hits, hits), (&self.cache_misses, misses)] {
                let counter = counter.with_label_values(&[agent.as_str()]);
                counter.reset();
                counter.inc_by(total);
            }
        }
    }

    /// Everything in the registry.
    #[must_use]
    pub fn gather(&self, readings: HostReadings) -> Vec<MetricFamily> {
        self.budget_bytes.set(gauge_value(readings.budget_bytes));
        self.reserved_bytes.set(gauge_value(readings.reserved_bytes));
        self.baseline_bytes.set(gauge_value(readings.baseline_bytes));
        self.waiting.set(gauge_value(readings.waiting));
        self.live_instances.set(gauge_value(readings.live_instances));
        self.connections_used.set(gauge_value(readings.connections_used));
        self.connections_idle.set(gauge_value(readings.connections_idle));
        self.connections_max.set(gauge_value(readings.connections_max));
        self.resident_bytes.set(gauge_value(resident_bytes().unwrap_or_default()));
        self.registry.gather()
    }
}

/// Metrics in Prometheus's text format.
#[must_use]
pub fn rendered(families: &[MetricFamily]) -> String {
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(families, &mut text) {
        tracing::error!(%error, "metrics cannot be rendered");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Resident memory of this process, in bytes; nothing where the system does not tell.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    // `statm`, not `status`: it is read often, and takes a tenth of the time.
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<u64>().ok()?;
    // SAFETY: sysconf() takes an integer and touches no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.checked_mul(u64::try_from(page_bytes).ok()?)
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
