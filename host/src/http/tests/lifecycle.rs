use super::*;
use crate::agents::{ChangeError, DeployError};
use crate::catalog::{Actor, Change, NewEvent, Traffic};
use crate::delivery::BrokerError;
use crate::http::Config;
use crate::task::AgentName;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn put(router: &Router, path: &str, body: &'static str) -> Answer {
    send(router, request(Method::PUT, path, &JSON, body)).await
}

#[tokio::test]
async fn a_rollback_names_a_revision_or_goes_to_the_one_before() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for body in ["{}", ""] {
        assert_eq!(post(&router, "/v1/agents/echo/rollback", &JSON, body).await.json()["revision"], 1);
    }
    let answer = post(&router, "/v1/agents/echo/rollback", &JSON, "{\"revision\":7}").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["traffic"]["7"]), (200, &100.into()));
    let (agent, change, force, who) = doubles.lock().changes.pop().unwrap();
    assert_eq!((agent.as_str(), change, force), ("echo", Change::Activate(7), false));
    assert_eq!(who, Actor::new("this machine"));
    for bad in ["[]", "{\"revision\":\"7\"}", "{\"revison\":7}", "{\"revision\":-1}", "7"] {
        post(&router, "/v1/agents/echo/rollback", &JSON, bad).await.problem(400, "bad-request");
    }
    // What a web page elsewhere may send without asking.
    let plain = [("content-type", "text/plain")];
    post(&router, "/v1/agents/echo/rollback", &plain, "{}").await.problem(400, "bad-request");
    post(&router, "/v1/agents/nobody/rollback", &JSON, "{}").await.problem(404, "unknown-agent");
    let large = format!("{}{{}}", " ".repeat(70_000));
    post(&router, "/v1/agents/echo/rollback", &JSON, large).await.problem(413, "too-large");
}

#[tokio::test]
async fn traffic_is_split_by_weights() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let answer = put(&router, "/v1/agents/echo/traffic", "{\"3\":90,\"4\":10}").await.json();
    assert_eq!(
        (&answer["traffic"]["3"], &answer["traffic"]["4"], &answer["revision"]),
        (&90.into(), &10.into(), &3.into())
    );
    let split = Traffic::by_weights(&[(3, 90), (4, 10)]).unwrap();
    assert_eq!(doubles.lock().changes.pop().unwrap().1, Change::Split(split));
    put(&router, "/v1/agents/echo/traffic", "{\"4\":100}").await;
    assert_eq!(doubles.lock().changes.pop().unwrap().1, Change::Activate(4));
    for bad in
        ["{}", "{\"3\":90}", "{\"x\":100}", "{\"3\":-1,\"4\":101}", "{\"1\":50,\"2\":25,\"3\":25}", "{\"3\":\"100\"}"]
    {
        put(&router, "/v1/agents/echo/traffic", bad).await.problem(400, "bad-request");
    }
}

#[tokio::test]
async fn agents_are_paused_resumed_and_removed() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let state =
        async |verb: &str| post(&router, &format!("/v1/agents/echo/{verb}"), &[], "").await.json()["state"].clone();
    assert_eq!((state("pause").await, state("resume").await), ("paused".into(), "consuming".into()));
    doubles.lock().change_result = Some(ChangeError::QueueNotEmpty { ready: 3, running: 1 });
    let detail = delete(&router, "/v1/agents/echo").await.problem(409, "queue-not-empty");
    assert!(detail.contains("3 tasks wait") && detail.contains("force=true"), "{detail}");
    assert_eq!(delete(&router, "/v1/agents/echo?force=true").await.status, 204);
    assert!(doubles.lock().changes.pop().is_some_and(|(_, change, force, _)| change == Change::Remove && force));
    delete(&router, "/v1/agents/echo").await.problem(404, "unknown-agent");
}

#[tokio::test]
async fn what_cannot_be_changed_is_told_apart() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let answer = async |error: ChangeError| {
        doubles.lock().change_result = Some(error);
        post(&router, "/v1/agents/echo/rollback", &JSON, "{}").await
    };
    use crate::catalog::ChangeRefused::{NothingBefore, Overtaken, UnknownRevision};
    answer(UnknownRevision(9).into()).await.problem(422, "unknown-revision");
    answer(NothingBefore.into()).await.problem(409, "nothing-to-roll-back");
    answer(Overtaken.into()).await.problem(409, "changed-meanwhile");
    let source = DeployError::Grant("secret \"key\" is not set".to_owned());
    let detail = answer(ChangeError::Revision { revision: 1, source }).await.problem(422, "revision-refused");
    assert!(detail.contains("revision 1") && detail.contains("secret"), "{detail}");
    let detail = answer(ChangeError::Broker(BrokerError("hunter2".to_owned()))).await.problem(503, "unavailable");
    assert!(!detail.contains("hunter2"), "{detail}");
}

