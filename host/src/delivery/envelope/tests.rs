mod hostile;
mod properties;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::delivery::{HeaderValue, Message, Route};
use crate::task::{AgentName, Limit, Outcome, Output, ReplyTo, Task, TaskId};

const NOW_MS: u64 = 1_800_000_000_123;

fn agent() -> AgentName {
    AgentName::parse("voter").unwrap()
}

fn headers<const N: usize>(entries: [(&str, HeaderValue); N]) -> BTreeMap<String, HeaderValue> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn parsed(message: &Message) -> Task {
    parse(&agent(), message, NOW_MS).unwrap()
}

fn refused(message: &Message) -> String {
    let malformed = parse(&agent(), message, NOW_MS).unwrap_err();
    assert!(matches!(malformed.outcome(), Outcome::Rejected { .. }));
    malformed.to_string()
}

fn note() -> DeathNote {
    DeathNote {
        task_id: TaskId::parse("t").unwrap(),
        error_type: "trapped".to_owned(),
        error_message: "wasm `unreachable`\n\u{1b}[31mred\u{202e}".to_owned(),
        failed_at_ms: NOW_MS,
        attempts: 3,
        generation: 0,
        revision: Some(7),
        digest: Some("sha256:ab".to_owned()),
        host: "h1".to_owned(),
    }
}

#[test]
fn a_bare_message_is_a_task_with_defaults() {
    let task = parsed(&Message { body: Bytes::from_static(b"x"), ..Message::default() });
    assert_eq!((task.attempt, task.attempts_max, task.deadline_ms, task.revision), (1, None, None, None));
    assert_eq!(task.enqueued_at_ms, NOW_MS);
    assert_eq!(task.content_type, "application/octet-stream");
    assert_eq!(task.id.as_str().len(), 36);
    assert!(task.reply.is_none() && task.headers.is_empty());
}

