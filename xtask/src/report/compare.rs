//! Two sets of figures side by side, row by row, with the reference and its limits.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use super::limits::{self, Scale, Verdict};
use super::run::{Baseline, object, read_json, scale, text};
use super::words::{self, Better};
use crate::ui;

/// Figures that differ by less than this, in percent, are called the same: two runs on one machine differ by as much.
const SAME_PERCENT: f64 = 5.0;

/// The figures of a run, or of the reference.
struct Sheet {
    name: String,
    /// How large the run was; nothing for the reference, which is not judged by its own limits.
    scale: Option<Scale>,
    tests: Vec<(String, Map<String, Value>)>,
}

impl Sheet {
    fn read(path: &Path) -> Result<Self> {
        let all = read_json(&if path.is_dir() { path.join("results.json") } else { path.to_owned() })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self::from_json(name, &all))
    }

    fn from_json(name: String, all: &Value) -> Self {
        let tests = all.get("tests").and_then(Value::as_array).into_iter().flatten();
        Self {
            name,
            scale: all.get("run").map(scale),
            tests: tests.map(|test| (text(test, "id").to_owned(), object(test, "result"))).collect(),
        }
    }

    fn test(&self, id: &str) -> Option<&Map<String, Value>> {
        self.tests.iter().find(|(test, _)| test == id).map(|(_, figures)| figures)
    }
}

/// One figure in both.
#[derive(Debug, PartialEq)]
struct Row {
    test: String,
    figure: String,
    reference: Value,
    a: Value,
    b: Value,
    change: String,
    limits: String,
    verdict: Verdict,
}

/// Two sets of figures.
pub(super) struct Comparison {
    a: String,
    b: String,
    rows: Vec<Row>,
}

impl Comparison {
    /// Reads both. The second is judged, or the first where the second is the reference.
    pub(super) fn read(a: &Path, b: &Path, baseline: &Baseline) -> Result<Self> {
        Self::of(&Sheet::read(a)?, &Sheet::read(b)?, baseline)
    }

    fn of(a: &Sheet, b: &Sheet, baseline: &Baseline) -> Result<Self> {
        let judged = if b.scale.is_some() { b } else { a };
        let mut rows = Vec::new();
        // Tests of one only have nothing to be compared with.
        for (test, of_a) in &a.tests {
            let Some(of_b) = b.test(test) else { continue };
            let reference = baseline.test(test);
            let (result, sla) = (object(&reference, "result"), object(&reference, "sla"));
            let mut names: Vec<&String> = of_a.keys().collect();
            names.extend(of_b.keys().filter(|name| !of_a.contains_key(*name)));
            for name in names {
                let value = |figures: &Map<String, Value>| figures.get(name).cloned().unwrap_or(Value::Null);
                let (value_a, value_b) = (value(of_a), value(of_b));
                let limits = sla.get(name);
                let verdict = match (judged.scale, judged.test(test).and_then(|figures| figures.get(name))) {
                    (Some(scale), Some(found)) => limits::judge(name, found, limits, scale),
                    _ => Verdict::NoLimit,
                };
                rows.push(Row {
                    test: test.clone(),
                    figure: name.clone(),
                    reference: value(&result),
                    change: change(name, &value_a, &value_b),
                    a: value_a,
                    b: value_b,
                    limits: limits::signs(limits),
                    verdict,
                });
            }
        }
        ensure!(!rows.is_empty(), "{} and {} have no test in common", a.name, b.name);
        Ok(Self { a: a.name.clone(), b: b.name.clone(), rows })
    }

    /// The figures that break their limits.
    pub(super) fn broken(&self) -> Vec<String> {
        let broken = self.rows.iter().filter(|row| row.verdict == Verdict::Broken);
        broken.map(|row| format!("{} {}", row.test, words::label(&row.figure))).collect()
    }

    /// For a terminal.
    pub(super) fn table(&self) -> String {
        let mut parts = vec![format!("A: {}\nB: {}", self.a, self.b)];
        let mut tests: Vec<&String> = self.rows.iter().map(|row| &row.test).collect();
        tests.dedup();
        for test in tests {
            let cells = |row: &Row| {
                let values = [&row.reference, &row.a, &row.b].map(words::value);
                let last = [row.change.clone(), row.limits.clone(), row.verdict.word().to_owned()];
                std::iter::once(words::label(&row.figure)).chain(values).chain(last).collect::<Vec<_>>()
            };
            let rows: Vec<_> = self.rows.iter().filter(|row| row.test == *test).map(cells).collect();
            parts.push(ui::table(&[test, "reference", "A", "B", "B against A", "SLA", ""], &rows));
        }
        parts.join("\n\n")
    }
}

