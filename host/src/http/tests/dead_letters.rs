use super::doubles::dead_letter;
use super::*;
use crate::http::Config;
use crate::task::TaskId;

const LETTERS: &str = "/v1/dead-letters";

/// A host with these dead letters: (id, agent, when).
fn host(letters: &[(&str, &str, u64)]) -> (Doubles, Router) {
    let (doubles, _published) = Doubles::new();
    doubles.lock().letters = letters.iter().map(|(id, agent, at)| dead_letter(id, agent, *at)).collect();
    let router = doubles.router(Config::default());
    (doubles, router)
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

fn left(doubles: &Doubles) -> Vec<String> {
    doubles.lock().letters.iter().map(|opened| opened.letter.id.to_string()).collect()
}

#[tokio::test]
async fn they_are_listed_in_pages_the_newest_first() {
    let (doubles, router) =
        host(&[("old", "echo", 1), ("a b/c", "echo", 2), ("b", "echo", 2), ("x", "voter", 3), ("new", "echo", 4)]);
    let all = get(&router, LETTERS).await.json();
    assert_eq!((ids(&all), &all["next"]), (vec!["new", "x", "b", "a b/c", "old"], &Value::Null));
    let first = get(&router, &format!("{LETTERS}?limit=2&agent=echo")).await.json();
    assert_eq!(ids(&first), ["new", "b"]);
    // What comes in between is newer, and moves no page.
    doubles.lock().letters.push(dead_letter("newest", "echo", 5));
    let next = first["next"].as_str().unwrap();
    let second = get(&router, &format!("{LETTERS}?limit=2&agent=echo&cursor={next}")).await.json();
    assert_eq!((ids(&second), &second["next"]), (vec!["a b/c", "old"], &Value::Null));
    let voter = get(&router, &format!("{LETTERS}?agent=voter")).await.json();
    let expected = serde_json::json!({
        "id": "x", "agent": "voter", "generation": 0, "failed_at": 3, "attempts": 5, "revision": 2, "host": "h:8080",
        "digest": "sha256:2", "failure": { "type": "trapped", "message": "unreachable" },
    });
    assert_eq!(voter["items"], serde_json::json!([expected]));
    assert_eq!(ids(&get(&router, &format!("{LETTERS}?agent=nobody")).await.json()), Vec::<&str>::new());
}

#[tokio::test]
async fn a_recording_is_given_as_it_is_and_what_has_none_says_so() {
    let (doubles, router) = host(&[("recorded", "echo", 1), ("silent", "echo", 2)]);
    doubles.lock().letters[0].letter.recording = Some("{}\n".into());
    let answer = get(&router, &format!("{LETTERS}/recorded/recording")).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, Some("application/x-ndjson")));
    assert_eq!(answer.body, "{}\n");
    let detail = get(&router, &format!("{LETTERS}/silent/recording")).await.problem(404, "no-recording");
    assert!(detail.contains("[record]"), "{detail}");
    get(&router, &format!("{LETTERS}/nobody/recording")).await.problem(404, "unknown-dead-letter");
}

#[tokio::test]
async fn a_page_has_fifty_unless_asked_for_more() {
    let (doubles, router) = host(&[]);
    doubles.lock().letters = (0..1_001).map(|at| dead_letter(&format!("t{at}"), "echo", at)).collect();
    assert_eq!(ids(&get(&router, LETTERS).await.json()).len(), 50);
    let page = get(&router, &format!("{LETTERS}?limit=1000")).await.json();
    assert_eq!(ids(&page).len(), 1_000);
    let rest = get(&router, &format!("{LETTERS}?cursor={}", page["next"].as_str().unwrap())).await.json();
    assert_eq!((ids(&rest), &rest["next"]), (vec!["t0"], &Value::Null));
}