#[test]
fn headers_reach_the_agent_in_lower_case_and_the_hosts_own_do_not() {
    let task = parsed(&Message {
        headers: headers([
            ("X-Attempt", HeaderValue::Int(2)),
            ("x-max-attempts", "4".into()),
            ("x-revision", HeaderValue::Int(3)),
            ("x-deadline", "2030-01-01T00:00:00+01:00".into()),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            ("x-death", HeaderValue::List(vec![])),
            ("x-first-death-queue", "agent.voter".into()),
            ("Priority", HeaderValue::Int(5)),
            ("a", "1".into()),
            ("A", "2".into()),
            ("blob", HeaderValue::Bytes(Bytes::from_static(&[0xff]))),
        ]),
        ..Message::default()
    });
    assert_eq!((task.attempt, task.attempts_max, task.revision), (2, Some(4), Some(3)));
    assert_eq!(task.deadline_ms, Some(1_893_452_400_000));
    assert!(task.traceparent.is_some());
    let expected = [("a", "2, 1"), ("priority", "5")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(task.headers, expected);
}

#[test]
fn wrong_headers_are_named_with_what_was_expected() {
    for (name, value, expected) in [
        ("x-attempt", HeaderValue::Int(0), "a whole number from 1"),
        ("x-attempt", HeaderValue::Int(1 << 40), "a whole number from 1"),
        ("x-max-attempts", HeaderValue::Text("many".to_owned()), "a whole number from 1"),
        ("x-revision", HeaderValue::List(vec![]), "a whole number from 1"),
        ("x-deadline", HeaderValue::Text("tomorrow\u{1b}[2J".to_owned()), "Unix milliseconds or RFC 3339"),
        ("traceparent", HeaderValue::Void, "text"),
    ] {
        let text = refused(&Message { headers: headers([(name, value)]), ..Message::default() });
        assert!(text.contains(name) && text.contains(expected) && !text.contains('\u{1b}'), "{text}");
    }
    assert!(refused(&Message { message_id: Some("ä".to_owned()), ..Message::default() }).contains("message-id"));
    assert!(refused(&Message { expiration: Some("soon".to_owned()), ..Message::default() }).contains("expiration"));
    let many = headers([("large", "x".repeat(headers::HEADERS_BYTES_MAX).into())]);
    assert!(refused(&Message { headers: many, ..Message::default() }).contains("headers take"));
}

#[test]
fn a_malformed_message_keeps_its_id_and_its_senders_address() {
    let message = Message {
        message_id: Some("id".to_owned()),
        reply_to: Some("replies".to_owned()),
        headers: headers([("x-attempt", HeaderValue::Void)]),
        ..Message::default()
    };
    let malformed = parse(&agent(), &message, NOW_MS).unwrap_err();
    assert_eq!(malformed.task_id.as_str(), "id");
    assert_eq!(malformed.reply.unwrap().routing_key, "replies");
    for own in ["agent.voter", "agent.voter.dead", "agents.delay.250ms"] {
        let message = Message { reply_to: Some(own.to_owned()), ..Message::default() };
        assert!(refused(&message).contains("reply-to"));
        assert!(parse(&agent(), &message, NOW_MS).unwrap_err().reply.is_none());
    }
}

#[test]
fn expiration_counts_from_the_senders_timestamp_and_the_earlier_deadline_holds() {
    let with = |timestamp_ms, deadline: Option<u64>| {
        let headers = deadline.map(|ms| ("x-deadline".to_owned(), ms.into())).into_iter().collect();
        parsed(&Message { expiration: Some("5000".to_owned()), timestamp_ms, headers, ..Message::default() })
            .deadline_ms
    };
    assert_eq!(with(None, None), Some(NOW_MS + 5000));
    // AMQP's timestamp may lie up to a second before the moment that it was taken at.
    assert_eq!(with(Some(NOW_MS - 60_123), None), Some(NOW_MS - 60_123 + 999 + 5000));
    assert_eq!(with(Some(NOW_MS + 60_000), None), Some(NOW_MS + 5000));
    assert_eq!(with(None, Some(NOW_MS + 1)), Some(NOW_MS + 1));
}

#[test]
fn cloud_events_come_in_headers_or_as_json() {
    for prefix in ["ce-", "cloudEvents_", "cloudEvents:", "CloudEvents:"] {
        let binary = Message {
            content_type: Some("text/plain".to_owned()),
            headers: [("id", "e1"), ("type", "vote"), ("source", "/s"), ("specversion", "1.0")]
                .map(|(name, value)| (format!("{prefix}{name}"), value.into()))
                .into(),
            body: Bytes::from_static(b"data"),
            ..Message::default()
        };
        let task = parsed(&binary);
        assert_eq!((task.id.as_str(), task.content_type.as_str()), ("e1", "text/plain"));
        assert!(task.headers.contains(&("ce-type".to_owned(), "vote".to_owned())), "{task:?}");
        assert_eq!(parsed(&Message { message_id: Some("m1".to_owned()), ..binary }).id.as_str(), "m1");
    }
    let structured = |json: &str| Message {
        content_type: Some("application/cloudevents+json; charset=utf-8".to_owned()),
        body: Bytes::copy_from_slice(json.as_bytes()),
        ..Message::default()
    };
    let envelope = r#""specversion":"1.0","id":"e2","source":"/s","type":"vote""#;
    for (data, content_type, body) in [
        (r#""data":{"a": 1.10}"#, "application/json", &br#"{"a": 1.10}"#[..]),
        (r#""data":"hi","datacontenttype":"text/plain""#, "text/plain", b"hi"),
        (r#""data":"hi","datacontenttype":"application/json""#, "application/json", b"\"hi\""),
        (r#""data_base64":"/wA=","datacontenttype":"image/png""#, "image/png", &[0xff, 0]),
        (r#""n":5"#, "application/json", b""),
    ] {
        let task = parsed(&structured(&format!("{{{envelope},{data}}}")));
        assert_eq!((task.id.as_str(), task.content_type.as_str(), &task.body[..]), ("e2", content_type, body));
        assert!(task.headers.contains(&("ce-source".to_owned(), "/s".to_owned())));
    }
    for wrong in
        ["", "[]", r#"{"id":"e"}"#, &format!("{{{envelope},\"data\":1,\"data_base64\":\"\"}}"), &"[".repeat(100_000)]
    {
        assert!(refused(&structured(wrong)).contains("CloudEvent"), "{wrong:.80}");
    }
    assert!(refused(&structured(&format!("{{{envelope},\"data_base64\":\"%\"}}"))).contains("base64"));
}

#[test]
fn a_retry_is_the_original_with_the_attempt_raised() {
    let original = Message {
        message_id: None,
        content_type: Some("application/cloudevents+json".to_owned()),
        expiration: Some("1000".to_owned()),
        headers: headers([
            ("X-Attempt", HeaderValue::Int(1)),
            ("keep", HeaderValue::Table(BTreeMap::new())),
            ("x-death", HeaderValue::List(vec![])),
            ("x-last-death-reason", "expired".into()),
            ("CC", HeaderValue::List(vec!["other".into()])),
            ("x-not-before", HeaderValue::Int(5)),
        ]),
        body: Bytes::from_static(br#"{"specversion":"1.0","id":"e","source":"s","type":"t"}"#),
        ..Message::default()
    };
    let task = parsed(&original);
    let again = retry(&original, &task, 2, 0);
    let left: Vec<&str> = again.headers.keys().map(String::as_str).collect();
    assert_eq!(left, ["keep", "x-attempt", "x-deadline", "x-enqueued-at"]);
    assert_eq!((again.expiration.as_deref(), &again.body), (None, &original.body));
    let next = parse(&agent(), &again, NOW_MS + 500).unwrap();
    assert_eq!(next, Task { attempt: 2, ..task });
}

#[test]
fn results_go_to_those_who_asked() {
    let mut task = Task::new(agent(), "");
    assert!(result(&task, "succeeded", None, None).is_none());
    task.reply = Some(ReplyTo { routing_key: "r".to_owned(), correlation_id: None });
    let output = Output { content_type: Some("text/plain".to_owned()), headers: Vec::new(), body: "hi".into() };
    let (route, message) = result(&task, "succeeded", Some(&output), None).unwrap();
    assert_eq!(route, Route::Reply("r".to_owned()));
    assert_eq!(message.correlation_id.as_deref(), Some(task.id.as_str()));
    assert_eq!((message.kind.as_deref(), message.content_type.as_deref()), (Some("succeeded"), Some("text/plain")));
    assert_eq!((&message.body[..], message.headers.is_empty()), (&b"hi"[..], true));
    let timed_out = Outcome::TimedOut(Limit { name: "limits.timeout", allowed: "30s".to_owned() });
    let (_, message) = result(&task, timed_out.name(), None, timed_out.failure().as_ref()).unwrap();
    assert_eq!(message.headers["x-error-type"], "timed-out".into());
    assert!(message.headers["x-error-message"].as_text().unwrap().contains("limits.timeout = 30s"));
}

#[test]
fn a_dead_letter_is_the_original_and_the_reason() {
    let original = Message {
        expiration: Some("5".to_owned()),
        headers: headers([
            ("keep", "1".into()),
            ("x-death", HeaderValue::List(vec![])),
            ("x-error-type", "old".into()),
        ]),
        body: "b".into(),
        ..Message::default()
    };
    let letter = dead_letter(&original, &note());
    assert_eq!(
        (letter.expiration.as_deref(), letter.message_id.as_deref(), &letter.body[..]),
        (None, Some("t"), &b"b"[..])
    );
    let expected = headers([
        ("keep", "1".into()),
        ("x-agent-digest", "sha256:ab".into()),
        ("x-agent-revision", HeaderValue::Int(7)),
        ("x-attempts", HeaderValue::Int(3)),
        ("x-deadline", (NOW_MS + 5).into()),
        ("x-error-message", "wasm `unreachable`  [31mred ".into()),
        ("x-error-type", "trapped".into()),
        ("x-failed-at", NOW_MS.into()),
        ("x-host", "h1".into()),
    ]);
    assert_eq!(letter.headers, expected);
}

#[test]
fn a_redriven_letter_is_a_first_attempt_of_the_next_generation() {
    let original = Message {
        message_id: Some("t".to_owned()),
        headers: headers([("keep", "1".into()), ("X-Attempt", HeaderValue::Int(3)), ("x-max-attempts", "4".into())]),
        body: "b".into(),
        ..Message::default()
    };
    let letter = dead_letter(&original, &DeathNote { generation: 1, ..note() });
    let again = redriven(&letter, 2, NOW_MS);
    let left: Vec<&str> = again.headers.keys().map(String::as_str).collect();
    assert_eq!(left, ["keep", "x-generation", "x-max-attempts"]);
    let task = parsed(&again);
    assert_eq!((task.id.as_str(), task.attempt, task.generation, task.attempts_max), ("t", 1, 2, Some(4)));
    assert_eq!(generation(&letter), 1);
    // A deadline that is still to come holds; one that has passed does not.
    for (deadline_ms, kept) in [(NOW_MS - 1, false), (NOW_MS + 1, true)] {
        let headers = headers([("x-deadline", deadline_ms.into())]);
        assert_eq!(parsed(&redriven(&Message { headers, ..letter.clone() }, 2, NOW_MS)).deadline_ms.is_some(), kept);
    }
    assert_eq!(parsed(&retry(&again, &task, 2, 0)).generation, 2, "a retry stays in its generation");
}

#[test]
fn a_message_with_too_many_headers_can_still_be_buried() {
    let huge = headers([("huge", "x".repeat(100_000).into()), ("small", "y".into())]);
    let letter = dead_letter(&Message { headers: huge, ..Message::default() }, &note());
    assert!(!letter.headers.contains_key("huge") && letter.headers.contains_key("small"));
    assert!(headers::size(&letter.headers) <= headers::HEADERS_BYTES_MAX + 8 * 1024);
}
