//! What must hold for any text.

use std::collections::BTreeMap;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::config::{Config, MapVars};
use crate::http::{BATCH_TASKS_MAX, DELAY_MAX, PREFER_WAIT_MAX};
use crate::manifest::{Manifest, OUTPUT_BYTES_MAX, TIMEOUT_MAX};
use crate::parsers::cursor::{cursor, cursor_text};
use crate::parsers::lines::lines;
use crate::parsers::submission::{Submission, SubmitQuery};
use crate::task::{AgentName, TaskId};
use crate::units::{ByteSize, format_duration, parse_duration};

/// Largest body of a line.
const LINE_BYTES_MAX: u64 = 1 << 10;
/// A text in the place of a secret. Whatever is wrong around it, no complaint shows it.
const CANARY: &str = "c4n4ry-v4lue";

/// A manifest is refused with at least one reason, or keeps within its bounds and reads back as it was written.
pub(crate) fn of_a_manifest(text: &str) {
    match Manifest::parse(text) {
        Ok(manifest) => {
            assert!(manifest.limits.timeout <= TIMEOUT_MAX && manifest.limits.output <= OUTPUT_BYTES_MAX);
            let written = toml::to_string(&manifest).expect("a manifest can be written");
            let read = Manifest::parse(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
            assert_eq!(read, manifest, "{written}");
        }
        Err(errors) => assert!(!errors.0.is_empty() && errors.0.iter().all(|error| !error.is_empty())),
    }
}

/// Sizes and durations that are read are written so that they are read again as the same.
pub(crate) fn of_units(text: &str) {
    if let Ok(size) = ByteSize::parse(text) {
        assert_eq!(ByteSize::parse(&size.to_string()), Ok(size));
    }
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
}

/// What is a name has nothing in it that means something elsewhere; a refusal is short.
pub(crate) fn of_names(text: &str) {
    match AgentName::parse(text) {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert!(text.len() <= 63 && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')));
        }
        Err(error) => assert!(error.to_string().len() < 1_500),
    }
    if let Ok(id) = TaskId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert!(text.len() <= 128 && !text.contains(|character: char| character.is_control()));
    }
}

/// The lines `name: value` as an HTTP server would take them, those of the query with `?` before their name.
fn request(text: &str) -> (HeaderMap, SubmitQuery) {
    let mut headers = HeaderMap::new();
    let mut query = serde_json::Map::new();
    for (name, value) in text.split('\n').filter_map(|line| line.split_once(": ")) {
        if let Some(name) = name.strip_prefix('?') {
            let value = value.parse::<u32>().map_or_else(|_| value.into(), Into::into);
            query.insert(name.to_owned(), value);
        } else if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            // More would be refused before.
            if headers.len() < 500 {
                headers.append(name, value);
            }
        }
    }
    (headers, serde_json::from_value(query.into()).unwrap_or_default())
}

/// A submission is refused with a reason, or asks for nothing beyond the bounds and makes a task whose parts can be sent.
pub(crate) fn of_a_submission(text: &str) {
    let (headers, query) = request(text);
    match Submission::parse(&headers, &query) {
        Ok(submission) => {
            assert!(submission.wait.unwrap_or_default() <= PREFER_WAIT_MAX);
            assert!(submission.delay.unwrap_or_default() <= DELAY_MAX);
            assert!(submission.idempotency_key.as_ref().is_none_or(|key| (1..=255).contains(&key.len())));
            let task = submission.task(AgentName::parse("echo").expect("a name"), Bytes::new());
            assert!((1..=255).contains(&task.content_type.len()));
            assert!(task.attempts_max != Some(0));
            let bytes: usize = task.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            assert!(bytes <= 64 << 10);
            for (name, value) in &task.headers {
                assert!(!name.is_empty() && name.len() <= 255 && *name == name.to_ascii_lowercase());
                assert!(!value.contains(|character: char| character.is_control() && character != '\t'), "{value:?}");
            }
            if let Some(traceparent) = &task.traceparent {
                assert!(traceparent.len() == 55 && traceparent.starts_with("00-"), "{traceparent}");
            }
        }
        Err(problem) => assert!(!problem.detail.is_empty() && problem.detail.len() < 1_000, "{:?}", problem.kind),
    }
}