#[tokio::test]
async fn malformed_queries_say_what_was_expected() {
    let (_, router) = host(&[]);
    for (query, names) in [
        ("limit=0", "1 to 1000"),
        ("limit=1001", "1 to 1000"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        // base64 of "soon x", "1", "" and "1 " in turn.
        ("cursor=c29vbiB4", "cursor"),
        ("cursor=MQ", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=MSA", "cursor"),
        ("agnet=echo", "agnet"),
    ] {
        let detail = get(&router, &format!("{LETTERS}?{query}")).await.problem(400, "bad-request");
        assert!(detail.contains(names), "{query}: {detail}");
    }
    get(&router, &format!("{LETTERS}?agent=Bad_Name")).await.problem(404, "unknown-agent");
    for action in ["redrive", "drop"] {
        let detail = post(&router, &format!("{LETTERS}:{action}"), &[], "").await.problem(400, "bad-request");
        assert!(detail.contains("agent"), "{detail}");
        post(&router, &format!("{LETTERS}:{action}?agent=Bad_Name"), &[], "").await.problem(404, "unknown-agent");
    }
}

#[tokio::test]
async fn one_is_shown_with_its_message() {
    let (_, router) = host(&[("a b/c", "echo", 7)]);
    let shown = get(&router, &format!("{LETTERS}/a%20b%2Fc")).await.json();
    assert_eq!(
        shown,
        serde_json::json!({
            "id": "a b/c", "agent": "echo", "generation": 0, "failed_at": 7, "attempts": 5, "revision": 2,
            "digest": "sha256:2", "host": "h:8080", "failure": { "type": "trapped", "message": "unreachable" },
            "headers": { "color": "red", "x-attempts": 5 }, "content_type": "application/json", "body": { "n": 1 },
        })
    );
    let detail = get(&router, &format!("{LETTERS}/other")).await.problem(404, "unknown-dead-letter");
    assert!(detail.contains("other"), "{detail}");
    get(&router, &format!("{LETTERS}/{}", "x".repeat(200))).await.problem(404, "unknown-dead-letter");
}

#[tokio::test]
async fn one_is_redriven_or_dropped_once() {
    let (doubles, router) = host(&[("a", "echo", 1), ("b", "echo", 2), ("c", "echo", 3)]);
    let answer = post(&router, &format!("{LETTERS}/a/redrive"), &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (202, serde_json::json!({ "id": "a" })));
    post(&router, &format!("{LETTERS}/a/redrive"), &[], "").await.problem(404, "unknown-dead-letter");
    let answer = delete(&router, &format!("{LETTERS}/b")).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0));
    delete(&router, &format!("{LETTERS}/b")).await.problem(404, "unknown-dead-letter");
    assert_eq!(left(&doubles), ["c"]);
    assert_eq!(doubles.lock().redriven, [TaskId::parse("a").unwrap()]);
}

#[tokio::test]
async fn all_of_an_agent_are_redriven_or_dropped_at_once() {
    let (doubles, router) = host(&[("a", "echo", 1), ("b", "voter", 2), ("c", "echo", 3), ("d", "voter", 4)]);
    let answer = post(&router, &format!("{LETTERS}:redrive?agent=echo"), &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, redriven(2, 0)));
    assert_eq!((left(&doubles).join(" "), doubles.lock().redriven.len()), ("b d".to_owned(), 2));
    let again = post(&router, &format!("{LETTERS}:redrive?agent=echo"), &[], "").await;
    assert_eq!(again.json(), redriven(0, 0));
    let answer = post(&router, &format!("{LETTERS}:drop?agent=voter"), &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, serde_json::json!({ "dropped": 2 })));
    assert!(left(&doubles).is_empty());
}

fn redriven(redriven: u64, unsendable: u64) -> Value {
    serde_json::json!({ "redriven": redriven, "left": { "unsendable": unsendable, "unreadable": 0 } })
}

#[tokio::test]
async fn what_cannot_be_sent_again_stays_and_says_why() {
    let (doubles, router) = host(&[("large", "echo", 1), ("b", "echo", 2), ("c", "voter", 3)]);
    doubles.lock().unsendable = vec!["large".to_owned()];
    let detail = post(&router, &format!("{LETTERS}/large/redrive"), &[], "").await.problem(422, "unsendable");
    assert!(detail.contains("task large cannot be sent again: its body"), "{detail}");
    let answer = post(&router, &format!("{LETTERS}:redrive?agent=echo"), &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, redriven(1, 1)));
    assert_eq!(left(&doubles), ["large", "c"]);
    assert_eq!(delete(&router, &format!("{LETTERS}/large")).await.status.as_u16(), 204);
}

#[tokio::test]
async fn without_records_there_is_nothing_to_see_or_do() {
    let (doubles, router) = host(&[("a", "echo", 1)]);
    doubles.lock().records_fail = true;
    let answers = [
        get(&router, LETTERS).await,
        get(&router, &format!("{LETTERS}/a")).await,
        get(&router, &format!("{LETTERS}/a/recording")).await,
        post(&router, &format!("{LETTERS}/a/redrive"), &[], "").await,
        delete(&router, &format!("{LETTERS}/a")).await,
        post(&router, &format!("{LETTERS}:redrive?agent=echo"), &[], "").await,
        post(&router, &format!("{LETTERS}:drop?agent=echo"), &[], "").await,
    ];
    for answer in answers {
        let detail = answer.problem(503, "unavailable");
        assert!(!detail.contains("hunter2"), "{detail}");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(left(&doubles), ["a"]);
}

#[tokio::test]
async fn a_web_page_elsewhere_can_neither_see_nor_drop_them() {
    let (doubles, router) = host(&[("a", "echo", 1)]);
    let evil = [("origin", "http://evil.example")];
    post(&router, &format!("{LETTERS}:drop?agent=echo"), &evil, "").await.problem(403, "forbidden");
    send(&router, request(Method::GET, LETTERS, &evil, Body::empty())).await.problem(403, "forbidden");
    assert_eq!(left(&doubles), ["a"]);
}
