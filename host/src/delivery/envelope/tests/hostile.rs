//! What senders and agents can do to a message on purpose, or by having much to say. The fuzz target found these.

use super::*;

/// A header that, with its name, takes all that a task's headers may.
fn all_that_is_allowed() -> (&'static str, HeaderValue) {
    const NAME_AND_MARKS_BYTES: usize = "all".len() + 2 + 4;
    ("all", "x".repeat(headers::HEADERS_BYTES_MAX - NAME_AND_MARKS_BYTES).into())
}

#[test]
fn a_task_accepted_at_the_limit_of_headers_is_accepted_at_each_attempt_and_redrive() {
    let original = Message {
        message_id: Some("t".to_owned()),
        expiration: Some("5000".to_owned()),
        headers: headers([all_that_is_allowed()]),
        ..Message::default()
    };
    let task = parsed(&original);
    let mut again = retry(&original, &task, 2, 0);
    // What a delay queue and the way through it leave behind.
    again.headers.extend(headers([
        ("x-death", HeaderValue::List(vec!["expired".into()])),
        ("x-first-death-queue", "agents.delay.250ms".into()),
        ("x-not-before", NOW_MS.into()),
    ]));
    assert_eq!(parsed(&again), Task { attempt: 2, ..task.clone() });
    let letter = dead_letter(&again, &DeathNote { generation: 1, ..note() });
    assert_eq!(parsed(&redriven(&letter, 2, NOW_MS)), Task { generation: 2, ..task });
    // A sender cannot have more by giving it a name of the host's.
    let stamped = headers([all_that_is_allowed(), ("x-attempt", format!("1{}", " ".repeat(100)).into())]);
    assert!(refused(&Message { headers: stamped, ..Message::default() }).contains("headers take"));
}

#[test]
fn a_letter_with_too_many_headers_loses_the_largest_and_no_more() {
    let small = (0..15_000).map(|number| (format!("{number:05}"), HeaderValue::Void));
    let large = ["a", "b"].map(|name| (name.to_owned(), "x".repeat(1_000).into()));
    let headers: BTreeMap<String, HeaderValue> = small.chain(large).collect();
    let letter = dead_letter(&Message { headers, ..Message::default() }, &DeathNote { revision: None, ..note() });
    assert!(!letter.headers.contains_key("a") && !letter.headers.contains_key("b"));
    // Each of the small ones takes 7 bytes.
    let kept = letter.headers.keys().filter(|name| name.len() == 5).count();
    assert_eq!(kept, headers::HEADERS_BYTES_MAX / 7);
}

