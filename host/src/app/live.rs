//! What the dashboard draws, and what this host tells the others of itself: rates and latencies of the last seconds, from the
//! metrics.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::Registry;
use prometheus::proto::Metric;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::observe::Observer;
use crate::agents::AgentState;
use crate::catalog::{HostDoing, HostFigures, REPORT_EVERY};
use crate::http::{AgentLive, ErrorLive, FleetHostLive, HostLive, Snapshot};
use crate::task::unix_ms_now;
use crate::telemetry::resident_bytes;

/// How often a snapshot is made, while somebody looks.
const EVERY: Duration = Duration::from_secs(1);
/// Every how many of these this host's own figures are made for the others, and theirs are looked at: they come as often.
const FLEET_EVERY: u64 = REPORT_EVERY.as_secs() / EVERY.as_secs();
/// Rates and latencies are over this time.
const WINDOW: Duration = Duration::from_secs(10);

/// What is counted of one agent since the host started.
#[derive(Clone, Debug, Default)]
struct Counts {
    settled: f64,
    attempts: f64,
    errors: BTreeMap<String, f64>,
    /// Deliveries that took at most so many seconds.
    took: Vec<(f64, u64)>,
    queue_depth: f64,
    queue_age_seconds: f64,
    dead_letters: f64,
}

type Sample = BTreeMap<String, Counts>;

/// Who is told.
pub(super) struct Told {
    /// Those who look.
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    /// The fleet.
    pub(super) figures: watch::Sender<HostFigures>,
}

/// Makes snapshots and figures until it is told to end.
pub(super) async fn run(observer: Observer, registry: Registry, host: Arc<str>, told: Told, stop: CancellationToken) {
    /// The API keeps one, from which streams are made.
    const RECEIVERS_OF_NOBODY: usize = 1;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut samples = VecDeque::<(Instant, Sample)>::new();
    let mut hosts = Vec::new();
    for tick in 0_u64.. {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        let is_watched = told.snapshots.receiver_count() > RECEIVERS_OF_NOBODY;
        let is_for_fleet = tick % FLEET_EVERY == 0;
        if !is_watched && !is_for_fleet {
            continue;
        }
        if is_watched && (is_for_fleet || hosts.is_empty()) {
            hosts = fleet(&observer).await.unwrap_or(hosts);
        }
        let now = (Instant::now(), sample(&registry));
        while samples.front().is_some_and(|(at, _)| now.0.duration_since(*at) > WINDOW) {
            samples.pop_front();
        }
        let snapshot = snapshot(&observer, &host, samples.front().unwrap_or(&now), &now);
        told.figures.send_replace(figures(&snapshot));
        told.snapshots.send_replace(Arc::new(Snapshot { hosts: hosts.clone(), ..snapshot }));
        samples.push_back(now);
    }
}

/// How the hosts do; nothing while the database is away or slow.
async fn fleet(observer: &Observer) -> Option<Vec<FleetHostLive>> {
    let doing = tokio::time::timeout(EVERY, observer.doing()).await.ok()?.ok()?;
    let live = |HostDoing { host, figures }: HostDoing| {
        let figures = figures.unwrap_or_default();
        FleetHostLive {
            host,
            per_second: figures.per_second,
            p95_ms: figures.p95_ms,
            error_ratio: figures.error_ratio,
            running: figures.running,
            memory_budget_bytes: figures.memory_budget_bytes,
            memory_resident_bytes: figures.memory_resident_bytes,
        }
    };
    Some(doing.into_iter().map(live).collect())
}

fn figures(snapshot: &Snapshot) -> HostFigures {
    let Snapshot { total, resources, .. } = snapshot;
    HostFigures {
        per_second: total.per_second,
        p95_ms: total.p95_ms,
        error_ratio: total.error_ratio,
        running: total.running,
        memory_budget_bytes: resources.memory_budget_bytes,
        memory_resident_bytes: resources.memory_resident_bytes,
    }
}

fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    metric.get_label().iter().find(|label| label.name() == name).map_or("", |label| label.value())
}

fn sample(registry: &Registry) -> Sample {
    let mut sample = Sample::new();
    for family in registry.gather() {
        for metric in family.get_metric() {
            let agent = label(metric, "agent");
            if agent.is_empty() {
                continue;
            }
            let counts = sample.entry(agent.to_owned()).or_default();
            match family.name() {
                "agent_settlements" => counts.settled += metric.get_counter().get_value(),
                "faas_invocations" => counts.attempts += metric.get_counter().get_value(),
                "faas_errors" => {
                    let reason = label(metric, "error_type").to_owned();
                    *counts.errors.entry(reason).or_default() += metric.get_counter().get_value();
                }
                "messaging_process_duration_seconds" => {
                    let buckets = metric.get_histogram().get_bucket();
                    counts.took =
                        buckets.iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect();
                }
                "agent_queue_depth" => counts.queue_depth = metric.get_gauge().get_value(),
                "agent_queue_age_seconds" => counts.queue_age_seconds = metric.get_gauge().get_value(),
                "agent_dead_letter_depth" => counts.dead_letters = metric.get_gauge().get_value(),
                _ => {}
            }
        }
    }
    sample
}

impl Counts {
    /// What was counted since then.
    fn since(&self, before: &Self) -> Self {
        let errors = self
            .errors
            .iter()
            .map(|(reason, count)| (reason.clone(), count - before.errors.get(reason).copied().unwrap_or_default()));
        let took = self.took.iter().enumerate().map(|(index, (bound, count))| {
            (*bound, count.saturating_sub(before.took.get(index).map_or(0, |(_, count)| *count)))
        });
        Self {
            settled: self.settled - before.settled,
            attempts: self.attempts - before.attempts,
            errors: errors.collect(),
            took: took.collect(),
            ..self.clone()
        }
    }

