use super::*;
use crate::delivery::Connectivity;
use crate::http::Config;
use crate::records::Status;
use crate::task::{AgentName, TaskId};
use std::time::Duration;

const TASKS: &str = "/v1/agents/echo/tasks";
const BATCH: &str = "/v1/agents/echo/tasks:batch";

fn id_of(answer: &Answer) -> TaskId {
    TaskId::parse(answer.json()["id"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_task_is_published_as_it_was_sent_and_recorded() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("content-type", "text/plain"), ("task-header-color", "red"), ("traceparent", traceparent)];
    let answer = post(&router, &format!("{TASKS}?delay=10s&max_attempts=3"), &headers, "hello").await;
    assert_eq!(answer.status, 202);
    let id = id_of(&answer);
    assert_eq!(answer.json(), serde_json::json!({ "id": id, "agent": "echo", "status": "queued" }));
    assert_eq!(answer.header("location"), Some(format!("/v1/tasks/{id}").as_str()));
    let (task, delay) = published.try_recv().unwrap();
    assert_eq!((task.id.clone(), task.agent.as_str(), &task.body[..]), (id.clone(), "echo", &b"hello"[..]));
    assert_eq!((task.attempts_max, delay), (Some(3), Some(Duration::from_secs(10))));
    assert_eq!((task.content_type.as_str(), task.traceparent.as_deref()), ("text/plain", Some(traceparent)));
    assert_eq!(task.headers, [("color".to_owned(), "red".to_owned())]);
    assert_eq!(doubles.status_of(&id), Some(Status::Queued));
    assert_eq!(get(&router, &format!("/v1/tasks/{id}")).await.json()["status"], "queued");
}

#[tokio::test]
async fn unknown_and_malformed_agents_are_404() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    for path in
        ["/v1/agents/nobody/tasks", "/v1/agents/Echo/tasks", "/v1/agents/a%2Fb/tasks", "/v1/agents/nobody/tasks:batch"]
    {
        let detail = post(&router, path, &[], "1").await.problem(404, "unknown-agent");
        assert!(detail.contains("deployed"), "{detail}");
    }
    assert!(published.try_recv().is_err());
}

#[tokio::test]
async fn what_another_host_has_deployed_is_not_unknown() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let new = AgentName::parse("new").unwrap();
    doubles.lock().agents_elsewhere.push(new.clone());
    assert_eq!(post(&router, "/v1/agents/new/tasks", &[], "x").await.status, 202);
    assert_eq!(published.try_recv().unwrap().0.agent, new);
    assert_eq!(post(&router, "/v1/agents/new/tasks:batch", &[], "1\n").await.status, 202);
    get(&router, "/v1/agents/new").await.problem(503, "unavailable");
    // Where nobody can tell, it is not called unknown.
    doubles.lock().records_fail = true;
    post(&router, "/v1/agents/nobody/tasks", &[], "x").await.problem(503, "unavailable");
}

#[tokio::test]
async fn what_is_malformed_is_400_and_names_the_fault() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for (path, names) in [
        ("?delay=soon", "soon"),
        ("?delay=31d", "30d"),
        ("?max_attempts=0", "max_attempts"),
        ("?max_attempts=x", "max_attempts"),
        ("?dealy=1s", "dealy"),
    ] {
        let detail = post(&router, &format!("{TASKS}{path}"), &[], "").await.problem(400, "bad-request");
        assert!(detail.contains(names), "{detail}");
    }
    post(&router, TASKS, &[("task-header-x-attempt", "1")], "").await.problem(400, "bad-request");
    post(&router, TASKS, &[("idempotency-key", "")], "").await.problem(400, "bad-request");
}

#[tokio::test]
async fn a_failed_publication_is_503_and_leaves_no_record() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    doubles.lock().publish_fails = true;
    let answer = post(&router, TASKS, &[], "x").await;
    let detail = answer.problem(503, "unavailable");
    assert!(!detail.contains("hunter2"), "{detail}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    let id = TaskId::from_idempotency_key(&AgentName::parse("echo").unwrap(), "k");
    post(&router, TASKS, &[("idempotency-key", "k")], "x").await.problem(503, "unavailable");
    // The record of a keyed task stays: another request under the key may have been answered 202.
    assert_eq!(doubles.status_of(&id), Some(Status::Queued));
    doubles.lock().publish_fails = false;
    assert_eq!(post(&router, TASKS, &[("idempotency-key", "k")], "x").await.status, 202);
}

#[tokio::test]
async fn without_a_durable_record_there_is_no_202_and_nothing_runs() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    doubles.lock().records_fail = true;
    let detail = post(&router, TASKS, &[], "x").await.problem(503, "unavailable");
    assert!(!detail.contains("hunter2"), "{detail}");
    post(&router, BATCH, &[], "1\n").await.problem(503, "unavailable");
    assert!(published.try_recv().is_err(), "what is not taken does not run");
}