/// Each line of a batch is one JSON value.
pub(crate) fn of_a_batch(bytes: &[u8]) {
    match lines(&Bytes::copy_from_slice(bytes), LINE_BYTES_MAX) {
        Ok(bodies) => {
            assert!((1..=BATCH_TASKS_MAX).contains(&bodies.len()));
            for body in bodies {
                assert!(body.len() as u64 <= LINE_BYTES_MAX && !body.contains(&b'\n'));
                assert!(serde_json::from_slice::<IgnoredAny>(&body).is_ok());
            }
        }
        Err(problem) => assert!(!problem.detail.is_empty()),
    }
}

/// What is a place in a list is the place that the same text stands for when it is given out again.
pub(crate) fn of_a_cursor(text: &str) {
    if let Some(place) = cursor(text) {
        assert_eq!(cursor(&cursor_text(&place)), Some(place));
    }
}

/// What is said about wrong settings is something, and no secret.
fn check(result: Result<Config, crate::config::ConfigErrors>, shown: &str, is_in_a_secret: bool) {
    if let Ok(config) = &result {
        assert!(
            config.inbox_retention >= config.record_retention && config.record_retention >= Duration::from_secs(60)
        );
    }
    let complaints = result.err().map(|errors| errors.0).unwrap_or_default();
    assert!(complaints.iter().all(|complaint| !complaint.is_empty()));
    if is_in_a_secret {
        assert!(!complaints.iter().any(|complaint| complaint.contains(CANARY)), "{complaints:?}");
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

/// A configuration file, once as it is and once with a secret before it.
pub(crate) fn of_a_config_file(text: &str) {
    let file = std::env::temp_dir().join(format!("agent-host-fuzz-{}.toml", std::process::id()));
    let vars = MapVars::new(&[("HOME", "/home/somebody")]);
    for (text, is_in_a_secret) in [(text.to_owned(), false), (format!("admin_token = \"{CANARY} {text}"), true)] {
        if is_in_a_secret && text.matches(CANARY).count() > 1 {
            continue;
        }
        std::fs::write(&file, &text).expect("the folder for temporary files can be written to");
        let loaded = Config::load(Some(&file), &vars, &BTreeMap::new());
        let (settings, _) = Config::show(Some(&file), &vars, &BTreeMap::new());
        check(loaded, &format!("{settings:?}"), is_in_a_secret);
    }
}

/// Lines `NAME=value` as environment variables, with secrets beside them.
pub(crate) fn of_an_environment(text: &str) {
    if text.contains(CANARY) {
        return;
    }
    let mut pairs: Vec<(&str, &str)> = text.split('\n').filter_map(|line| line.split_once('=')).collect();
    let broker = pairs.iter().find(|(name, _)| *name == "AMQP_URL").map_or("amqp://u:@h", |(_, url)| url);
    let broker = broker.replacen(":@", &format!(":{CANARY}@"), 1);
    pairs.push(("AMQP_URL", &broker));
    pairs.push(("AGENT_HOST_SUBMIT_TOKEN", CANARY));
    // Where it has a configuration file, that is another target's.
    pairs.retain(|(name, _)| *name != "AGENT_HOST_CONFIG");
    pairs.push(("AGENT_HOST_CONFIG", "/dev/null"));
    let vars = MapVars::new(&pairs);
    let loaded = Config::load(None, &vars, &BTreeMap::new());
    let (settings, _) = Config::show(None, &vars, &BTreeMap::new());
    check(loaded, &format!("{settings:?}"), true);
}