    fn add(&mut self, other: &Self) {
        self.settled += other.settled;
        self.attempts += other.attempts;
        for (reason, count) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
        if self.took.is_empty() {
            self.took.clone_from(&other.took);
        } else {
            self.took.iter_mut().zip(&other.took).for_each(|((_, all), (_, more))| *all += more);
        }
        self.queue_depth += other.queue_depth;
        self.queue_age_seconds = self.queue_age_seconds.max(other.queue_age_seconds);
        self.dead_letters += other.dead_letters;
    }

    /// What is shown of it, where it was counted over so many seconds.
    fn live(&self, seconds: f64) -> AgentLive {
        let rate = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        let failed: f64 = self.errors.values().sum();
        let errors = self.errors.iter().filter(|(_, count)| **count > 0.0);
        AgentLive {
            per_second: rate(self.settled),
            p50_ms: quantile(&self.took, 0.5),
            p95_ms: quantile(&self.took, 0.95),
            p99_ms: quantile(&self.took, 0.99),
            error_ratio: (self.attempts > 0.0).then(|| (failed / self.attempts).min(1.0)),
            errors: errors
                .map(|(reason, count)| ErrorLive { reason: reason.clone(), per_second: rate(*count) })
                .collect(),
            queue_depth: whole(self.queue_depth),
            queue_age_seconds: whole(self.queue_age_seconds),
            dead_letters: whole(self.dead_letters),
            ..AgentLive::default()
        }
    }
}

/// The time that this part of all stayed below, in milliseconds; between the bounds of a bucket by its logarithm.
fn quantile(took: &[(f64, u64)], part: f64) -> Option<f64> {
    /// Below the first bound nothing is known: taken for a decade.
    const FIRST_BUCKET: f64 = 10.0;
    let all = took.last().map(|(_, count)| *count).filter(|all| *all > 0)?;
    let rank = part * float(all);
    let mut below = (None::<f64>, 0_u64);
    for (bound, count) in took {
        if float(*count) >= rank && *count > below.1 {
            let from = below.0.unwrap_or(bound / FIRST_BUCKET);
            if !bound.is_finite() {
                return Some(from * 1_000.0);
            }
            let within = (rank - float(below.1)) / float(count - below.1);
            return Some(from * (bound / from).powf(within) * 1_000.0);
        }
        below = (Some(*bound), *count);
    }
    None
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 deliveries")]
fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "gauges of counts: not negative, and small"
)]
fn whole(gauge: f64) -> u64 {
    gauge.max(0.0) as u64
}

fn snapshot(observer: &Observer, host: &str, before: &(Instant, Sample), now: &(Instant, Sample)) -> Snapshot {
    let seconds = now.0.duration_since(before.0).as_secs_f64();
    let (mut all, nothing) = (Counts::default(), Counts::default());
    let mut agents = Vec::new();
    let mut running = 0;
    for seen in observer.agents() {
        let name = seen.agent.as_str();
        let counts = now.1.get(name).unwrap_or(&nothing).since(before.1.get(name).unwrap_or(&nothing));
        all.add(&counts);
        running += seen.running;
        agents.push(AgentLive {
            agent: name.to_owned(),
            traffic: seen.traffic.weights().iter().map(|(n, p)| format!("{n}: {p} %")).collect::<Vec<_>>().join(", "),
            is_paused: seen.state == AgentState::Paused,
            running: seen.running,
            ..counts.live(seconds)
        });
    }
    let readings = observer.readings();
    let (hits, misses) = observer.cache_counts();
    let resources = HostLive {
        memory_budget_bytes: readings.budget_bytes,
        memory_reserved_bytes: readings.reserved_bytes,
        memory_resident_bytes: resident_bytes().unwrap_or_default(),
        waiting_for_memory: readings.waiting,
        live_instances: readings.live_instances,
        connections_used: readings.connections_used,
        connections_max: readings.connections_max,
        cache_hit_ratio: (hits + misses > 0).then(|| float(hits) / float(hits + misses)),
    };
    let total = AgentLive { running, ..all.live(seconds) };
    Snapshot { at: unix_ms_now(), host: host.to_owned(), resources, total, agents, hosts: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_their_buckets() {
        let took = [(0.001, 50), (0.01, 90), (0.1, 100), (f64::INFINITY, 100)];
        assert!((quantile(&took, 0.5).unwrap() - 1.0).abs() < 1e-9);
        let p95 = quantile(&took, 0.95).unwrap();
        assert!((10.0..100.0).contains(&p95), "{p95}");
        assert!(quantile(&took, 0.1).unwrap() < 1.0);
        assert_eq!(quantile(&[(0.001, 0), (f64::INFINITY, 3)], 0.5), Some(1.0), "beyond the last bound");
        assert_eq!(quantile(&[(0.001, 0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn counts_are_those_of_the_window() {
        let counts = |settled: f64, errors: f64, fast: u64, slow: u64| Counts {
            settled,
            attempts: settled,
            errors: BTreeMap::from([("trapped".to_owned(), errors)]),
            took: vec![(0.001, fast), (f64::INFINITY, fast + slow)],
            ..Counts::default()
        };
        let live = counts(30.0, 4.0, 25, 5).since(&counts(10.0, 2.0, 10, 0)).live(10.0);
        assert!((live.per_second - 2.0).abs() < 1e-9 && (live.error_ratio.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(live.errors, [ErrorLive { reason: "trapped".to_owned(), per_second: 0.2 }]);
        assert_eq!(live.p99_ms, Some(1.0));
        let idle = Counts::default().live(0.0);
        assert_eq!((idle.per_second, idle.p50_ms, idle.error_ratio), (0.0, None, None));
    }
}