/// How B differs from A: `12 % better`.
fn change(name: &str, a: &Value, b: &Value) -> String {
    let (Some(from), Some(to)) = (a.as_f64(), b.as_f64()) else {
        return match (a, b) {
            (Value::Null, _) | (_, Value::Null) => String::new(),
            _ if a == b => "same".to_owned(),
            _ => "different".to_owned(),
        };
    };
    if from.abs() < f64::EPSILON {
        return match (to.abs() < f64::EPSILON, words::better(name)) {
            (true, _) => "same".to_owned(),
            (false, Better::More) => "better".to_owned(),
            (false, Better::Less) => "worse".to_owned(),
            (false, Better::Neither) => String::new(),
        };
    }
    let percent = (to - from) / from * 100.0;
    let size = words::number_text(percent.abs());
    match (percent.abs() < SAME_PERCENT, words::better(name)) {
        (_, Better::Neither) => String::new(),
        (true, _) => "same".to_owned(),
        (false, better) if (percent > 0.0) == (better == Better::More) => format!("{size} % better"),
        (false, _) => format!("{size} % worse"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn baseline() -> Baseline {
        json!({"tests": [{
            "id": "load",
            "result": {"duration_p95_ms": 450, "requests_per_s": 1541, "errors_percent": 0.1},
            "sla": {"duration_p95_ms": {"below": 500}, "requests_per_s": {"above": 1000}, "errors_percent": {"below": 0.1}},
        }]})
        .into()
    }

    fn run(p95: f64, rate: f64) -> Sheet {
        let tests = json!([{"id": "load", "result": {"duration_p95_ms": p95, "requests_per_s": rate}}]);
        Sheet::from_json("run".into(), &json!({"run": {"time_scale": 1, "load_scale": 1}, "tests": tests}))
    }

    fn reference() -> Sheet {
        let baseline = baseline();
        Sheet::from_json("baseline.json".into(), &json!({"tests": [baseline.test("load")]}))
    }

    #[test]
    fn rows_say_which_way_each_figure_went() {
        let comparison = Comparison::of(&run(100.0, 2000.0), &run(50.0, 1000.5), &baseline()).unwrap();
        let changes: Vec<_> = comparison.rows.iter().map(|row| row.change.as_str()).collect();
        assert_eq!(changes, ["50 % better", "50 % worse"]);
        assert!(comparison.broken().is_empty());
        let table = comparison.table();
        assert!(table.contains("duration p95, ms"), "{table}");
    }

    #[test]
    fn only_the_run_in_question_is_judged() {
        let (bad, good) = (run(600.0, 900.0), run(100.0, 2000.0));
        let broken = |a: &Sheet, b: &Sheet| Comparison::of(a, b, &baseline()).unwrap().broken().len();
        assert_eq!(broken(&bad, &good), 0);
        assert_eq!(broken(&good, &bad), 2);
        // The reference breaks a limit of its own; it is not what is judged.
        assert_eq!(broken(&reference(), &good), 0);
        assert_eq!(broken(&good, &reference()), 0);
        assert_eq!(broken(&bad, &reference()), 2);
    }

    #[test]
    fn runs_with_nothing_in_common_are_refused() {
        let other = Sheet::from_json("other".into(), &json!({"run": {}, "tests": [{"id": "spike", "result": {}}]}));
        assert!(Comparison::of(&run(1.0, 1.0), &other, &baseline()).is_err());
    }

    #[test]
    fn small_differences_are_called_the_same() {
        assert_eq!(change("duration_p95_ms", &json!(100), &json!(103)), "same");
        assert_eq!(change("errors_percent", &json!(0), &json!(0.5)), "worse");
        assert_eq!(change("errors_percent", &json!(0), &json!(0)), "same");
        assert_eq!(change("memory_leak", &json!(true), &json!(false)), "different");
        assert_eq!(change("duration_p95_ms", &Value::Null, &json!(3)), "");
    }
}
