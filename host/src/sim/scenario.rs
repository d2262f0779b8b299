//! Scenario files: what there is, which tasks come, and what must come of them. TOML, or JSON of the same form.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Call, Faults, KillAt, SimError, Slow};
use crate::task::{AgentName, CONTENT_TYPE_DEFAULT, Task, TaskId};
use crate::units::ByteSize;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// One line about it.
    #[serde(default)]
    pub(crate) description: String,
    /// What there is before the first task.
    #[serde(default)]
    pub(crate) given: Given,
    /// The only task, and what must come of it…
    #[serde(skip)]
    only: Option<Step>,
    /// … or several, one after the other in the same world.
    #[serde(default)]
    step: Vec<Step>,
}

/// A task, and what must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) task: GivenTask,
    #[serde(default)]
    pub(crate) faults: GivenFaults,
    #[serde(default)]
    pub(crate) expect: Expect,
}

/// What there is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Given {
    /// Statements that are run in the agent's schema, after its migrations.
    pub(crate) sql: Vec<String>,
    /// Values by bucket and key.
    pub(crate) key_value: BTreeMap<String, BTreeMap<String, String>>,
    /// Values by key.
    pub(crate) cache: BTreeMap<String, String>,
    /// What is outside.
    pub(crate) http: Vec<HttpFixture>,
    /// Secrets by name.
    pub(crate) secrets: BTreeMap<String, String>,
    /// Values that replace those of the manifest.
    pub(crate) config: BTreeMap<String, String>,
    /// Texts of files, by their path from the files' root.
    pub(crate) files: BTreeMap<String, String>,
}

/// A resource that answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpFixture {
    /// Where.
    pub(crate) url: String,
    /// To which method; to each where none is given.
    #[serde(default)]
    pub(crate) method: Option<String>,
    /// With which status.
    #[serde(default = "ok")]
    pub(crate) status: u16,
    /// With which headers.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// With which text.
    #[serde(default)]
    pub(crate) body: String,
    /// With this JSON instead.
    #[serde(default)]
    pub(crate) json: Option<Value>,
}

fn ok() -> u16 {
    200
}

/// A task.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GivenTask {
    body: Option<String>,
    json: Option<Value>,
    /// A file beside the scenario.
    file: Option<String>,
    content_type: Option<String>,
    headers: BTreeMap<String, String>,
    attempt: Option<u32>,
    id: Option<String>,
}

/// What breaks.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GivenFaults {
    fail: Vec<String>,
    slow: Vec<String>,
    kill_at: Option<String>,
    cancel_at: Option<String>,
}

/// What must come of a task. What is not named may be anything, but a task that is not said to fail must succeed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Expect {
    /// The outcome's name.
    pub(crate) outcome: Option<String>,
    /// A part of the failure's message.
    pub(crate) message: Option<String>,
    /// The least time to the next attempt that it asked for, such as `90s`.
    pub(crate) after: Option<String>,
    /// The output's text.
    pub(crate) output: Option<String>,
    /// The output's JSON.
    pub(crate) json: Option<Value>,
    /// The output's content type.
    pub(crate) content_type: Option<String>,
    /// Headers of the output.
    pub(crate) headers: BTreeMap<String, String>,
    /// Parts of lines of the log.
    pub(crate) log: Vec<String>,
    /// Rows that are there afterwards.
    pub(crate) sql: Vec<Rows>,
    /// Values that are there afterwards, by bucket and key.
    pub(crate) key_value: BTreeMap<String, BTreeMap<String, Present>>,
    /// Likewise in the cache.
    pub(crate) cache: BTreeMap<String, Present>,
    /// Likewise of files, by their path from the files' root.
    pub(crate) files: BTreeMap<String, Present>,
    /// All tasks that were submitted.
    pub(crate) tasks: Option<Vec<Submitted>>,
    /// All requests that were sent.
    pub(crate) http: Option<Vec<Sent>>,
    /// What it may have used.
    pub(crate) at_most: AtMost,
}

