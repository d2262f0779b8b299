//! A run's folder, and the reference figures, as they are read.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::figures::{self, Scenario};
use super::limits::Scale;
use super::series::Series;

/// The id of what the host and its servers needed, which is no scenario of its own.
pub(crate) const RESOURCES: &str = "resources";

/// benchmarks/baseline.json.
pub(crate) struct Baseline {
    all: Value,
}

impl Baseline {
    /// Reads it from the repository at `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        Ok(Self { all: read_json(&root.join("benchmarks/baseline.json"))? })
    }

    /// The reference of a test.
    pub(crate) fn test(&self, id: &str) -> Value {
        let tests = self.all.get("tests").and_then(Value::as_array).into_iter().flatten();
        tests.into_iter().find(|test| text(test, "id") == id).cloned().unwrap_or(Value::Null)
    }

    /// Where it was measured.
    pub(crate) fn machine(&self) -> Value {
        self.all.get("measured_on").cloned().unwrap_or(Value::Null)
    }
}

#[cfg(test)]
impl From<Value> for Baseline {
    fn from(all: Value) -> Self {
        Self { all }
    }
}

/// A run, as its folder tells it.
pub(crate) struct Run {
    /// `run.json`: when, how large, on which machine.
    pub(crate) about: Value,
    /// Its scenarios, in the order in which they ran.
    pub(crate) scenarios: Vec<Scenario>,
}

impl Run {
    /// Reads a folder that `cargo xtask load` wrote.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let about = read_json(&folder.join("run.json"))
            .with_context(|| format!("{} is not the folder of a run", folder.display()))?;
        let ids = about.get("scenarios").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let read = |id: &str| {
            anyhow::Ok(Scenario {
                id: id.to_owned(),
                said: read_json(&folder.join(format!("{id}.json")))?,
                load: Series::read(&folder.join(format!("{id}.load.csv")))?,
                host: Series::read(&folder.join(format!("{id}.host.csv")))?,
            })
        };
        let scenarios = ids.map(read).collect::<Result<_>>()?;
        Ok(Self { about, scenarios })
    }

    /// How large it was.
    pub(crate) fn scale(&self) -> Scale {
        scale(&self.about)
    }

    /// The figures of every scenario, and of the resources, in the shape of benchmarks/baseline.json.
    pub(crate) fn results(&self, baseline: &Baseline) -> Result<Value> {
        let mut tests = Vec::new();
        for scenario in &self.scenarios {
            let reference = baseline.test(&scenario.id);
            let figures = scenario.figures(reference.get("profile").unwrap_or(&Value::Null))?;
            tests.push(json!({ "id": scenario.id, "title": text(&reference, "title"), "result": figures }));
        }
        let title = baseline.test(RESOURCES).get("title").cloned();
        tests.push(json!({ "id": RESOURCES, "title": title, "result": figures::resources(&self.scenarios) }));
        Ok(json!({ "run": self.about, "tests": tests }))
    }
}

/// How large the run of a `run.json` was; one that does not say is whole.
pub(super) fn scale(about: &Value) -> Scale {
    let part = |name| about.get(name).and_then(Value::as_f64).unwrap_or(1.0);
    Scale { time: part("time_scale"), load: part("load_scale") }
}

/// A text of a JSON object, empty where there is none.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// An object in a JSON object, empty where there is none.
pub(super) fn object(parent: &Value, key: &str) -> Map<String, Value> {
    parent.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

pub(super) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}
