//! What a submission's headers and query say, read once and checked. Pure: no state, no I/O.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use serde::Deserialize;

use super::problem::{Kind, Problem};
use super::{DELAY_MAX, PREFER_WAIT_MAX};
use crate::task::{AgentName, CONTENT_TYPE_DEFAULT, Task};
use crate::trace::TraceContext;
use crate::units::{format_duration, parse_duration};

/// Prefix of the request headers that become task headers.
const TASK_HEADER_PREFIX: &str = "task-header-";
/// Bytes of all task headers, names and AMQP's marks included: an AMQP header frame holds 128 KiB, and what hosts and dead
/// letters add has to fit too.
const TASK_HEADERS_BYTES_MAX: usize = 60 << 10;
/// AMQP's marks around a header's name and text: two lengths and a type.
const HEADER_OVERHEAD_BYTES: usize = 6;
/// Longest name of a task header, and longest content type: AMQP's short strings end at 255 bytes.
const SHORT_BYTES_MAX: usize = 255;
/// The one header of the hosts' own that a client may set as a task header, under the name that AMQP clients set it by.
const PARTITION_KEY: &str = "x-partition-key";
/// Longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 255;

/// Query of a submission.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SubmitQuery {
    /// Deliver it after this time, such as `10s`; at most 30 days.
    delay: Option<String>,
    /// Attempts in all; the manifest's `retry.max_attempts` otherwise.
    max_attempts: Option<u32>,
}

/// What a submission asks for, apart from its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    pub(crate) idempotency_key: Option<String>,
    /// How long the client is ready to wait for the result.
    pub(crate) wait: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    attempts_max: Option<u32>,
    /// Absent where the client named none.
    pub(crate) content_type: Option<String>,
    headers: Vec<(String, String)>,
    /// From `Task-Header-X-Partition-Key`: tasks of one key run one after the other.
    partition_key: Option<String>,
    traceparent: Option<String>,
}

impl Submission {
    /// Reads headers and query.
    pub(crate) fn parse(headers: &HeaderMap, query: &SubmitQuery) -> Result<Self, Problem> {
        if query.max_attempts == Some(0) {
            return Err(Problem::bad_request("max_attempts=0: expected at least 1"));
        }
        let mut task_headers = task_headers(headers)?;
        let is_key = |(name, _): &mut (String, String)| name == PARTITION_KEY;
        let partition_key = task_headers.extract_if(.., is_key).next().map(|(_, key)| key);
        Ok(Self {
            idempotency_key: idempotency_key(headers)?,
            wait: wait(headers),
            delay: query.delay.as_deref().map(delay).transpose()?,
            attempts_max: query.max_attempts,
            content_type: content_type(headers)?,
            headers: task_headers,
            partition_key,
            traceparent: headers.get("traceparent").and_then(traceparent),
        })
    }

    /// The task with this body. Its id is a new one: set it where the client chose one by its key.
    pub(crate) fn task(&self, agent: AgentName, body: Bytes) -> Task {
        Task {
            attempts_max: self.attempts_max,
            content_type: self.content_type.clone().unwrap_or_else(|| CONTENT_TYPE_DEFAULT.to_owned()),
            headers: self.headers.clone(),
            partition_key: self.partition_key.clone(),
            traceparent: self.traceparent.clone(),
            ..Task::new(agent, body)
        }
    }
}

fn text<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, Problem> {
    value
        .to_str()
        .map_err(|_| Problem::bad_request(format!("the {name} header holds more than printable ASCII characters")))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = text("Idempotency-Key", value)?.trim();
    if key.is_empty() || key.len() > KEY_BYTES_MAX || values.next().is_some() {
        let detail = format!("Idempotency-Key: expected one value of 1 to {KEY_BYTES_MAX} characters");
        return Err(Problem::bad_request(detail));
    }
    Ok(Some(key.to_owned()))
}

/// `wait=N` of the `Prefer` headers. As RFC 7240 has it, what is unknown or malformed is ignored, and the first counts.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let preferences = values.flat_map(|value| value.split(',')).filter_map(|preference| preference.split(';').next());
    let seconds = preferences
        .filter_map(|preference| preference.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .find_map(|(_, seconds)| seconds.trim().trim_matches('"').parse::<u64>().ok())?;
    Some(Duration::from_secs(seconds).min(PREFER_WAIT_MAX))
}

