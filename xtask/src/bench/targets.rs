//! The targets, each with what it must be, what it should be, and what was measured last.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::ui;

use Better::{Less, More};
use Source::{Bench, Load};

/// Which way a figure is better.
#[derive(Clone, Copy)]
enum Better {
    More,
    Less,
}

/// Where a figure comes from.
enum Source {
    /// A bench of this command notes it under this name.
    Bench(&'static str),
    /// The newest run of `cargo xtask load` with the whole load, and at this rate where it was asked for one: a test and its
    /// figure in the run's `results.json`.
    Load(Option<u32>, &'static str, &'static str),
}

struct Target {
    what: &'static str,
    unit: &'static str,
    better: Better,
    must: f64,
    aim: f64,
    source: Source,
}

const fn target(
    what: &'static str,
    unit: &'static str,
    better: Better,
    (must, aim): (f64, f64),
    source: Source,
) -> Target {
    Target { what, unit, better, must, aim, source }
}

const TARGETS: [Target; 22] = [
    target(
        "tasks per second against bare Rust, acks one by one",
        "×",
        More,
        (1.0, 1.3),
        Bench("throughput.one-by-one"),
    ),
    target("tasks per second against Node.js", "×", More, (0.7, 1.0), Bench("throughput.Node.js")),
    target("tasks per second against Celery", "×", More, (20.0, 40.0), Bench("throughput.Celery")),
    target("time of a fresh instance against bare wasmtime", "×", Less, (1.15, 1.05), Bench("instance.time")),
    target("end to end p95 at 1541 tasks a second", "ms", Less, (25.0, 10.0), END_TO_END_1541),
    target("end to end p95 at 2000 tasks a second", "ms", Less, (50.0, 15.0), END_TO_END_2000),
    target("tasks per second, offered 5500", "/s", More, (4000.0, 5500.0), Load(Some(5500), "load", "requests_per_s")),
    target("HTTP requests per second against wasmtime serve", "×", More, (0.8, 1.0), Bench("http.rate")),
    target("time of a call to sql against the native client", "×", Less, (1.3, 1.1), Bench("capability.sql")),
    target("time of a call to key-value, likewise", "×", Less, (1.3, 1.1), Bench("capability.key-value")),
    target("time of a call to the cache, likewise", "×", Less, (1.3, 1.1), Bench("capability.cache")),
    target("load: p95", "ms", Less, (100.0, 50.0), Load(None, "load", "duration_p95_ms")),
    target("load: errors", "%", Less, (0.0, 0.0), Load(None, "load", "errors_percent")),
    target("load: peak of requests", "/s", More, (1000.0, 5000.0), Load(None, "load", "requests_per_s_peak")),
    target("spike: errors", "%", Less, (0.0, 0.0), Load(None, "spike", "errors_percent")),
    target("spike: recovery", "s", Less, (10.0, 0.0), Load(None, "spike", "recovery_s")),
    target("soak: growth of resident memory", "%", Less, (5.0, 2.0), Load(None, "soak", "memory_growth_percent")),
    target("soak: errors", "%", Less, (0.0, 0.0), Load(None, "soak", "errors_percent")),
    target("voting: accuracy", "%", More, (100.0, 100.0), Load(None, "b-voting-consensus", "accuracy_percent")),
    target("peak resident memory, all scenarios", "MB", Less, (500.0, 250.0), Load(None, "resources", "memory_mb")),
    target(
        "peak resident memory, 1,000 tasks at once",
        "MB",
        Less,
        (500.0, 250.0),
        Bench("growth.resident_mb_of_1000"),
    ),
    target("tasks per processor second, lost from 16 to 2,000 at once", "%", Less, (20.0, 10.0), Bench(CONCURRENCY)),
];
const END_TO_END_1541: Source = Load(Some(1541), "load", "end_to_end_p95_ms");
const END_TO_END_2000: Source = Load(Some(2000), "load", "end_to_end_p95_ms");
const CONCURRENCY: &str = "growth.lost_percent";

/// What the benches of this run noted.
pub(super) struct Figures(HashMap<String, f64>);

impl Figures {
    /// Reads lines of a name, a space and a number; the last one of a name holds.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let line =
            |line: &str| line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Self(text.lines().filter_map(line).collect())
    }
}