/// What a query must give.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rows {
    pub(crate) query: String,
    pub(crate) rows: Vec<Vec<Value>>,
}

/// A value that must be there, or one that must not: `false`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Present {
    /// This one.
    Text(String),
    /// `true`: whichever; `false`: none.
    Any(bool),
}

/// A task that an agent submitted.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Submitted {
    pub(crate) agent: String,
    #[serde(default)]
    pub(crate) body: String,
}

/// A request that an agent sent.
#[derive(Clone, Debug, PartialEq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sent {
    #[serde(default = "get")]
    pub(crate) method: String,
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) body: String,
}

fn get() -> String {
    "GET".to_owned()
}

/// Budgets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AtMost {
    pub(crate) memory: Option<ByteSize>,
    pub(crate) host_calls: Option<u64>,
    pub(crate) statements: Option<u64>,
    pub(crate) rows: Option<u64>,
}

impl Scenario {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let value = if is_json {
            serde_json::from_str::<Value>(&text).map_err(|error| error.to_string())?
        } else {
            toml::from_str::<Value>(&text).map_err(|error| error.to_string().trim_end().to_owned())?
        };
        Self::parse(value)
    }

    /// Makes a scenario of the file's content.
    fn parse(mut value: Value) -> Result<Self, String> {
        let top = value.as_object_mut().ok_or("expected a table")?;
        // Apart from the rest, so that an unknown key is told wherever it is.
        let mut only = serde_json::Map::new();
        for key in ["task", "faults", "expect"] {
            only.extend(top.remove_entry(key));
        }
        let mut scenario: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if !only.is_empty() {
            let step = serde_json::from_value(Value::Object(only)).map_err(|error| error.to_string())?;
            scenario.only = Some(step);
        }
        match (&scenario.only, scenario.step.is_empty()) {
            (None, true) => Err("expected [task], or [[step]] with a task in each".to_owned()),
            (Some(_), false) => Err("[task] and [[step]]: give one or the other".to_owned()),
            _ => Ok(scenario),
        }
    }

    /// Its tasks, in order.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.only.iter().chain(&self.step)
    }

    /// Its first task, where that needs no world of its own, and is to succeed.
    pub(crate) fn plain_task(&self) -> Option<&GivenTask> {
        let first = self.steps().next().filter(|_| self.given.is_empty())?;
        let succeeds = first.expect.outcome.as_deref().is_none_or(|outcome| outcome == "succeeded");
        (succeeds && first.faults.is_empty()).then_some(&first.task)
    }
}

impl Given {
    fn is_empty(&self) -> bool {
        let Self { sql, key_value, cache, http, secrets, config, files } = self;
        let maps = [cache, secrets, config, files];
        sql.is_empty() && key_value.is_empty() && http.is_empty() && maps.into_iter().all(BTreeMap::is_empty)
    }
}

impl GivenTask {
    /// The task, for this agent. Files lie in `folder`.
    pub(crate) fn task(&self, agent: &AgentName, folder: &Path) -> Result<Task, SimError> {
        let wrong = |why: String| SimError::Fixture(format!("task: {why}"));
        let given = [self.body.is_some(), self.json.is_some(), self.file.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            return Err(wrong("give one of body, json and file".to_owned()));
        }
        let (body, content_type) = match (&self.body, &self.json, &self.file) {
            (Some(text), ..) => (text.clone().into_bytes(), "text/plain; charset=utf-8"),
            (_, Some(json), _) => (json.to_string().into_bytes(), "application/json"),
            (_, _, Some(name)) => {
                let body =
                    std::fs::read(folder.join(name)).map_err(|error| wrong(format!("file {name:?}: {error}")))?;
                (body, CONTENT_TYPE_DEFAULT)
            }
            (None, None, None) => (Vec::new(), CONTENT_TYPE_DEFAULT),
        };
        let mut task = Task::new(agent.clone(), body);
        task.content_type = self.content_type.clone().unwrap_or_else(|| content_type.to_owned());
        task.headers = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        task.attempt = self.attempt.unwrap_or(1).max(1);
        if let Some(id) = &self.id {
            task.id = TaskId::parse(id).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(task)
    }
}

impl GivenFaults {
    fn is_empty(&self) -> bool {
        let Self { fail, slow, kill_at, cancel_at } = self;
        fail.is_empty() && slow.is_empty() && kill_at.is_none() && cancel_at.is_none()
    }

