//! What k6's dashboard records: each of its metrics, aggregated by moments: a second, or some.
//!
//! The file has one JSON object a line: `param` names the aggregates of each kind of metric, `metric` makes metrics known,
//! `snapshot` has a list of values for each known metric, in the order of their names.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::series::Series;

/// The aggregate of a counter that is told by the second. k6's own `rate` divides by the time that there should be between two
/// moments; where k6 is busy they are seconds apart, and the next ones follow at once.
const BY_TIME: &str = "count";

/// The columns of the table: name, k6's metric, its aggregate, and what to multiply it by.
const COLUMNS: [(&str, &str, &str, f64); 12] = [
    ("enqueue_p50_ms", "enqueue_latency", "med", 1.0),
    ("enqueue_p95_ms", "enqueue_latency", "p(95)", 1.0),
    ("enqueue_p99_ms", "enqueue_latency", "p(99)", 1.0),
    ("end_to_end_p50_ms", "end_to_end_latency", "med", 1.0),
    ("end_to_end_p95_ms", "end_to_end_latency", "p(95)", 1.0),
    ("end_to_end_p99_ms", "end_to_end_latency", "p(99)", 1.0),
    ("requests_per_s", "http_reqs", BY_TIME, 1.0),
    ("accepted_per_s", "tasks_accepted", BY_TIME, 1.0),
    ("ended_per_s", "tasks_finished", BY_TIME, 1.0),
    ("errors_percent", "errors", "rate", 100.0),
    ("users", "vus", "value", 1.0),
    ("dropped_per_s", "dropped_iterations", BY_TIME, 1.0),
];

/// Reads a recording.
pub(super) fn read(path: &Path) -> Result<Series> {
    let text = std::fs::read_to_string(path).with_context(|| format!("k6 left no {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a recording of k6's dashboard", path.display()))
}

fn parse(text: &str) -> Result<Series> {
    let mut series = Series::default();
    let mut aggregates: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // Ordered by name, as the snapshots are.
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let (mut period_ms, mut started_ms, mut last_ms) = (1.0, None, None);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let event: Value = serde_json::from_str(line).context("a line is not JSON")?;
        let data = event.get("data").unwrap_or(&Value::Null);
        match event.get("event").and_then(Value::as_str) {
            Some("param") => {
                period_ms = data.get("period").and_then(Value::as_f64).unwrap_or(period_ms);
                for (kind, names) in data.get("aggregates").and_then(Value::as_object).into_iter().flatten() {
                    let names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
                    aggregates.insert(kind.clone(), names.map(str::to_owned).collect());
                }
            }
            Some("metric") => {
                for (name, metric) in data.as_object().into_iter().flatten() {
                    let kind = metric.get("type").and_then(Value::as_str).unwrap_or_default();
                    kinds.insert(name.clone(), kind.to_owned());
                }
            }
            Some("start") => started_ms = data.pointer("/0/0").and_then(Value::as_f64),
            Some("snapshot") => {
                let value = |metric: &str, aggregate: &str| {
                    let at = kinds.keys().position(|name| name == metric)?;
                    let names = aggregates.get(kinds.get(metric)?)?;
                    data.get(at)?.get(names.iter().position(|name| name == aggregate)?)?.as_f64()
                };
                let now_ms = value("time", "value").context("a snapshot has no time")?;
                let started_ms = started_ms.context("the recording has no start")?;
                let since_s = (now_ms - last_ms.replace(now_ms).unwrap_or(started_ms)).max(period_ms) / 1000.0;
                let cells = COLUMNS.iter().filter_map(|(column, metric, aggregate, factor)| {
                    let value = value(metric, aggregate)? * factor;
                    Some((*column, if *aggregate == BY_TIME { value / since_s } else { value }))
                });
                series.add((now_ms - started_ms) / 1000.0, cells.collect::<Vec<_>>());
            }
            _ => {}
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seconds and, made up, three more that k6 1.1.0 recorded, with a metric (`aborted`) that appears late and sorts first.
    const RECORDED: &str = r#"
{"event":"param","data":{"period":1000,"aggregates":{"counter":["count","rate"],"gauge":["value"],"rate":["rate"],"trend":["avg","max","med","min","p(90)","p(95)","p(99)"]}}}
{"event":"metric","data":{"time":{"type":"gauge","contains":"time"}}}
{"event":"start","data":[[1795821554827]]}
{"event":"metric","data":{"data_sent":{"type":"counter"},"data_sent{group:::setup}":{"type":"counter"},"enqueue_latency":{"type":"trend"},"errors":{"type":"rate"},"http_reqs":{"type":"counter"}}}
{"event":"cumulative","data":[[0,0],[0,0],[1,1,1,1,1,1,1],[0],[1,1],[1795821555829]]}
{"event":"snapshot","data":[[0,0],[0,0],[49.286,99.807,50.574,0.9398,88.591,93.557,97.796],[0.25],[186,186],[1795821555829]]}
{"event":"metric","data":{"aborted":{"type":"counter"},"vus":{"type":"gauge"}}}
{"event":"snapshot","data":[[1,1],[0,0],[],[],[0],[181,181],[1795821556827],[2]]}
{"event":"snapshot","data":[[1,1],[0,0],[],[],[0],[600,600],[1795821559827],[2]]}
{"event":"stop","data":[[1795821559846]]}
"#;

    #[test]
    fn a_recording_becomes_a_table() {
        let series = parse(RECORDED).unwrap();
        assert_eq!(series.points("enqueue_p95_ms"), [(1.002, 93.557)]);
        assert_eq!(series.points("errors_percent"), [(1.002, 25.0), (2.0, 0.0), (5.0, 0.0)]);
        let rates: Vec<f64> = series.values("requests_per_s").into_iter().map(f64::round).collect();
        assert_eq!(rates, [186.0, 181.0, 200.0], "600 in three seconds");
        assert_eq!(series.points("users"), [(2.0, 2.0), (5.0, 2.0)]);
        assert!(parse("{\"event\":\"snapshot\",\"data\":[]}").is_err());
    }
}