fn delay(given: &str) -> Result<Duration, Problem> {
    let delay = parse_duration(given).map_err(|error| Problem::bad_request(format!("delay: {error}")))?;
    if delay > DELAY_MAX {
        let (given, max) = (format_duration(delay), format_duration(DELAY_MAX));
        return Err(Problem::bad_request(format!("delay={given}: expected at most {max}")));
    }
    Ok(delay)
}

fn content_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let content_type = text("Content-Type", value)?.trim();
    if content_type.len() > SHORT_BYTES_MAX {
        return Err(Problem::bad_request(format!("Content-Type: expected at most {SHORT_BYTES_MAX} characters")));
    }
    Ok((!content_type.is_empty()).then(|| content_type.to_owned()))
}

/// The `Task-Header-<Name>` headers, names in lower case and in order, values of one name joined.
fn task_headers(headers: &HeaderMap) -> Result<Vec<(String, String)>, Problem> {
    let mut found = std::collections::BTreeMap::<&str, String>::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(TASK_HEADER_PREFIX).filter(|name| !name.is_empty()) else {
            continue;
        };
        if is_reserved(name) {
            let detail = format!("Task-Header-{name}: the name is the broker's own; choose another");
            return Err(Problem::bad_request(detail));
        }
        let value = text(&format!("Task-Header-{name}"), value)?;
        found
            .entry(name)
            .and_modify(|joined| *joined = format!("{joined}, {value}"))
            .or_insert_with(|| value.to_owned());
    }
    let bytes: usize = found.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD_BYTES).sum();
    if bytes > TASK_HEADERS_BYTES_MAX || found.keys().any(|name| name.len() > SHORT_BYTES_MAX) {
        return Err(Problem::new(
            Kind::HeadersTooLarge,
            format!("task headers may have {TASK_HEADERS_BYTES_MAX} bytes in all, and names {SHORT_BYTES_MAX}"),
        ));
    }
    Ok(found.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Message headers that say something to hosts or to RabbitMQ (contract, section 3). They have request headers or
/// parameters of their own where a client may set them at all.
fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "traceparent",
        "x-attempt",
        "x-attempts",
        "x-max-attempts",
        "x-deadline",
        "x-revision",
        "x-generation",
        "x-enqueued-at",
        "x-not-before",
        "x-delay-rest",
        "x-failed-at",
        "x-delivery-count",
        "x-acquired-count",
        "cc",
        "bcc",
    ];
    const PREFIXES: [&str; 8] =
        ["x-death", "x-first-death", "x-last-death", "x-error-", "x-agent-", "x-host", "ce-", "cloudevents"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A W3C trace context; anything else is as good as none, says the standard.
fn traceparent(value: &HeaderValue) -> Option<String> {
    TraceContext::parse(value.to_str().ok()?).map(|context| context.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, StatusCode};
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        pairs.iter().map(pair).collect()
    }

    fn parse(pairs: &[(&'static str, &str)]) -> Result<Submission, StatusCode> {
        Submission::parse(&headers(pairs), &SubmitQuery::default()).map_err(|problem| problem.status())
    }

    #[test]
    fn a_plain_submission_has_the_defaults() {
        let submission = parse(&[("accept", "*/*")]).unwrap();
        let task = submission.task(AgentName::parse("echo").unwrap(), Bytes::from_static(b"x"));
        assert_eq!(task.content_type, "application/octet-stream");
        assert_eq!((task.attempt, task.attempts_max, task.traceparent, task.headers), (1, None, None, Vec::new()));
        assert_eq!((submission.wait, submission.delay, submission.idempotency_key), (None, None, None));
    }

    #[test]
    fn task_headers_lose_their_prefix_and_keep_their_values() {
        let mut given =
            headers(&[("task-header-zeta", "1"), ("task-header-alpha", "2"), ("x-other", "3"), ("task-header-", "4")]);
        given.append("task-header-zeta", HeaderValue::from_static("5"));
        let submission = Submission::parse(&given, &SubmitQuery::default()).unwrap();
        assert_eq!(submission.headers, [("alpha".to_owned(), "2".to_owned()), ("zeta".to_owned(), "1, 5".to_owned())]);
        for reserved in ["task-header-x-attempt", "task-header-x-generation", "task-header-x-host-errors"] {
            assert_eq!(parse(&[(reserved, "9")]), Err(StatusCode::BAD_REQUEST));
        }
        let keyed = parse(&[("task-header-x-partition-key", "k"), ("task-header-a", "b")]).unwrap();
        let task = keyed.task(AgentName::parse("echo").unwrap(), Bytes::new());
        assert_eq!(task.partition_key.as_deref(), Some("k"));
        assert_eq!(task.headers, [("a".to_owned(), "b".to_owned())]);
        let big = "x".repeat(TASK_HEADERS_BYTES_MAX);
        assert_eq!(parse(&[("task-header-big", &big)]), Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }

    #[test]
    fn prefer_is_read_as_rfc_7240_has_it() {
        for (prefer, seconds) in [
            ("wait=5", Some(5)),
            ("respond-async, wait=10", Some(10)),
            ("Wait = \"7\"; foo=bar", Some(7)),
            ("wait=0", Some(0)),
            ("wait=99999", Some(PREFER_WAIT_MAX.as_secs())),
            ("wait=soon", None),
            ("wait=-1", None),
            ("wait", None),
            ("return=minimal", None),
        ] {
            assert_eq!(parse(&[("prefer", prefer)]).unwrap().wait, seconds.map(Duration::from_secs), "{prefer}");
        }
    }

    #[test]
    fn only_a_valid_trace_context_is_passed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(parse(&[("traceparent", good)]).unwrap().traceparent.as_deref(), Some(good));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(&[("traceparent", bad)]).unwrap().traceparent, None, "{bad}");
        }
    }

    #[test]
    fn delays_and_attempts_have_bounds() {
        let with = |delay: Option<&str>, max_attempts| {
            let query = SubmitQuery { delay: delay.map(str::to_owned), max_attempts };
            Submission::parse(&HeaderMap::new(), &query).map_err(|problem| problem.status())
        };
        assert_eq!(with(Some("10s"), Some(3)).unwrap().delay, Some(Duration::from_secs(10)));
        assert_eq!(with(Some("30d"), None).unwrap().delay, Some(DELAY_MAX));
        for bad in [with(Some("31d"), None), with(Some("10"), None), with(Some(""), None), with(None, Some(0))] {
            assert_eq!(bad, Err(StatusCode::BAD_REQUEST));
        }
    }

    #[test]
    fn idempotency_keys_are_one_short_text() {
        assert_eq!(parse(&[("idempotency-key", " k 1 ")]).unwrap().idempotency_key.as_deref(), Some("k 1"));
        let mut twice = headers(&[("idempotency-key", "a")]);
        twice.append("idempotency-key", HeaderValue::from_static("b"));
        assert!(Submission::parse(&twice, &SubmitQuery::default()).is_err());
        assert!(parse(&[("idempotency-key", "")]).is_err());
        assert!(parse(&[("idempotency-key", &"k".repeat(256))]).is_err());
    }

    proptest! {
        /// Whatever bytes a client sends as headers, the answer is a submission within the bounds or a 4xx.
        #[test]
        fn any_headers_are_read_or_refused(
            pairs in proptest::collection::vec(
                (
                    prop_oneof![
                        Just("prefer".to_owned()), Just("idempotency-key".to_owned()), Just("content-type".to_owned()),
                        Just("traceparent".to_owned()), "task-header-[a-z0-9!#$%&'*+.^_`|~-]{0,300}",
                    ],
                    proptest::collection::vec(any::<u8>(), 0..400),
                ),
                0..20,
            ),
            delay in proptest::option::of(".{0,12}"),
            max_attempts in proptest::option::of(any::<u32>()),
        ) {
            let mut given = HeaderMap::new();
            for (name, value) in pairs {
                if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(&value)) {
                    given.append(name, value);
                }
            }
            match Submission::parse(&given, &SubmitQuery { delay, max_attempts }) {
                Ok(submission) => {
                    prop_assert!(submission.wait.is_none_or(|wait| wait <= PREFER_WAIT_MAX));
                    prop_assert!(submission.delay.is_none_or(|delay| delay <= DELAY_MAX));
                    prop_assert!(submission.headers.is_sorted());
                    prop_assert!(submission.headers.iter().all(|(name, _)| !is_reserved(name)));
                }
                Err(problem) => prop_assert!(problem.status().is_client_error()),
            }
        }

        /// Plain values arrive unchanged.
        #[test]
        fn values_are_kept_as_sent(key in "[!-~]{1,255}", value in "[ -~]{0,200}") {
            let given = [
                (HeaderName::from_static("idempotency-key"), HeaderValue::from_str(&key).unwrap()),
                (HeaderName::from_static("task-header-a"), HeaderValue::from_str(&value).unwrap()),
            ];
            let submission = Submission::parse(&given.into_iter().collect(), &SubmitQuery::default()).unwrap();
            prop_assert_eq!(submission.idempotency_key, Some(key));
            prop_assert_eq!(submission.headers, [("a".to_owned(), value)]);
        }
    }
}