#[tokio::test]
async fn a_plan_says_what_would_change() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let form = "--f\r\nContent-Disposition: form-data; name=\"module\"; filename=\"m\"\r\n\r\n1234\r\n\
                --f\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\nx\r\n--f--\r\n";
    let headers = [("content-type", "multipart/form-data; boundary=f")];
    let plan = post(&router, "/v1/agents/echo/revisions?plan=true", &headers, form).await;
    assert_eq!(plan.status, 200);
    let expected = serde_json::json!({
        "agent": "echo", "status": "planned", "digest": "sha256:3", "module_bytes": 4, "known": null, "active": 2,
        "differences": [{ "what": "limits.memory", "from": "\"64MiB\"", "to": "\"1MiB\"" }],
    });
    assert_eq!(plan.json(), expected);
    assert!(doubles.lock().deploys.is_empty());
}

#[tokio::test]
async fn events_come_in_pages_the_newest_first() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for (number, agent) in (1..=5).zip(["echo", "echo", "other", "echo", "other"]) {
        doubles.lock().events.push(NewEvent {
            actor: Actor::new("admin token from 10.0.0.7"),
            host: "h:1".to_owned(),
            action: "paused",
            agent: Some(AgentName::parse(agent).unwrap()),
            detail: number.to_string(),
        });
    }
    let details = |page: &Value| {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["detail"].as_str().unwrap().to_owned())
            .collect::<String>()
    };
    let first = get(&router, "/v1/events?limit=3").await.json();
    assert_eq!((details(&first).as_str(), &first["next"]), ("543", &"3".into()));
    let second = get(&router, "/v1/events?limit=3&cursor=3").await.json();
    assert_eq!((details(&second).as_str(), &second["next"]), ("21", &Value::Null));
    assert_eq!(details(&get(&router, "/v1/events?agent=echo").await.json()), "421");
    assert_eq!(first["items"][0]["actor"], "admin token from 10.0.0.7");
    for bad in ["limit=0", "limit=1001", "cursor=x", "page=2"] {
        get(&router, &format!("/v1/events?{bad}")).await.problem(400, "bad-request");
    }
    get(&router, "/v1/events?agent=Bad_Name").await.problem(404, "unknown-agent");
    let history = get(&router, "/v1/agents/echo").await.json()["history"].clone();
    assert_eq!(history.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_done_with_dead_letters_is_logged() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    doubles.lock().letters = ["a", "b", "c"].map(|id| doubles::dead_letter(id, "echo", 1)).to_vec();
    post(&router, "/v1/dead-letters/a/redrive", &[], "").await;
    delete(&router, "/v1/dead-letters/unknown").await.problem(404, "unknown-dead-letter");
    post(&router, "/v1/dead-letters:drop?agent=echo", &[], "").await;
    let events: Vec<_> =
        doubles.lock().events.iter().map(|event| (event.action, event.detail.clone(), event.actor.clone())).collect();
    let by = || Actor::new("this machine");
    let expected =
        [("redriven", "the dead letter of task a".to_owned(), by()), ("dropped", "2 dead letters".to_owned(), by())];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn the_live_stream_has_a_limit_and_ends_with_the_host() {
    use axum::body::Body;
    use futures::StreamExt as _;
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let open = async || {
        use tower::ServiceExt as _;
        router.clone().oneshot(request(Method::GET, "/v1/live", &[], Body::empty())).await.unwrap()
    };
    let mut streams = Vec::new();
    for _ in 0..crate::http::STREAMS_MAX {
        streams.push(open().await.into_body().into_data_stream());
    }
    assert_eq!(open().await.status(), 429);
    let first = streams.swap_remove(0);
    drop(streams);
    assert_eq!(open().await.status(), 200, "a place is free again");
    let snapshot = crate::http::Snapshot { host: "here:1".to_owned(), ..crate::http::Snapshot::default() };
    let mut first = first;
    let (event, _) = tokio::join!(first.next(), async { doubles.live.send_replace(std::sync::Arc::new(snapshot)) });
    let event = String::from_utf8(event.unwrap().unwrap().to_vec()).unwrap();
    assert!(event.starts_with("event: snapshot\n") && event.contains("\"host\":\"here:1\""), "{event}");
    doubles.draining.cancel();
    assert!(first.next().await.is_none());
}
