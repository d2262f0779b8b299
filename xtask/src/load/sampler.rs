//! Looks at the host and its servers once a second while a script runs.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::processes::Processes;
use super::prometheus::Metrics;
use crate::client::Client;
use crate::report::series::Series;

/// How often it is asked whether it is time for a look.
pub(super) const TURN: Duration = Duration::from_millis(50);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Between two lines of progress where there is no terminal to draw on.
const LINE_EVERY_LOOKS: u32 = 5;

/// What the host measures of the broker: from a publish to its confirm.
const PUBLISH: (&str, &str) = ("messaging_client_operation_duration_seconds", "operation=\"publish\"");
/// And of Redis: labels come in the order of their names.
const REDIS_GET: (&str, &str) = ("db_client_operation_duration_seconds", "operation=\"get\",system=\"redis\"");

/// What the columns of the host's own process begin with.
const HOST: &str = "host";

/// Bytes of a megabyte, in which the memory budget is told.
const MB: f64 = 1e6;

/// Samples of one script's run.
pub(super) struct Sampler<'a> {
    client: &'a Client,
    /// What is watched: the name that its columns begin with, and its process id.
    watched: Vec<(&'static str, u32)>,
    cores: f64,
    begun: Instant,
    looks: u32,
    first: Metrics,
    last: Metrics,
    last_at: Instant,
    last_cpu_s: Vec<f64>,
    series: Series,
}

impl<'a> Sampler<'a> {
    /// One that watches the host and these servers.
    pub(super) fn new(client: &'a Client, host: u32, servers: &[(&'static str, u32)]) -> Self {
        let name = |program: &'static str| match program {
            "rabbitmq-server" => "rabbitmq",
            "postgres" => "postgresql",
            "redis-server" => "redis",
            other => other,
        };
        let servers = servers.iter().map(|(program, pid)| (name(program), *pid));
        let now = Instant::now();
        Self {
            client,
            watched: std::iter::once((HOST, host)).chain(servers).collect(),
            cores: f64::from(u32::try_from(super::machine::cores()).unwrap_or(u32::MAX)),
            begun: now,
            looks: 0,
            first: Metrics::default(),
            last: Metrics::default(),
            last_at: now,
            last_cpu_s: Vec::new(),
            series: Series::default(),
        }
    }

    /// The start: what the host has counted by now does not count. `k6` is the process that makes the load.
    pub(super) fn begin(&mut self, k6: u32) -> Result<()> {
        self.watched.push(("k6", k6));
        self.first = Metrics::parse(&self.client.metrics()?);
        self.last = self.first.clone();
        self.last_cpu_s = self.cpu_s(&Processes::look());
        self.begun = Instant::now();
        self.last_at = self.begun;
        Ok(())
    }

    /// Looks if it is time to, and then gives a line about what it saw. A host too busy to answer is looked at later.
    pub(super) fn tend(&mut self) -> Result<Option<String>> {
        if self.last_at.elapsed() < EVERY {
            return Ok(None);
        }
        let Ok(text) = self.client.metrics() else {
            self.last_at = Instant::now();
            return Ok(None);
        };
        let (now, metrics, processes) = (Instant::now(), Metrics::parse(&text), Processes::look());
        let seconds = (now - self.last_at).as_secs_f64();
        let cpu_s = self.cpu_s(&processes);
        let mut row: Vec<(String, f64)> = Vec::new();
        for ((name, pid), (cpu_s, before)) in self.watched.iter().zip(cpu_s.iter().zip(&self.last_cpu_s)) {
            row.push((format!("{name}_cpu_percent"), (cpu_s - before).max(0.0) / seconds / self.cores * 100.0));
            // The budget is the host process's own: what compiles for it is bounded apart.
            let bytes = if *name == HOST { processes.own_memory_bytes(*pid) } else { processes.memory_bytes(*pid) };
            row.push((format!("{name}_memory_mb"), bytes / MB));
        }
        let seen = seen(&metrics, &self.last, seconds);
        row.extend(seen.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?))));
        let time_s = (now - self.begun).as_secs_f64();
        self.series.add(time_s, row.iter().map(|(name, value)| (name.as_str(), *value)));
        let line = progress(time_s, &row);
        (self.last, self.last_at, self.last_cpu_s) = (metrics, now, cpu_s);
        self.looks += 1;
        Ok(Some(line))
    }

    /// Whether a line of progress is due where nothing can be drawn over.
    pub(super) fn is_time_for_a_line(&self) -> bool {
        self.looks.is_multiple_of(LINE_EVERY_LOOKS)
    }

    /// The end: what the host measured over the whole run.
    pub(super) fn end(&mut self) -> Result<Value> {
        let now = Metrics::parse(&self.client.metrics()?);
        let p95_ms = |(name, labels): (&str, &str)| now.quantile(&self.first, name, labels, 0.95).map(|s| s * 1000.0);
        Ok(json!({ "publish_p95_ms": p95_ms(PUBLISH), "redis_p95_ms": p95_ms(REDIS_GET) }))
    }

    /// What was seen, second by second.
    pub(super) fn series(&self) -> &Series {
        &self.series
    }

    fn cpu_s(&self, processes: &Processes) -> Vec<f64> {
        self.watched.iter().map(|(_, pid)| processes.cpu_s(*pid)).collect()
    }
}