#[tokio::test]
async fn a_broker_that_is_down_or_blocked_is_503_at_once() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    doubles.connectivity.send_replace(Connectivity::Down);
    post(&router, TASKS, &[], "x").await.problem(503, "unavailable");
    doubles.connectivity.send_replace(Connectivity::Blocked);
    let answer = post(&router, TASKS, &[], "x").await;
    answer.problem(503, "unavailable");
    assert!(answer.header("retry-after").is_some());
    doubles.connectivity.send_replace(Connectivity::Up);
    // Until what was deployed before is loaded, nobody can say that an agent is unknown.
    doubles.lock().agents_loaded = false;
    post(&router, "/v1/agents/nobody/tasks", &[], "x").await.problem(503, "unavailable");
    doubles.lock().agents_loaded = true;
    post(&router, "/v1/agents/nobody/tasks", &[], "x").await.problem(404, "unknown-agent");
    assert!(published.try_recv().is_err());
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_task() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let key = [("idempotency-key", "order-1")];
    let first = post(&router, TASKS, &key, "a").await;
    let id = id_of(&first);
    assert_eq!(published.try_recv().unwrap().0.id, id);
    // Still queued: published again, as the first request may have died before its confirm.
    assert_eq!(id_of(&post(&router, TASKS, &key, "a").await), id);
    assert_eq!(published.try_recv().unwrap().0.id, id);
    post(&router, TASKS, &key, "b").await.problem(422, "idempotency-key-reused");
    doubles.succeed(&id, None, b"");
    let known = post(&router, TASKS, &key, "a").await;
    assert_eq!((known.status.as_u16(), known.json()["status"].as_str()), (202, Some("succeeded")));
    assert_eq!(id_of(&known), id);
    post(&router, TASKS, &key, "b").await.problem(422, "idempotency-key-reused");
    assert!(published.try_recv().is_err(), "nothing is published for a finished task or another body");
    assert_ne!(id_of(&post(&router, TASKS, &[("idempotency-key", "order-2")], "a").await), id);
}

#[tokio::test]
async fn prefer_wait_answers_with_the_result() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let waiting =
        |router: Router| tokio::spawn(async move { post(&router, TASKS, &[("prefer", "wait=60")], "x").await });
    let request = waiting(router.clone());
    let id = published.recv().await.unwrap().0.id;
    doubles.succeed(&id, Some("image/png"), b"\x89PNG");
    let answer = request.await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"\x89PNG"[..]));
    assert_eq!(answer.header("content-type"), Some("image/png"));
    assert_eq!(answer.header("task-id"), Some(id.as_str()));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));

    let request = waiting(router.clone());
    let id = published.recv().await.unwrap().0.id;
    doubles.fail(&id, "timed-out", "ran past limits.timeout = 1s");
    let answer = request.await.unwrap();
    let detail = answer.problem(422, "task-failed");
    assert!(detail.contains("limits.timeout"), "{detail}");
    let failure = serde_json::json!({ "type": "timed-out", "message": "ran past limits.timeout = 1s" });
    assert_eq!(answer.json()["failure"], failure);
    assert_eq!(answer.header("task-id"), Some(id.as_str()));

    // No answer in time, and none because the host drains: the task goes on.
    let answer = post(&router, TASKS, &[("prefer", "wait=0")], "x").await;
    assert_eq!((answer.status.as_u16(), answer.header("preference-applied")), (202, Some("wait=0")));
    let _ = published.recv().await;
    let request = waiting(router.clone());
    let _ = published.recv().await;
    doubles.draining.cancel();
    assert_eq!(request.await.unwrap().status, 202);

    // And takes no other.
    let refused = post(&router, TASKS, &[], "x").await;
    assert_eq!(refused.status, 503);
    assert!(refused.json()["detail"].as_str().unwrap().contains("draining"), "{}", refused.json());
    assert!(published.try_recv().is_err());
}

#[tokio::test]
async fn a_batch_is_one_task_a_line_in_order() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let answer = post(&router, BATCH, &[("task-header-a", "b")], "{\"n\":0}\n{\"n\":1}\n\n{\"n\":2}").await;
    assert_eq!(answer.status, 202);
    let ids: Vec<String> = serde_json::from_value(answer.json()["ids"].clone()).unwrap();
    let mut by_id = std::collections::HashMap::new();
    while let Ok((task, _)) = published.try_recv() {
        assert_eq!((task.content_type.as_str(), task.headers.len()), ("application/json", 1));
        by_id.insert(task.id.to_string(), String::from_utf8(task.body.to_vec()).unwrap());
    }
    let bodies: Vec<_> = ids.iter().map(|id| by_id[id].as_str()).collect();
    assert_eq!(bodies, ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"]);
}

#[tokio::test]
async fn a_batch_sent_again_under_its_key_completes_it_without_doubles() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let key = [("idempotency-key", "b")];
    doubles.lock().publish_fails = true;
    post(&router, BATCH, &key, "1\n2").await.problem(503, "unavailable");
    doubles.lock().publish_fails = false;
    let answer = post(&router, BATCH, &key, "1\n2").await;
    assert_eq!(answer.status, 202);
    let ids: Vec<TaskId> = [published.try_recv().unwrap().0.id, published.try_recv().unwrap().0.id].into();
    doubles.succeed(&ids[0], None, b"");
    assert_eq!(post(&router, BATCH, &key, "1\n2").await.json(), answer.json());
    assert_eq!(published.try_recv().unwrap().0.id, ids[1]);
    assert!(published.try_recv().is_err());
    post(&router, BATCH, &key, "1\n3").await.problem(422, "idempotency-key-reused");
    post(&router, BATCH, &key, "1\n3\n4").await.problem(422, "idempotency-key-reused");
    assert!(published.try_recv().is_err());
    // Of the refused batch nothing stays behind.
    let third = TaskId::from_idempotency_key(&AgentName::parse("echo").unwrap(), "b\x002");
    assert_eq!(doubles.status_of(&third), None);
}

#[tokio::test]
async fn a_batch_that_fails_promises_nothing() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    post(&router, BATCH, &[], "").await.problem(400, "bad-request");
    let detail = post(&router, BATCH, &[], "1\noops\n").await.problem(400, "bad-request");
    assert!(detail.contains("line 2"), "{detail}");
    doubles.lock().publish_fails = true;
    post(&router, BATCH, &[], "1\n2").await.problem(503, "unavailable");
}