#[test]
fn a_task_is_named_exactly_if_it_has_the_same_id_at_each_delivery() {
    let event = |id: &str| Message {
        content_type: Some("application/cloudevents+json".to_owned()),
        body: format!(r#"{{"specversion":"1.0","id":{id},"source":"s","type":"t"}}"#).into(),
        ..Message::default()
    };
    let with = |name: &str, value: HeaderValue| Message { headers: headers([(name, value)]), ..Message::default() };
    for (message, named) in [
        (Message { message_id: Some("t".to_owned()), ..Message::default() }, true),
        (event("\"e\""), true),
        (with("ce-id", "e".into()), true),
        (with("Ce-Id", HeaderValue::Int(5)), true),
        (with("cloudEvents:id", "e".into()), true),
        (with("cloudEvents_id", HeaderValue::Void), false),
        (with("ce-source", "e".into()), false),
        (Message::default(), false),
    ] {
        assert_eq!(names_its_task(&message), named, "{message:?}");
        assert_eq!(parsed(&message).id == parsed(&message).id, named, "{message:?}");
    }
    assert!(refused(&event("null")).contains("no \"id\""));
}

#[test]
fn a_generation_is_found_in_whatever_case_it_was_written() {
    let message = Message { headers: headers([("X-Generation", HeaderValue::Int(5))]), ..Message::default() };
    assert_eq!((generation(&message), parsed(&message).generation), (5, 5));
}

/// Counted on, it would be past what a record can hold.
#[test]
fn an_absurd_generation_is_refused_and_counts_as_none() {
    let with = |count: u32| {
        let headers = headers([(headers::GENERATION, HeaderValue::from(u64::from(count)))]);
        Message { headers, ..Message::default() }
    };
    assert_eq!(parsed(&with(headers::GENERATION_MAX)).generation, headers::GENERATION_MAX);
    for absurd in [headers::GENERATION_MAX + 1, 1_000_000_000, u32::MAX] {
        assert!(refused(&with(absurd)).contains("1 to 1000000"), "{absurd}");
        assert_eq!(generation(&with(absurd)), 0);
        let letter = dead_letter(&with(absurd), &note());
        assert_eq!(generation(&letter), 0);
        assert_eq!(parsed(&redriven(&letter, 1, NOW_MS)).generation, 1);
    }
}

/// A sender may write it: it keeps no task going round for ever, nor past its deadline.
#[test]
fn a_task_waits_as_long_as_its_delay_and_its_deadline_have_it_and_not_for_ever() {
    let with = |not_before: HeaderValue, others: &[(&str, HeaderValue)]| {
        let others = others.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let headers = headers([("x-not-before", not_before)]).into_iter().chain(others).collect();
        Message { headers, ..Message::default() }
    };
    let day_ms = 24 * 60 * 60 * 1000;
    let deadline = |at_ms: u64| [("X-Deadline", HeaderValue::from(at_ms))];
    for (message, waits_until) in [
        (with((NOW_MS + 5_000).into(), &[]), Some(NOW_MS + 5_000)),
        (with((NOW_MS + 30 * day_ms).into(), &[]), Some(NOW_MS + 30 * day_ms)),
        (with(NOW_MS.into(), &[]), None),
        (with("soon".into(), &[]), None),
        (with((NOW_MS + 5_000).into(), &deadline(NOW_MS + 9_000)), Some(NOW_MS + 5_000)),
        (with((NOW_MS + 5_000).into(), &deadline(NOW_MS + 1_000)), Some(NOW_MS + 1_000)),
        (with((NOW_MS + 5_000).into(), &deadline(NOW_MS - 1)), None),
    ] {
        assert_eq!(not_before_ms(&message, NOW_MS), waits_until, "{message:?}");
        assert_eq!(parsed(&message).attempt, 1, "{message:?}");
    }
    let expiring = Message { expiration: Some("700".to_owned()), ..with((NOW_MS + 5_000).into(), &[]) };
    assert_eq!(not_before_ms(&expiring, NOW_MS), Some(NOW_MS + 700));
    for absurd in [NOW_MS + 61 * day_ms, 1 << 62, u64::MAX] {
        let message = with(absurd.into(), &deadline(NOW_MS + 1_000));
        assert_eq!(not_before_ms(&message, NOW_MS), None);
        assert!(refused(&message).contains("x-not-before") && refused(&message).contains("60 days"), "{absurd}");
        let again = redriven(&dead_letter(&message, &note()), 1, NOW_MS);
        assert_eq!(parsed(&again).generation, 1, "redriven, it runs");
    }
}

#[test]
fn what_is_too_large_to_be_published_is_told_apart() {
    let body = |bytes: usize| Message { body: vec![0; bytes].into(), ..Message::default() };
    assert_eq!(check_size(&body(BODY_BYTES_MAX)), Ok(()));
    assert_eq!(check_size(&body(BODY_BYTES_MAX + 1)), Err(TooLarge::Body(BODY_BYTES_MAX + 1)));
    let large = HeaderValue::Text("x".repeat(headers::HEADERS_BYTES_MAX));
    let message = Message { headers: headers([("large", large)]), ..Message::default() };
    assert!(matches!(check_size(&message), Err(TooLarge::Headers(bytes)) if bytes > headers::HEADERS_BYTES_MAX));
}

#[test]
fn a_letter_keeps_the_earlier_of_deadline_and_expiration() {
    let deadline_of = |deadline: HeaderValue| {
        let headers = headers([("X-Deadline", deadline)]);
        let original = Message { expiration: Some("5000".to_owned()), headers, ..Message::default() };
        dead_letter(&original, &note())
    };
    let later = deadline_of((NOW_MS + 9000).into());
    assert_eq!(parsed(&redriven(&later, 1, NOW_MS)).deadline_ms, Some(NOW_MS + 5000));
    let earlier = deadline_of((NOW_MS + 1000).into());
    assert_eq!(parsed(&redriven(&earlier, 1, NOW_MS)).deadline_ms, Some(NOW_MS + 1000));
    let unreadable = deadline_of("tomorrow".into());
    assert_eq!(unreadable.headers.get("X-Deadline"), Some(&"tomorrow".into()));
    assert!(!unreadable.headers.contains_key("x-deadline"));
}

#[test]
fn a_redriven_task_has_no_deadline_that_did_not_count_before() {
    let later = || ("X-Deadline", HeaderValue::from(NOW_MS + 9000));
    let expired = Message { expiration: Some("0".to_owned()), headers: headers([later()]), ..Message::default() };
    let twice = Message { headers: headers([later(), ("x-deadline", NOW_MS.into())]), ..Message::default() };
    for original in [expired, expired_again(&twice, NOW_MS), twice] {
        assert_eq!(parsed(&original).deadline_ms, Some(NOW_MS));
        let again = redriven(&dead_letter(&original, &note()), 1, NOW_MS);
        assert_eq!(parsed(&again).deadline_ms, None);
    }
}

#[test]
fn an_agents_result_cannot_be_copied_to_other_queues() {
    let reply = Some(ReplyTo { routing_key: "r".to_owned(), correlation_id: None });
    let names = ["CC", "bcc", "x-error-type", "x-death", "mine"];
    let headers = names.map(|name| (name.to_owned(), "agent.voter".to_owned())).to_vec();
    let output = Output { headers, ..Output::default() };
    let (_, message) = result(&Task { reply, ..Task::new(agent(), "") }, "succeeded", Some(&output), None).unwrap();
    assert_eq!(message.headers.keys().collect::<Vec<_>>(), ["mine"]);
}

#[test]
fn nothing_that_turns_text_around_comes_through() {
    let turning =
        ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{2028}', '\u{9b}', '\u{7f}'];
    assert_eq!(printable(&turning.iter().collect::<String>()), " ".repeat(turning.len()));
}