/// Prints each target with what was measured; gives those that a bench of this run missed.
pub(super) fn print(results: &Path, figures: &Figures) -> Result<Vec<&'static str>> {
    let runs = Run::all(results)?;
    let mut missed = Vec::new();
    let rows: Vec<Vec<String>> = TARGETS
        .iter()
        .map(|target| {
            let (value, from) = match target.source {
                Bench(name) => (figures.0.get(name).copied(), "this run".to_owned()),
                Load(rate, test, figure) => {
                    let found = runs.iter().find_map(|run| Some((run.figure(rate, test, figure)?, run.name.clone())));
                    (found.as_ref().map(|(value, _)| *value), found.map(|(_, name)| name).unwrap_or_default())
                }
            };
            let verdict = value.map_or("not measured", |value| target.verdict(value));
            if verdict == MISSED && matches!(target.source, Bench(_)) {
                missed.push(target.what);
            }
            let from = if value.is_some() { from } else { String::new() };
            let measured = value.map_or_else(String::new, |value| format!("{value:.2} {}", target.unit));
            vec![
                target.what.to_owned(),
                target.bound(target.must),
                target.bound(target.aim),
                measured,
                verdict.to_owned(),
                from,
            ]
        })
        .collect();
    println!("{}", ui::table(&["target", "must", "aim", "measured", "", "by"], &rows));
    Ok(missed)
}

const MISSED: &str = "missed";

impl Target {
    fn verdict(&self, value: f64) -> &'static str {
        let keeps = |bound: f64| match self.better {
            More => value >= bound,
            Less => value <= bound,
        };
        match (keeps(self.must), keeps(self.aim)) {
            (_, true) => "aim kept",
            (true, false) => "kept",
            (false, false) => MISSED,
        }
    }

    fn bound(&self, bound: f64) -> String {
        let sign = match self.better {
            More => "≥",
            Less => "≤",
        };
        format!("{sign} {bound} {}", self.unit)
    }
}

/// A run of `cargo xtask load` with the whole load.
struct Run {
    name: String,
    rate_per_s: Option<u64>,
    results: Value,
}

impl Run {
    /// All of them, the newest first: their folders are named for the time.
    fn all(folder: &Path) -> Result<Vec<Self>> {
        let entries = std::fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
        let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        folders.sort();
        Ok(folders.iter().rev().filter_map(|folder| Self::read(folder)).collect())
    }

    /// Nothing where it is none, or was made with a part of the load.
    fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join("results.json")).ok()?;
        let results: Value = serde_json::from_str(&text).ok()?;
        let about = results.get("run")?;
        (about.get("load_scale")?.as_f64()? >= 1.0).then_some(())?;
        let rate_per_s = about.get("rate_per_s").and_then(Value::as_u64);
        Some(Self { name: folder.file_name()?.to_string_lossy().into_owned(), rate_per_s, results })
    }

    fn figure(&self, rate: Option<u32>, test: &str, figure: &str) -> Option<f64> {
        (self.rate_per_s == rate.map(u64::from)).then_some(())?;
        let tests = self.results.get("tests")?.as_array()?;
        let found = tests.iter().find(|one| one.get("id").and_then(Value::as_str) == Some(test))?;
        found.get("result")?.get(figure)?.as_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_keeps_its_bounds_or_misses_them() {
        let more = target("rate", "×", More, (1.0, 1.3), Bench("rate"));
        assert_eq!([0.9, 1.0, 1.3].map(|value| more.verdict(value)), [MISSED, "kept", "aim kept"]);
        let less = target("time", "ms", Less, (25.0, 10.0), Bench("time"));
        assert_eq!([25.1, 25.0, 9.0].map(|value| less.verdict(value)), [MISSED, "kept", "aim kept"]);
        assert_eq!(less.verdict(f64::NAN), MISSED);
    }

    #[test]
    fn benches_note_figures_line_by_line() {
        let figures = Figures::parse("throughput.Node.js 0.5\nhttp.rate 1\nhttp.rate 2\n");
        assert_eq!((figures.0["throughput.Node.js"], figures.0["http.rate"]), (0.5, 2.0));
    }

    #[test]
    fn a_load_run_counts_at_its_own_rate_and_with_the_whole_load() {
        let root = tempfile::tempdir().unwrap();
        let run = |name: &str, about: Value| {
            let folder = root.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            let tests = serde_json::json!([{ "id": "load", "result": { "end_to_end_p95_ms": 7.5 } }]);
            let results = serde_json::json!({ "run": about, "tests": tests });
            std::fs::write(folder.join("results.json"), results.to_string()).unwrap();
        };
        run("1", serde_json::json!({ "load_scale": 1.0, "rate_per_s": 1541 }));
        run("2", serde_json::json!({ "load_scale": 0.1, "rate_per_s": 1541 }));
        run("3", serde_json::json!({ "load_scale": 1.0, "rate_per_s": null }));
        let runs = Run::all(root.path()).unwrap();
        assert_eq!(runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["3", "1"]);
        let at = |rate| runs.iter().filter(|run| run.figure(rate, "load", "end_to_end_p95_ms") == Some(7.5)).count();
        assert_eq!([Some(1541), Some(2000), None].map(at), [1, 0, 1]);
    }
}
