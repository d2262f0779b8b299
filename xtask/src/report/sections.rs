//! What a report says, in the order of the reference report: a section for each test, with figures, plots and checks.

use anyhow::Result;
use serde_json::Value;

use super::figures::{self, Scenario};
use super::limits::{self, Scale, Verdict};
use super::plot::{Line, Plot};
use super::run::{Baseline, RESOURCES, Run, object, text};
use super::words;

/// A row of a section's table.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) value: String,
    pub(super) reference: String,
    pub(super) limits: String,
    pub(super) verdict: Verdict,
}

/// How often a check of the answers' meaning held.
pub(super) struct Check {
    pub(super) name: String,
    pub(super) right: u64,
    pub(super) wrong: u64,
}

/// One test.
pub(super) struct Section {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) about: &'static str,
    pub(super) rows: Vec<Row>,
    pub(super) plots: Vec<Plot>,
    pub(super) checks: Vec<Check>,
    /// What went wrong that no figure tells.
    pub(super) wrong: Vec<String>,
}

impl Section {
    /// Everything broken in it, for the end of the command.
    pub(super) fn broken(&self) -> Vec<String> {
        let limits = self.rows.iter().filter(|row| row.verdict == Verdict::Broken);
        let limits = limits.map(|row| format!("{}: {} is {}, not {}", self.title, row.label, row.value, row.limits));
        limits.chain(self.wrong.iter().map(|wrong| format!("{}: {wrong}", self.title))).collect()
    }

    /// How many of its figures ended as this.
    pub(super) fn count(&self, of: impl Fn(Verdict) -> bool) -> usize {
        self.rows.iter().filter(|row| of(row.verdict)).count()
    }
}

/// Every section of a run.
pub(super) fn all(run: &Run, baseline: &Baseline) -> Result<Vec<Section>> {
    let mut sections = Vec::new();
    for scenario in &run.scenarios {
        let reference = baseline.test(&scenario.id);
        let figures = scenario.figures(reference.get("profile").unwrap_or(&Value::Null))?;
        let title = match text(&reference, "title") {
            "" => scenario.id.clone(),
            title => title.to_owned(),
        };
        sections.push(Section {
            id: scenario.id.clone(),
            title,
            about: about(&scenario.id),
            rows: rows(&figures, &reference, run.scale()),
            plots: plots(scenario),
            checks: checks(&scenario.said),
            wrong: wrong(scenario),
        });
    }
    let reference = baseline.test(RESOURCES);
    sections.push(Section {
        id: RESOURCES.to_owned(),
        title: "Resources".to_owned(),
        about: about(RESOURCES),
        rows: rows(&figures::resources(&run.scenarios), &reference, run.scale()),
        plots: Vec::new(),
        checks: Vec::new(),
        wrong: Vec::new(),
    });
    Ok(sections)
}

fn about(id: &str) -> &'static str {
    match id {
        "load" => {
            "Ever more users hand tasks in over HTTP (one cache read and one insert each), think, and look until the task \
             has ended. Duration: from the request to the 202, which follows the broker's confirm."
        }
        "spike" => {
            "Requests at a steady rate, then at five times that rate, then as before. Recovery: how long after the spike \
             the p95 stayed above twice what it was before."
        }
        "soak" => {
            "The same users for a long time, with tasks, cached reads and rows mixed. Memory growth: from the end of the \
             warm-up (a fifth of the time) to the end; from 5 % on it counts as a leak."
        }
        "a-task-distribution" => {
            "Ever more users, then tasks by the thousand at once. Messages per second: from the acceptance of a burst's \
             first task to the end of its last. Processing: from the broker's confirm to the task's end."
        }
        "b-voting-consensus" => {
            "Every voter votes on every proposal at the same time, some of them twice. Accuracy: proposals whose votes are \
             counted exactly once each, and whose consensus is what the votes say."
        }
        "c-crud" => {
            "Operations on rows at a growing rate, in the reference's mix, then many inserts at once. Latency of an \
             operation: its run in a fresh sandbox with its statement. Operations per second: those inserts, to their last \
             commit. Pool: mean share of the connections in use."
        }
        "d-cache" => {
            "Reads through a cache at a growing rate. Hits are counted at the host. Miss penalty: the median run of a miss \
             less that of a hit. Memory: that of Redis."
        }
        RESOURCES => {
            "The most of all scenarios: resident memory of the host at any second; its processor time, in percent of all \
             cores, as a mean; the share of the pool; publishing to RabbitMQ with its confirm. The servers and k6 share the \
             machine."
        }
        _ => "",
    }
}

