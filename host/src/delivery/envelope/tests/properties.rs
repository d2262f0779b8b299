//! What holds of every message and every task.

use proptest::prelude::*;

use super::*;

fn any_value() -> impl Strategy<Value = HeaderValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(HeaderValue::Bool),
        any::<i64>().prop_map(HeaderValue::Int),
        any::<f64>().prop_map(HeaderValue::Float),
        ".*".prop_map(HeaderValue::Text),
        "[0-9]{1,30}".prop_map(HeaderValue::Text),
        proptest::collection::vec(any::<u8>(), 0..32).prop_map(|bytes| HeaderValue::Bytes(bytes.into())),
        any::<u64>().prop_map(HeaderValue::Timestamp),
        Just(HeaderValue::Void),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(HeaderValue::List),
            proptest::collection::btree_map(".{0,8}", inner, 0..4).prop_map(HeaderValue::Table),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 11] = [
        "x-attempt",
        "x-not-before",
        "x-generation",
        "x-partition-key",
        "x-max-attempts",
        "x-deadline",
        "x-revision",
        "x-enqueued-at",
        "traceparent",
        "ce-id",
        "cloudEvents:id",
    ];
    prop_oneof![".{0,20}", proptest::sample::select(&KNOWN[..]).prop_map(str::to_owned)]
}

fn any_message() -> impl Strategy<Value = Message> {
    let text = || proptest::option::of(prop_oneof![".{0,140}", Just("application/cloudevents+json".to_owned())]);
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        r#"\{"specversion":"1.0","id":"[a-z]{0,3}","source":"","type":"","data":[0-9"\[{]{0,4}\}"#
            .prop_map(String::into_bytes),
    ];
    let texts = (text(), text(), text(), text(), text(), proptest::option::of("[0-9 a]{0,25}"));
    (texts, proptest::option::of(any::<u64>()), proptest::collection::btree_map(any_name(), any_value(), 0..8), body)
        .prop_map(
            |((message_id, correlation_id, reply_to, content_type, kind, expiration), timestamp_ms, headers, body)| {
                Message {
                    message_id,
                    correlation_id,
                    reply_to,
                    content_type,
                    kind,
                    timestamp_ms,
                    expiration,
                    headers,
                    body: body.into(),
                }
            },
        )
}

fn any_task() -> impl Strategy<Value = Task> {
    let reply = proptest::option::of(("[b-z.]{1,20}", proptest::option::of(".{0,20}")))
        .prop_map(|reply| reply.map(|(routing_key, correlation_id)| ReplyTo { routing_key, correlation_id }));
    let revision = proptest::option::of(1..i64::MAX as u64);
    let numbers = (1..=u32::MAX, proptest::option::of(1..=u32::MAX), revision, 0..=headers::GENERATION_MAX);
    let times = (0..i64::MAX as u64, proptest::option::of(0..i64::MAX as u64));
    let trace = proptest::option::of("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]");
    let texts = (
        "[ -~]{1,128}",
        "[a-z/;= ]{0,40}",
        trace,
        proptest::option::of(".{0,20}"),
        proptest::collection::btree_map("y[a-z0-9_.-]{0,20}", ".*", 0..5),
    );
    (texts, numbers, times, reply, proptest::collection::vec(any::<u8>(), 0..64)).prop_map(
        |(
            (id, content_type, traceparent, partition_key, headers),
            (attempt, attempts_max, revision, generation),
            (enqueued_at_ms, deadline_ms),
            reply,
            body,
        )| Task {
            id: TaskId::parse(&id).unwrap(),
            agent: agent(),
            attempt,
            attempts_max,
            generation,
            partition_key,
            enqueued_at_ms,
            deadline_ms,
            revision,
            headers: headers.into_iter().collect(),
            content_type,
            body: body.into(),
            traceparent,
            reply,
        },
    )
}

proptest! {
    #[test]
    fn submitting_and_parsing_is_the_identity(task in any_task()) {
        prop_assert_eq!(parse(&task.agent, &submission(&task), NOW_MS).unwrap(), task);
    }

    #[test]
    fn nothing_panics_and_nothing_unprintable_comes_out(message in any_message(), now_ms in any::<u64>()) {
        let printable = |text: &str| text.chars().all(|character| !character.is_control()) && text.len() <= 5000;
        match parse(&agent(), &message, now_ms) {
            Ok(task) => {
                let again = retry(&message, &task, task.attempt.saturating_add(1), 0);
                let next = parse(&agent(), &again, now_ms).unwrap();
                prop_assert_eq!(&next.id, &task.id);
                prop_assert_eq!(next.deadline_ms, task.deadline_ms);
                prop_assert_eq!(next.generation, task.generation);
                prop_assert_eq!(next.partition_key, task.partition_key);
                prop_assert_eq!(next.headers, task.headers);
            }
            Err(malformed) => prop_assert!(printable(&malformed.to_string()), "{}", malformed),
        }
        let letter = dead_letter(&message, &note());
        prop_assert!(printable(&letter.headers["x-error-message"].as_text().unwrap()));
    }

    #[test]
    fn an_expired_message_is_expired_when_it_comes_again(mut message in any_message(), now_ms in 1..u64::MAX / 2) {
        message.expiration = Some("1".to_owned());
        if let Ok(task) = parse(&agent(), &expired_again(&message, now_ms), now_ms) {
            prop_assert!(task.is_expired(now_ms));
        }
    }

    #[test]
    fn a_moved_message_is_the_same_task(mut message in any_message(), now_ms in 1..u64::MAX / 2) {
        message.message_id.get_or_insert_with(|| "t".to_owned());
        let moved = moved(&message, now_ms);
        match (parse(&agent(), &message, now_ms), parse(&agent(), &moved, now_ms)) {
            (Ok(before), Ok(after)) => {
                prop_assert!(moved.expiration.is_none(), "it would start anew");
                prop_assert_eq!(before, after);
            }
            (Err(before), Err(after)) => prop_assert_eq!(before.reason, after.reason),
            (before, after) => prop_assert!(false, "{before:?} became {after:?}"),
        }
    }
}
