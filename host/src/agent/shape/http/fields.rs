//! Headers: of a task as those of a request, of a response as those of an output.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::task::Task;

/// What says how a message is sent and not what it is, and so ends with the connection (RFC 9110, section 7.6.1), and what
/// the host says itself.
const NOT_PASSED_ON: [&str; 13] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];
/// Likewise, where it says what a connection is to become.
const UPGRADE: &str = "upgrade";

/// What the host knows about a task and an agent of another shape cannot ask for.
pub(in crate::agent::shape) fn about(task: &Task) -> Vec<(&'static str, String)> {
    let mut about = vec![
        ("task-agent", task.agent.to_string()),
        ("task-attempt", task.attempt.to_string()),
        ("task-id", task.id.to_string()),
    ];
    about.extend(task.traceparent.clone().map(|traceparent| ("traceparent", traceparent)));
    about
}

/// The headers of a task's request. A header that HTTP has no form for is left out.
pub(super) fn of_request(task: &Task) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in &task.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            fields.append(name, value);
        }
    }
    remove_what_is_not_passed_on(&mut fields);
    let content_type = [(CONTENT_TYPE, task.content_type.clone())];
    let known = about(task).into_iter().map(|(name, value)| (HeaderName::from_static(name), value));
    for (name, value) in known.chain(content_type) {
        // Whatever the sender wrote under this name.
        fields.remove(&name);
        if let Ok(value) = HeaderValue::try_from(value) {
            fields.insert(name, value);
        }
    }
    fields.insert(CONTENT_LENGTH, HeaderValue::from(task.body.len()));
    if let Ok(host) = HeaderValue::from_str(task.agent.as_str()) {
        fields.insert(HOST, host);
    }
    fields
}

/// The content type of an output and its headers, of those of a response. Several of one name are one, as HTTP has it.
pub(super) fn of_response(fields: &HeaderMap) -> (Option<String>, Vec<(String, String)>) {
    let content_type = fields.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut fields = fields.clone();
    remove_what_is_not_passed_on(&mut fields);
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &fields {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str())
            .and_modify(|joined| joined.extend([", ", &*value]))
            .or_insert_with(|| value.clone().into_owned());
    }
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    (content_type, headers)
}

fn remove_what_is_not_passed_on(fields: &mut HeaderMap) {
    let named: Vec<String> = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named.iter().map(String::as_str).chain(NOT_PASSED_ON).chain([UPGRADE]) {
        fields.remove(name);
    }
}

/// When to try again: a number of seconds, or a date.
pub(super) fn retry_after_ms(fields: &HeaderMap, now: SystemTime) -> Option<u64> {
    let value = fields.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        // What no number holds is for ever.
        return Some(value.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1_000));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let left = at.duration_since(now).unwrap_or(Duration::ZERO);
    Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(headers: &[(&str, &str)]) -> Task {
        let mut task = Task::new("caller".parse().unwrap(), "body");
        task.content_type = "text/plain".into();
        task.headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        task
    }

    #[test]
    fn a_request_has_the_tasks_headers_and_the_hosts() {
        let mut task = task(&[
            ("colour", "red"),
            ("connection", "close, X-Private"),
            ("content-length", "1000000"),
            ("content-type", "forged/type"),
            ("host", "elsewhere"),
            ("no name", "x"),
            ("line", "one\r\ntwo: 2"),
            ("task-attempt", "99"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("x-private", "1"),
        ]);
        task.traceparent = Some("00-trace".into());
        let fields = of_request(&task);
        let mut shown: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        shown.sort_unstable();
        let id = task.id.to_string();
        assert_eq!(
            shown,
            [
                ("colour", "red"),
                ("content-length", "4"),
                ("content-type", "text/plain"),
                ("host", "caller"),
                ("task-agent", "caller"),
                ("task-attempt", "1"),
                ("task-id", id.as_str()),
                ("traceparent", "00-trace"),
            ]
        );
    }

    #[test]
    fn a_response_gives_its_content_type_and_its_own_headers() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("content-type", "image/png"),
            ("content-length", "3"),
            ("connection", "x-private"),
            ("x-private", "1"),
            ("trailer", "expires"),
            ("vary", "accept"),
            ("vary", "origin"),
            ("etag", "\"abc\""),
        ] {
            fields.append(name, HeaderValue::from_static(value));
        }
        fields.append("odd", HeaderValue::from_bytes(b"\xff").unwrap());
        let (content_type, headers) = of_response(&fields);
        assert_eq!(content_type.as_deref(), Some("image/png"));
        let shown: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(shown, [("etag", "\"abc\""), ("odd", "\u{fffd}"), ("vary", "accept, origin")]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |value: &str| {
            retry_after_ms(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(value).unwrap())]), now)
        };
        assert_eq!(after("0"), Some(0));
        assert_eq!(after(" 120 "), Some(120_000));
        assert_eq!(after("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0), "a date that has passed");
        for neither in ["", "-1", "+5", "1.5", "soon", "1e3"] {
            assert_eq!(after(neither), None, "{neither:?}");
        }
        assert_eq!(retry_after_ms(&HeaderMap::new(), now), None);
    }

    proptest! {
        #[test]
        fn any_task_becomes_a_request(name in ".{0,40}", value in ".{0,40}", content_type in ".{0,40}") {
            let mut task = task(&[(&name, &value)]);
            task.content_type = content_type;
            let fields = of_request(&task);
            prop_assert_eq!(&fields["task-id"], task.id.as_str());
            prop_assert_eq!(&fields["host"], "caller");
            prop_assert_eq!(&fields["content-length"], "4");
            prop_assert!(fields.get_all("content-type").iter().count() <= 1);
            prop_assert!(!fields.contains_key("transfer-encoding") && !fields.contains_key("connection"));
        }

        #[test]
        fn any_retry_after_is_read_or_not(value in "[ -~]{0,40}") {
            let fields = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(&value).unwrap())]);
            let _ = retry_after_ms(&fields, SystemTime::now());
        }
    }
}
