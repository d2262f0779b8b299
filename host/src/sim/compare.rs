//! What a scenario expects, held against what came of it.

use std::time::Duration;

use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use super::scenario::{Expect, Present};
use super::{Port, Ran, Simulation};
use crate::task::{AgentName, Outcome};
use crate::units::{format_duration, parse_duration};

/// Something that is not as expected: what, and how it differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) what: String,
    /// Lines; those expected begin with `-`, those found with `+`.
    pub(super) lines: String,
}

impl Difference {
    fn between(what: impl Into<String>, expected: &str, found: &str) -> Self {
        let diff = TextDiff::from_lines(expected, found);
        let lines = diff.iter_all_changes().map(|change| {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            format!("{sign} {}\n", change.value().trim_end_matches(['\r', '\n']))
        });
        Self { what: what.into(), lines: lines.collect() }
    }
}

/// Collects what differs.
#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn text(&mut self, what: impl Into<String>, expected: &str, found: &str) {
        if expected != found {
            self.0.push(Difference::between(what, expected, found));
        }
    }

    fn json(&mut self, what: impl Into<String>, expected: &Value, found: &Value) {
        if !same(expected, found) {
            self.0.push(Difference::between(what, &pretty(expected), &pretty(found)));
        }
    }

    fn part(&mut self, what: impl Into<String>, expected: &str, found: &str) {
        if !found.contains(expected) {
            self.0.push(Difference::between(what, &format!("…{expected}…"), found));
        }
    }

    fn present(&mut self, what: String, expected: &Present, found: Option<&str>) {
        let shown = found.unwrap_or("(nothing)");
        match expected {
            Present::Text(text) => self.text(what, text, shown),
            Present::Any(true) if found.is_none() => self.text(what, "(anything)", shown),
            Present::Any(false) if found.is_some() => self.text(what, "(nothing)", shown),
            Present::Any(_) => {}
        }
    }

    fn at_most(&mut self, what: &str, allowed: Option<u64>, used: u64) {
        if let Some(allowed) = allowed.filter(|allowed| used > *allowed) {
            self.text(format!("at_most.{what}"), &format!("at most {allowed}"), &used.to_string());
        }
    }
}

/// Numbers are the same by their value, however they are written.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Everything that is not as expected.
pub(super) async fn differences(expect: &Expect, ran: &Ran, simulation: &Simulation<'_>) -> Vec<Difference> {
    let mut found = Differences::default();
    answer(expect, ran, &mut found);
    for expected in &expect.log {
        if !ran.log.iter().any(|line| line.text.contains(expected)) {
            let lines: Vec<String> = ran.log.iter().map(ToString::to_string).collect();
            found.part("log", expected, &lines.join("\n"));
        }
    }
    left(expect, ran, simulation, &mut found).await;
    let tally = |port| ran.tallies.get(&port).copied().unwrap_or_default();
    let most = &expect.at_most;
    found.at_most("memory", most.memory.map(|bytes| bytes.0), ran.completion.usage.memory_bytes_peak);
    found.at_most("host_calls", most.host_calls, ran.completion.usage.host_calls);
    found.at_most("statements", most.statements, tally(Port::Sql).calls);
    found.at_most("rows", most.rows, tally(Port::Sql).rows);
    found.0
}

/// The outcome and the output.
fn answer(expect: &Expect, ran: &Ran, found: &mut Differences) {
    let outcome = &ran.completion.outcome;
    let failure = outcome.failure().map(|failure| failure.message).unwrap_or_default();
    let expected = expect.outcome.as_deref().unwrap_or("succeeded");
    if outcome.name() != expected {
        // Why it is another one says more than that it is.
        let why = if failure.is_empty() { String::new() } else { format!(": {failure}") };
        found.text("outcome", expected, &format!("{}{why}", outcome.name()));
    }
    if let Some(message) = &expect.message {
        found.part("message", message, &failure);
    }
    if let Some(expected) = &expect.after {
        let Outcome::Retry { after_ms, .. } = outcome else {
            return found.text("after", expected, "(no other attempt is asked for)");
        };
        let after =
            after_ms.map_or("(the manifest's backoff)".to_owned(), |ms| format_duration(Duration::from_millis(ms)));
        // As the host writes it: 90s is 1m30s there.
        let expected = parse_duration(expected).map_or(expected.clone(), format_duration);
        found.text("after", &expected, &after);
    }
    let output = outcome.output();
    let text = output.map(|output| String::from_utf8_lossy(&output.body).into_owned()).unwrap_or_default();
    // What a failed task did not answer is told already.
    if !matches!(outcome, Outcome::Succeeded(_)) {
        return;
    }
    if let Some(expected) = &expect.output {
        found.text("output", expected, &text);
    }
    if let Some(expected) = &expect.json {
        match serde_json::from_str::<Value>(&text) {
            Ok(actual) => found.json("json", expected, &actual),
            Err(_) => found.text("json", &pretty(expected), &text),
        }
    }
    if let Some(expected) = &expect.content_type {
        let actual = output.and_then(|output| output.content_type.as_deref()).unwrap_or("(none)");
        found.text("content_type", expected, actual);
    }
    for (name, expected) in &expect.headers {
        let headers = output.map_or(&[][..], |output| &output.headers);
        let actual =
            headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        found.text(format!("headers.{name}"), expected, actual.unwrap_or("(nothing)"));
    }
}

