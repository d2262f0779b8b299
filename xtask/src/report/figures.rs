//! The figures of a run: what k6 said, and what the samples of the host and its servers say.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::series::{Series, median};

/// A growth of resident memory, in percent between warm-up and end, that counts as a leak.
const LEAK_GROWTH_PERCENT: f64 = 5.0;
/// The part of a run after which it has warmed up, and how long the looks at its start and its end are.
const WARM_AFTER: f64 = 0.2;
const LOOK: f64 = 0.1;
/// A spike is over when the p95 of this many seconds in a row is at most twice what it was before.
const CALM_SECONDS: usize = 5;
const CALM_FACTOR: f64 = 2.0;
/// Faster than this is calm in any case, in ms: twice a p95 of a millisecond is no spike.
const CALM_MS: f64 = 25.0;

/// What one scenario left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scenario {
    /// Its id in benchmarks/baseline.json.
    pub(crate) id: String,
    /// What the script wrote: `results`, `checks`, `broken`, `metrics`; and `host`, what was measured over the whole run.
    pub(crate) said: Value,
    /// k6's measurements, moment by moment.
    pub(crate) load: Series,
    /// The host's and its servers', second by second.
    pub(crate) host: Series,
}

impl Scenario {
    /// A value that the script counted over the whole run.
    fn counted(&self, metric: &str) -> Option<f64> {
        self.said.pointer(&format!("/metrics/{metric}/values/count")).and_then(Value::as_f64)
    }

    /// What was measured at the host over the whole run.
    fn at_host(&self, name: &str) -> Option<f64> {
        self.said.get("host")?.get(name)?.as_f64()
    }

    /// Tasks that were accepted, and that the host counts no end of: 0 unless a promise is broken.
    pub(crate) fn unaccounted(&self) -> Option<f64> {
        Some(self.counted("tasks_accepted")? - self.counted("tasks_settled")?)
    }

    /// Every figure, under the names of benchmarks/baseline.json where it has one.
    pub(crate) fn figures(&self, profile: &Value) -> Result<Map<String, Value>> {
        let said = self.said.get("results").and_then(Value::as_object);
        let mut figures = said.with_context(|| format!("{}: the script left no `results`", self.id))?.clone();
        let mut add = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                figures.insert(name.to_owned(), json!(value));
            }
        };
        add("tasks_accepted", self.counted("tasks_accepted"));
        add("tasks_unaccounted", self.unaccounted());
        match self.id.as_str() {
            "load" => add("requests_per_s_peak", self.load.max("requests_per_s")),
            "spike" => add("recovery_s", recovery_s(&self.load, profile)),
            "soak" => {
                let start = self.host.median_within("host_memory_mb", WARM_AFTER, WARM_AFTER + LOOK);
                let end = self.host.median_within("host_memory_mb", 1.0 - LOOK, 1.0);
                let growth = start.zip(end).map(|(start, end)| (end - start) / start * 100.0);
                add("memory_start_mb", start);
                add("memory_end_mb", end);
                add("memory_growth_percent", growth);
                add("pool_connections_used", self.host.max("pool_used"));
                add("pool_connections_max", self.host.max("pool_max"));
                if let Some(growth) = growth {
                    figures.insert("memory_leak".to_owned(), json!(growth >= LEAK_GROWTH_PERCENT));
                }
            }
            "c-crud" => add("pool_used_percent", pool_used_percent(&self.host)),
            "d-cache" => {
                add("redis_p95_ms", self.at_host("redis_p95_ms"));
                add("memory_mb", self.host.max("redis_memory_mb"));
            }
            _ => {}
        }
        Ok(figures)
    }
}

/// What the host and its servers needed in all scenarios together.
pub(crate) fn resources(scenarios: &[Scenario]) -> Map<String, Value> {
    let most = |of: &dyn Fn(&Scenario) -> Option<f64>| scenarios.iter().filter_map(of).reduce(f64::max);
    let figures = [
        ("memory_mb", most(&|one| one.host.max("host_memory_mb"))),
        ("cpu_percent", most(&|one| one.host.mean("host_cpu_percent"))),
        ("pool_used_percent", most(&|one| pool_used_percent(&one.host))),
        ("rabbitmq_p95_ms", most(&|one| one.at_host("publish_p95_ms"))),
        ("rabbitmq_cpu_percent", most(&|one| one.host.mean("rabbitmq_cpu_percent"))),
        ("postgresql_cpu_percent", most(&|one| one.host.mean("postgresql_cpu_percent"))),
        ("redis_cpu_percent", most(&|one| one.host.mean("redis_cpu_percent"))),
        ("k6_cpu_percent", most(&|one| one.host.mean("k6_cpu_percent"))),
    ];
    figures.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect()
}