fn rows(figures: &serde_json::Map<String, Value>, reference: &Value, scale: Scale) -> Vec<Row> {
    let (result, sla) = (object(reference, "result"), object(reference, "sla"));
    let row = |name: &String| {
        let value = figures.get(name)?;
        Some(Row {
            label: words::label(name),
            value: words::value(value),
            reference: result.get(name).map(words::value).unwrap_or_default(),
            limits: limits::signs(sla.get(name)),
            verdict: limits::judge(name, value, sla.get(name), scale),
        })
    };
    // What has a limit, what the reference tells as well, the rest; percentiles before their maximum.
    let rank = |name: &String| match (sla.contains_key(name), result.contains_key(name)) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    };
    let mut names: Vec<&String> = figures.keys().collect();
    names.sort_by_key(|name| (rank(name), name.replace("_max_", "_pmax_")));
    names.into_iter().filter_map(row).collect()
}

fn checks(said: &Value) -> Vec<Check> {
    let mut found: Vec<Check> = Vec::new();
    for check in said.get("checks").and_then(Value::as_array).into_iter().flatten() {
        let count = |key| check.get(key).and_then(Value::as_u64).unwrap_or_default();
        let name = text(check, "name").to_owned();
        // A check that is made before and during the load is one.
        match found.iter_mut().find(|known| known.name == name) {
            Some(known) => {
                known.right += count("passes");
                known.wrong += count("fails");
            }
            None => found.push(Check { name, right: count("passes"), wrong: count("fails") }),
        }
    }
    found
}

/// What must hold in a run of any size.
fn wrong(scenario: &Scenario) -> Vec<String> {
    let mut wrong = Vec::new();
    for check in checks(&scenario.said).into_iter().filter(|check| check.wrong > 0) {
        wrong.push(format!("{} of {} answers are wrong: {}", check.wrong, check.right + check.wrong, check.name));
    }
    let lost = scenario.said.pointer("/metrics/tasks_lost/values/count").and_then(Value::as_f64).unwrap_or_default();
    if lost > 0.0 {
        wrong.push(format!("{lost} accepted tasks did not end"));
    }
    if let Some(missing) = scenario.unaccounted().filter(|missing| missing.abs() >= 1.0) {
        wrong.push(format!("tasks accepted less tasks that the host ended: {missing}, not 0"));
    }
    wrong
}

/// The plots that have something to show.
fn plots(scenario: &Scenario) -> Vec<Plot> {
    let Scenario { load, host, .. } = scenario;
    let line =
        |from: &super::series::Series, name: &str, label: &'static str| Line { label, points: from.points(name) };
    let plots = [
        Plot::new("Enqueue latency", "ms").with([
            line(load, "enqueue_p50_ms", "p50"),
            line(load, "enqueue_p95_ms", "p95"),
            line(load, "enqueue_p99_ms", "p99"),
        ]),
        Plot::new("End to end latency", "ms").with([
            line(load, "end_to_end_p50_ms", "p50"),
            line(load, "end_to_end_p95_ms", "p95"),
            line(load, "end_to_end_p99_ms", "p99"),
        ]),
        Plot::new("Throughput", "per second").with([
            line(load, "requests_per_s", "requests"),
            line(load, "accepted_per_s", "tasks accepted"),
            line(host, "settled_per_s", "tasks ended"),
        ]),
        Plot::new("Errors", "% of tasks").with([line(load, "errors_percent", "errors")]),
        Plot::new("Resident memory of the host", "MB").with([
            line(host, "host_memory_mb", "resident"),
            line(host, "reserved_mb", "promised to instances"),
            line(host, "budget_mb", "budget"),
        ]),
        Plot::new("Queue depth", "messages").with([line(host, "queue_depth", "ready")]),
        Plot::new("Connection pool", "connections").with([
            line(host, "pool_used", "used"),
            line(host, "pool_open", "open"),
            line(host, "pool_max", "most"),
        ]),
        Plot::new("Cache hits", "% of look-ups").with([line(host, "cache_hit_percent", "hits")]),
        Plot::new("Broker and cache latency, p95", "ms")
            .with([line(host, "publish_p95_ms", "publish to confirm"), line(host, "redis_p95_ms", "cache read")]),
        Plot::new("Processor", "% of all cores").with([
            line(host, "host_cpu_percent", "host"),
            line(host, "rabbitmq_cpu_percent", "RabbitMQ"),
            line(host, "postgresql_cpu_percent", "PostgreSQL"),
            line(host, "redis_cpu_percent", "Redis"),
            line(host, "k6_cpu_percent", "k6"),
        ]),
    ];
    plots.into_iter().filter(|plot| !plot.is_empty()).collect()
}