    /// The faults.
    pub(crate) fn faults(&self) -> Result<Faults, SimError> {
        let wrong = |error: super::InvalidFault| SimError::Fixture(format!("faults: {error}"));
        Ok(Faults {
            fail: self.fail.iter().map(|text| text.parse::<Call>()).collect::<Result<_, _>>().map_err(wrong)?,
            slow: self.slow.iter().map(|text| text.parse::<Slow>()).collect::<Result<_, _>>().map_err(wrong)?,
            kill_at: self.kill_at.as_ref().map(|text| text.parse::<KillAt>()).transpose().map_err(wrong)?,
            cancel_at: self.cancel_at.as_ref().map(|text| text.parse::<Call>()).transpose().map_err(wrong)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Scenario, String> {
        Scenario::parse(toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())?)
    }

    #[test]
    fn a_scenario_is_one_task_or_several() {
        let one = parse("[task]\nbody = \"hello\"\n[expect]\noutput = \"hello\"").unwrap();
        assert_eq!(one.steps().count(), 1);
        let two =
            parse("[[step]]\ntask.body = \"a\"\n[[step]]\ntask.json = { a = 1 }\nexpect.outcome = \"retry\"").unwrap();
        let agent = "a".parse().unwrap();
        let tasks: Vec<Task> = two.steps().map(|step| step.task.task(&agent, Path::new(".")).unwrap()).collect();
        let [first, second] = tasks.as_slice() else { panic!("two") };
        assert_eq!((&first.body[..], first.content_type.as_str()), (&b"a"[..], "text/plain; charset=utf-8"));
        assert_eq!((&second.body[..], second.content_type.as_str()), (&br#"{"a":1}"#[..], "application/json"));
    }

    #[test]
    fn a_plain_task_needs_nothing_and_succeeds() {
        let body = |text: &str| parse(text).unwrap().plain_task().and_then(|task| task.body.clone());
        assert_eq!(body("[[step]]\ntask.body = \"a\"\n[[step]]\ntask.body = \"b\"").as_deref(), Some("a"));
        for needy in [
            "[given.config]\na = \"b\"",
            "[expect]\noutcome = \"rejected\"",
            "[faults]\nkill_at = \"commit\"",
            "[given]\nsql = [\"\"]",
        ] {
            assert_eq!(body(&format!("[task]\nbody = \"a\"\n{needy}")), None, "{needy}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, told) in [
            ("", "expected [task]"),
            ("[task]\n[[step]]\ntask.body = \"a\"", "one or the other"),
            ("[task]\nbdoy = \"a\"", "bdoy"),
            ("[task]\n[expect]\nouput = \"a\"", "ouput"),
            ("[task]\n[given]\nsecret = 1", "secret"),
            ("surprise = 1\n[task]", "surprise"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text:?}: {error}");
        }
        let twice = parse("[task]\nbody = \"a\"\njson = 1").unwrap();
        let step = twice.steps().next().unwrap();
        let error = step.task.task(&"a".parse().unwrap(), Path::new(".")).unwrap_err();
        assert!(error.to_string().contains("one of body, json and file"), "{error}");
        let faults = parse("[task]\n[faults]\nfail = [\"disk:1\"]").unwrap();
        assert!(faults.steps().next().unwrap().faults.faults().is_err());
    }

    proptest! {
        #[test]
        fn any_toml_is_a_scenario_or_refused(text in "(\\[task\\]\n|\\[expect\\]\n|[a-z_]{1,8} = (1|\"x\"|true)\n){0,6}") {
            let _ = parse(&text);
        }
    }
}
