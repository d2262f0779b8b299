//! The HTTP API on the real servers.

use serde_json::{Value, json};

use super::common::HostBuilder;

#[tokio::test]
async fn a_task_goes_in_runs_and_can_be_read() {
    let host = HostBuilder::real().with_samples().start().await;
    let answer = host
        .client()
        .post(host.url("/v1/agents/echo/tasks"))
        .header("content-type", "application/json")
        .body(r#"{"hello":"world"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let accepted: Value = answer.json().await.unwrap();
    let id = accepted["id"].as_str().unwrap();
    assert_eq!((accepted["agent"].as_str(), accepted["status"].as_str()), (Some("echo"), Some("queued")));
    assert!(location.ends_with(&format!("/v1/tasks/{id}")), "{location}");

    let task = host.finished(id).await;
    assert_eq!(task["status"], "succeeded");
    assert_eq!(task["output"], json!({ "hello": "world" }), "JSON output is given as JSON");
    assert_eq!(task["attempt"], 1);
    assert!(task["usage"]["memory_bytes_peak"].as_u64().unwrap() > 0, "{task}");
    assert!(task["started_at"].as_u64() >= task["enqueued_at"].as_u64(), "{task}");
    assert!(task["finished_at"].as_u64() >= task["started_at"].as_u64(), "{task}");
    let output = host.get(&format!("/v1/tasks/{id}/output")).await.unwrap();
    assert_eq!(output.headers()["content-type"], "application/json");
    assert_eq!(output.text().await.unwrap(), r#"{"hello":"world"}"#);
}

#[tokio::test]
async fn the_same_key_is_the_same_task() {
    let host = HostBuilder::real().with_samples().start().await;
    let key = uuid::Uuid::new_v4().to_string();
    let submit = |body: &'static str| {
        host.client().post(host.url("/v1/agents/echo/tasks")).header("idempotency-key", &key).body(body).send()
    };
    let first: Value = submit("same").await.unwrap().json().await.unwrap();
    host.finished(first["id"].as_str().unwrap()).await;
    let second = submit("same").await.unwrap();
    assert_eq!(second.status(), 202);
    assert_eq!(second.json::<Value>().await.unwrap()["id"], first["id"]);
    assert_eq!(submit("different").await.unwrap().status(), 422);
}

#[tokio::test]
async fn a_batch_is_accepted_whole_and_in_order() {
    let host = HostBuilder::real().with_samples().start().await;
    let lines: Vec<String> = (0..1_000).map(|number| json!({ "number": number }).to_string()).collect();
    let answer = host.client().post(host.url("/v1/agents/echo/tasks:batch")).body(lines.join("\n")).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let answer: Value = answer.json().await.unwrap();
    let ids = answer["ids"].as_array().unwrap();
    assert_eq!(ids.len(), lines.len());
    for (id, line) in ids.iter().zip(lines) {
        let task = host.finished(id.as_str().unwrap()).await;
        assert_eq!(task["status"], "succeeded");
        assert_eq!(task["output"].to_string(), line, "the lines are JSON, and so are the answers");
    }
}

#[tokio::test]
async fn a_delayed_task_waits() {
    let host = HostBuilder::real().with_samples().start().await;
    let id = host.submit("echo", "?delay=1s", "later").await;
    assert_eq!(host.task(&id).await["status"], "queued");
    let task = host.finished(&id).await;
    let waited_ms = task["started_at"].as_u64().unwrap() - task["enqueued_at"].as_u64().unwrap();
    assert!(waited_ms >= 1_000, "never early, but it ran after {waited_ms} ms");
}

#[tokio::test]
async fn what_is_measured_and_documented_is_there() {
    let host = HostBuilder::real().with_samples().start().await;
    host.run("echo", "text/plain", "x").await;
    let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
    for name in [
        "faas_invocations{agent=\"echo\"}",
        "faas_coldstarts",
        "faas_invoke_duration_seconds_bucket",
        "agent_settlements{agent=\"echo\",reason=\"succeeded\",settlement=\"acknowledge\"}",
        "agent_revision_info",
        "host_memory_budget_bytes 500000000",
        "host_memory_resident_bytes",
    ] {
        assert!(metrics.contains(name), "{name} is missing in:\n{metrics}");
    }
    let document: Value = host.get("/openapi.json").await.unwrap().json().await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["paths"]["/v1/tasks/{id}"]["get"].is_object());
    assert_eq!(host.get("/healthz").await.unwrap().status(), 200);
}
