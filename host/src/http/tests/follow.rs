use super::*;
use crate::http::Config;
use crate::records::{Progress, Status};
use crate::task::TaskId;
use futures::StreamExt as _;

async fn submitted(router: &Router) -> TaskId {
    let answer = post(router, "/v1/agents/echo/tasks", &[], "x").await;
    TaskId::parse(answer.json()["id"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_task_shows_itself_as_the_contract_says() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let id = submitted(&router).await;
    let path = format!("/v1/tasks/{id}");
    let queued = get(&router, &path).await.json();
    assert_eq!(
        (&queued["status"], &queued["output"], &queued["revision"]),
        (&"queued".into(), &Value::Null, &Value::Null)
    );
    let mut fields: Vec<_> = queued.as_object().unwrap().keys().cloned().collect();
    fields.sort();
    let expected = "agent attempt enqueued_at failure finished_at id output progress revision started_at status usage";
    assert_eq!(fields.join(" "), expected);
    doubles.succeed(&id, Some("application/json"), b"{\"sum\": 3}");
    let done = get(&router, &path).await.json();
    assert_eq!(
        (&done["status"], &done["output"]["sum"], &done["finished_at"]),
        (&"succeeded".into(), &3.into(), &9.into())
    );
    let usage = serde_json::json!({ "memory_bytes_peak": 1, "cpu_us": 2, "wall_us": 3, "host_calls": 4 });
    assert_eq!(done["usage"], usage);
    let raw = get(&router, &format!("{path}/output")).await;
    assert_eq!((raw.header("content-type"), &raw.body[..]), (Some("application/json"), &b"{\"sum\": 3}"[..]));
    assert_eq!(raw.header("content-security-policy"), Some("default-src 'none'; sandbox"));
}

#[tokio::test]
async fn so_many_tasks_are_followed_at_once_and_no_more() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let path = format!("/v1/tasks/{}/events", submitted(&router).await);
    let ask = || request(Method::GET, &path, &[], "");
    let mut open = Vec::new();
    for _ in 0..crate::http::TASK_STREAMS_MAX {
        let answer = tower::ServiceExt::oneshot(router.clone(), ask()).await.unwrap();
        assert_eq!(answer.status(), 200);
        open.push(answer);
    }
    let refused = tower::ServiceExt::oneshot(router.clone(), ask()).await.unwrap();
    assert_eq!(refused.status(), 429);
    open.clear();
    let again = tower::ServiceExt::oneshot(router, ask()).await.unwrap();
    assert_eq!(again.status(), 200);
}

#[tokio::test]
async fn there_is_no_output_of_a_task_that_has_not_succeeded() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let id = submitted(&router).await;
    get(&router, &format!("/v1/tasks/{id}/output")).await.problem(404, "no-output");
    doubles.fail(&id, "trapped", "unreachable");
    get(&router, &format!("/v1/tasks/{id}/output")).await.problem(404, "no-output");
    assert_eq!(get(&router, &format!("/v1/tasks/{id}")).await.json()["failure"]["type"], "trapped");
}

#[tokio::test]
async fn unknown_tasks_are_404_and_lost_records_503() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for end in ["", "/output", "/events"] {
        get(&router, &format!("/v1/tasks/nothing{end}")).await.problem(404, "unknown-task");
        get(&router, &format!("/v1/tasks/{}{end}", "x".repeat(200))).await.problem(404, "unknown-task");
    }
    doubles.lock().records_fail = true;
    for end in ["", "/output", "/events"] {
        get(&router, &format!("/v1/tasks/nothing{end}")).await.problem(503, "unavailable");
    }
}

#[tokio::test]
async fn an_output_with_a_content_type_that_is_none_is_bytes() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let id = submitted(&router).await;
    doubles.succeed(&id, Some("text/plain\r\nset-cookie: a=b"), b"x");
    let raw = get(&router, &format!("/v1/tasks/{id}/output")).await;
    assert_eq!((raw.header("content-type"), raw.header("set-cookie")), (Some("application/octet-stream"), None));
}

#[tokio::test]
async fn events_tell_each_change_and_end_with_the_task() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let id = submitted(&router).await;
    let events = request(Method::GET, &format!("/v1/tasks/{id}/events"), &[], Body::empty());
    let response = router.clone().oneshot(events).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut chunks = response.into_body().into_data_stream();
    let mut next = async || {
        let chunk = chunks.next().await?.unwrap();
        let text = String::from_utf8(chunk.to_vec()).unwrap();
        let data = text.strip_prefix("data: ").unwrap().trim_end();
        assert!(!data.contains('\n'), "{text}");
        Some(serde_json::from_str::<Value>(data).unwrap())
    };
    assert_eq!(next().await.unwrap()["status"], "queued");
    doubles.change(&id, |record| record.status = Status::Running);
    assert_eq!(next().await.unwrap()["status"], "running");
    doubles.change(&id, |record| record.progress = Some(Progress { fraction: 0.5, note: "half".to_owned() }));
    assert_eq!(next().await.unwrap()["progress"]["note"], "half");
    doubles.succeed(&id, Some("application/json"), b"[1,\r\n 2]");
    assert_eq!(next().await.unwrap()["output"], serde_json::json!([1, 2]));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn events_of_a_finished_task_are_its_end_and_a_drain_ends_all() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let (done, open) = (submitted(&router).await, submitted(&router).await);
    doubles.succeed(&done, None, b"");
    let answer = get(&router, &format!("/v1/tasks/{done}/events")).await;
    assert_eq!(String::from_utf8_lossy(&answer.body).matches("data:").count(), 1);
    let endless = {
        let router = router.clone();
        tokio::spawn(async move { get(&router, &format!("/v1/tasks/{open}/events")).await.status })
    };
    doubles.draining.cancel();
    assert_eq!(endless.await.unwrap(), 200);
}
