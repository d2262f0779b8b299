use super::*;
use crate::http::Config;
use crate::records::Status;
use crate::task::TaskId;

async fn submitted(router: &Router) -> TaskId {
    let answer = post(router, "/v1/agents/echo/tasks", &[], "x").await;
    TaskId::parse(answer.json()["id"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_task_that_has_not_ended_is_cancelled() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for status in [Status::Queued, Status::Running, Status::Retrying] {
        let id = submitted(&router).await;
        doubles.change(&id, |record| record.status = status);
        let answer = delete(&router, &format!("/v1/tasks/{id}")).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.json(), serde_json::json!({ "id": id, "status": "cancelled" }));
        assert_eq!(get(&router, &format!("/v1/tasks/{id}")).await.json()["status"], "cancelled");
    }
}

#[tokio::test]
async fn a_task_that_has_ended_stays_as_it_is() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    for (status, word) in
        [(Status::Succeeded, "succeeded"), (Status::Failed, "failed"), (Status::Cancelled, "cancelled")]
    {
        let id = submitted(&router).await;
        doubles.change(&id, |record| record.status = status);
        let detail = delete(&router, &format!("/v1/tasks/{id}")).await.problem(409, "task-ended");
        assert!(detail.contains(word), "{detail}");
        assert_eq!(doubles.status_of(&id), Some(status));
    }
}

#[tokio::test]
async fn unknown_tasks_cannot_be_cancelled_nor_any_without_records() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    delete(&router, "/v1/tasks/nothing").await.problem(404, "unknown-task");
    delete(&router, &format!("/v1/tasks/{}", "x".repeat(200))).await.problem(404, "unknown-task");
    let id = submitted(&router).await;
    doubles.lock().records_fail = true;
    let answer = delete(&router, &format!("/v1/tasks/{id}")).await;
    let detail = answer.problem(503, "unavailable");
    assert!(!detail.contains("hunter2"), "{detail}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(doubles.status_of(&id), Some(Status::Queued));
}

#[tokio::test]
async fn who_waits_for_a_cancelled_task_is_told() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let waiting = {
        let router = router.clone();
        let wait = [("prefer", "wait=60")];
        tokio::spawn(async move { post(&router, "/v1/agents/echo/tasks", &wait, "x").await })
    };
    let id = published.recv().await.unwrap().0.id;
    assert_eq!(delete(&router, &format!("/v1/tasks/{id}")).await.status, 202);
    let answer = waiting.await.unwrap();
    answer.problem(422, "task-failed");
    assert_eq!(answer.json()["failure"]["type"], "cancelled");
}