/// What a host's metrics say, of now and of the time since the look before.
fn seen(now: &Metrics, before: &Metrics, seconds: f64) -> Vec<(&'static str, Option<f64>)> {
    let mb = |name| now.sum(name, "").map(|bytes| bytes / MB);
    let used = now.sum("db_client_connections", "state=\"used\"");
    let idle = now.sum("db_client_connections", "state=\"idle\"");
    let settled = now.growth(before, "agent_settlements", "settlement=\"acknowledge\"");
    let hits = now.growth(before, "cache_hits", "agent=\"cache-reader\"").unwrap_or_default();
    let misses = now.growth(before, "cache_misses", "agent=\"cache-reader\"").unwrap_or_default();
    let p95_ms = |(name, labels): (&str, &str)| now.quantile(before, name, labels, 0.95).map(|s| s * 1000.0);
    vec![
        ("budget_mb", mb("host_memory_budget_bytes")),
        ("reserved_mb", mb("host_memory_reserved_bytes")),
        ("instances", now.sum("host_live_instances", "")),
        ("waiting_for_memory", now.sum("host_tasks_waiting_for_memory", "")),
        ("queue_depth", now.sum("agent_queue_depth", "")),
        ("settled_per_s", settled.map(|count| count / seconds)),
        ("pool_used", used),
        ("pool_open", used.zip(idle).map(|(used, idle)| used + idle)),
        ("pool_max", now.sum("db_client_connections_max", "")),
        ("cache_hit_percent", (hits + misses > 0.0).then(|| hits / (hits + misses) * 100.0)),
        ("publish_p95_ms", p95_ms(PUBLISH)),
        ("redis_p95_ms", p95_ms(REDIS_GET)),
    ]
}

/// A line about a look.
fn progress(time_s: f64, row: &[(String, f64)]) -> String {
    let value = |name: &str| row.iter().find(|(found, _)| found == name).map_or(0.0, |(_, value)| *value);
    format!(
        "{time_s:5.0} s   {:6.0} tasks/s   publish p95 {:6.1} ms   queue {:5.0}   host {:4.0} MB, {:3.0} % cpu   k6 {:3.0} % cpu",
        value("settled_per_s"),
        value("publish_p95_ms"),
        value("queue_depth"),
        value("host_memory_mb"),
        value("host_cpu_percent"),
        value("k6_cpu_percent"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_tells_rates_and_shares_since_the_one_before() {
        let before = Metrics::parse("cache_hits{agent=\"cache-reader\"} 10\ncache_misses{agent=\"cache-reader\"} 10\n");
        let now = Metrics::parse(
            "cache_hits{agent=\"cache-reader\"} 13\ncache_misses{agent=\"cache-reader\"} 11\n\
             agent_settlements{agent=\"a\",reason=\"succeeded\",settlement=\"acknowledge\"} 40\n\
             db_client_connections{state=\"used\"} 3\ndb_client_connections{state=\"idle\"} 2\n",
        );
        let seen = seen(&now, &before, 2.0);
        let value = |name| seen.iter().find(|(found, _)| *found == name).and_then(|(_, value)| *value);
        assert_eq!(value("cache_hit_percent"), Some(75.0));
        assert_eq!(value("settled_per_s"), Some(20.0));
        assert_eq!(value("pool_open"), Some(5.0));
        // What a host does not tell is left out, not zero.
        assert_eq!(value("pool_max"), None);
    }
}