/// Connections that tasks used, as a part of those there may be: the mean over the run.
fn pool_used_percent(host: &Series) -> Option<f64> {
    let max = host.max("pool_max").filter(|max| *max > 0.0)?;
    Some(host.mean("pool_used")? / max * 100.0)
}

/// How long after the spike's end the p95 was high, in seconds. `profile` is that of the reference: its parts give the
/// moments, whatever the run's own length was.
fn recovery_s(load: &Series, profile: &Value) -> Option<f64> {
    let stages: Vec<f64> =
        profile.get("stages")?.as_array()?.iter().filter_map(|stage| stage.get("duration_s")?.as_f64()).collect();
    let [calm, spike, recovery] = stages.as_slice() else {
        return None;
    };
    let points = load.points("enqueue_p95_ms");
    let (first, last) = (points.first()?.0, points.last()?.0);
    let whole = calm + spike + recovery;
    let moment = |seconds: f64| first + (last - first) * seconds / whole;
    let (begins, ends) = (moment(*calm), moment(calm + spike));
    let before = median(points.iter().filter(|(time, _)| *time < begins).map(|(_, value)| *value).collect())?;
    let high = (before * CALM_FACTOR).max(CALM_MS);
    let after: Vec<(f64, f64)> = points.into_iter().filter(|(time, _)| *time >= ends).collect();
    // One slow second is no spike: the middle of some seconds decides.
    let mut last_high = after.windows(CALM_SECONDS).filter_map(|window| {
        let middle = median(window.iter().map(|(_, value)| *value).collect())?;
        (middle > high).then_some(window.last()?.0)
    });
    Some(last_high.next_back().map_or(0.0, |time| time - ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        let mut series = Series::default();
        for (second, value) in (0_u32..).zip(values) {
            series.add(f64::from(second), [(name, *value)]);
        }
        series
    }

    #[test]
    fn recovery_lasts_until_the_p95_stays_low() {
        let profile = json!({"stages": [{"duration_s": 10}, {"duration_s": 10}, {"duration_s": 20}]});
        let mut p95 = vec![20.0; 10];
        p95.extend([200.0; 10]);
        p95.extend([90.0; 6]);
        p95.extend([20.0; 15]);
        let recovery = recovery_s(&series("enqueue_p95_ms", &p95), &profile).unwrap();
        assert!((6.0..=9.0).contains(&recovery), "{recovery}");
        p95.truncate(20);
        p95.extend([20.0; 21]);
        assert_eq!(recovery_s(&series("enqueue_p95_ms", &p95), &profile), Some(0.0));
    }

    #[test]
    fn a_soak_leaks_when_memory_grows_after_it_has_warmed_up() {
        let soak = |values: &[f64]| {
            let said = json!({"results": {"errors_percent": 0}});
            let host = series("host_memory_mb", values);
            Scenario { id: "soak".into(), said, host, ..Scenario::default() }.figures(&Value::Null).unwrap()
        };
        // The growth of the warm-up itself is none.
        let mut steady = vec![50.0; 10];
        steady.extend([100.0; 90]);
        assert_eq!(soak(&steady).get("memory_leak"), Some(&json!(false)));
        let growing: Vec<f64> = (0..100).map(|second| 100.0 + f64::from(second)).collect();
        let figures = soak(&growing);
        assert_eq!(figures.get("memory_leak"), Some(&json!(true)));
        assert_eq!(figures.get("errors_percent"), Some(&json!(0)));
    }

    #[test]
    fn tasks_that_the_host_counts_no_end_of_are_told() {
        let said = json!({
            "results": {},
            "metrics": {"tasks_accepted": {"values": {"count": 12}}, "tasks_settled": {"values": {"count": 11}}},
        });
        let scenario = Scenario { id: "load".into(), said, ..Scenario::default() };
        assert_eq!(scenario.figures(&Value::Null).unwrap().get("tasks_unaccounted"), Some(&json!(1.0)));
    }

    #[test]
    fn resources_are_the_most_of_all_scenarios() {
        let scenario = |memory: f64| Scenario { host: series("host_memory_mb", &[1.0, memory]), ..Scenario::default() };
        let figures = resources(&[scenario(120.0), scenario(80.0)]);
        assert_eq!(figures.get("memory_mb"), Some(&json!(120.0)));
        assert_eq!(figures.get("cpu_percent"), None);
    }
}