/// What the task left in the world.
async fn left(expect: &Expect, ran: &Ran, simulation: &Simulation<'_>, found: &mut Differences) {
    let agent: &AgentName = &simulation.agent.manifest.agent.name;
    let world = simulation.world();
    for (bucket, entries) in &expect.key_value {
        for (key, expected) in entries {
            let value = world.value(agent, bucket, key).await;
            found.present(format!("key_value.{bucket}.{key}"), expected, value.as_deref());
        }
    }
    for (key, expected) in &expect.cache {
        found.present(format!("cache.{key}"), expected, world.cached(agent, key).await.as_deref());
    }
    for (name, expected) in &expect.files {
        found.present(format!("files.{name}"), expected, world.file(name).as_deref());
    }
    for expected in &expect.sql {
        let what = format!("sql {}", expected.query);
        let rows = |rows: &[Vec<Value>]| Value::from(rows.iter().cloned().map(Value::from).collect::<Vec<_>>());
        match simulation.query(&expected.query).await {
            Ok(actual) => found.json(what, &rows(&expected.rows), &rows(&actual)),
            Err(error) => found.text(what, &pretty(&rows(&expected.rows)), &error),
        }
    }
    if let Some(expected) = &expect.tasks {
        let actual = ran.completion.follow_ups.iter().map(|follow_up| {
            let body = String::from_utf8_lossy(&follow_up.task.body);
            serde_json::json!({ "agent": follow_up.task.agent.as_str(), "body": body })
        });
        let expected = serde_json::to_value(expected).unwrap_or_default();
        found.json("tasks", &expected, &actual.collect::<Vec<_>>().into());
    }
    let sent = world.sent();
    if let Some(expected) = &expect.http {
        let (expected, actual) = (serde_json::to_value(expected), serde_json::to_value(sent));
        found.json("http", &expected.unwrap_or_default(), &actual.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_shows_both_sides_line_by_line() {
        let difference = Difference::between("output", "one\ntwo\nthree", "one\n2\nthree");
        assert_eq!(difference.lines, "  one\n- two\n+ 2\n  three\n");
    }

    #[test]
    fn json_is_compared_by_value() {
        assert!(same(&json!({ "a": 1, "b": [1.0, null] }), &json!({ "b": [1, null], "a": 1.0 })));
        for (a, b) in [(json!({ "a": 1 }), json!({})), (json!([1]), json!([1, 2])), (json!("1"), json!(1))] {
            assert!(!same(&a, &b) && !same(&b, &a), "{a} {b}");
        }
        let mut found = Differences::default();
        found.json("json", &json!({ "a": [1, 2] }), &json!({ "a": [1, 3] }));
        assert_eq!(found.0[0].lines, "  {\n    \"a\": [\n      1,\n-     2\n+     3\n    ]\n  }\n");
    }

    #[test]
    fn what_must_be_there_and_what_must_not() {
        let told = |expected: Present, actual: Option<&str>| {
            let mut found = Differences::default();
            found.present("key".to_owned(), &expected, actual);
            found.0.first().map(|difference| difference.lines.clone())
        };
        assert_eq!(told(Present::Text("1".into()), Some("1")), None);
        assert_eq!(told(Present::Text("1".into()), None).as_deref(), Some("- 1\n+ (nothing)\n"));
        assert_eq!(told(Present::Any(true), Some("x")), None);
        assert!(told(Present::Any(true), None).is_some());
        assert_eq!(told(Present::Any(false), None), None);
        assert!(told(Present::Any(false), Some("x")).is_some());
    }
}
