//! The HTTP API on the real servers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::common::{HostBuilder, wait_until};

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
    let answer =
        host.client().post(host.url("/v1/agents/echo/tasks:batch")).body(lines.join("\n")).send().await.unwrap();
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
    // Other hosts of the fleet take tasks as well: until this one has run a success and a failure, and looked at queues.
    let series = [
        "faas_errors{agent=\"thumbnail\",error_type=\"rejected\"}",
        "agent_settlements{agent=\"echo\",reason=\"succeeded\",settlement=\"acknowledge\"}",
        "agent_settlements{agent=\"thumbnail\",reason=\"rejected\",settlement=\"dead-letter\"}",
        "agent_queue_depth{agent=\"echo\"}",
    ];
    let metrics = wait_until("this host has run tasks of both kinds", async || {
        host.run("echo", "text/plain", "x").await;
        host.run("thumbnail", "text/plain", "no image").await;
        let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
        series.iter().all(|series| metrics.contains(series)).then_some(metrics)
    })
    .await;
    for value in [
        "faas_invocations{agent=\"echo\"}",
        "faas_timeouts{agent=\"echo\"} 0",
        "host_memory_budget_bytes 500000000",
        "db_client_operation_duration_seconds_count{operation=\"commit\",system=\"postgresql\"}",
        "db_client_operation_duration_seconds_count{operation=\"get\",system=\"redis\"}",
        "db_client_connections{state=\"idle\"}",
        "db_client_connections{state=\"used\"}",
    ] {
        assert!(metrics.contains(value), "{value} is missing in:\n{metrics}");
    }
    for series in [
        "faas_init_duration_seconds_count{agent=\"echo\"}",
        "faas_invoke_duration_seconds_count{agent=\"echo\"}",
        "messaging_process_duration_seconds_count{agent=\"echo\"}",
        "messaging_client_operation_duration_seconds_count{operation=\"publish\"}",
    ] {
        let count = metrics.lines().find_map(|line| line.strip_prefix(series)).map(|count| count.trim().parse::<u64>());
        assert!(count.is_some_and(|count| count.unwrap() > 0), "nothing is counted in {series} of:\n{metrics}");
    }
    let (measured, documented) = (measured(&metrics), documented());
    assert_eq!(measured, documented, "/metrics on the left, docs/metrics.md on the right");
    for name in CONTRACT {
        assert!(measured.contains_key(*name), "{name} is missing in:\n{metrics}");
    }
    let document: Value = host.get("/openapi.json").await.unwrap().json().await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["paths"]["/v1/tasks/{id}"]["get"].is_object());
    assert_eq!(host.get("/healthz").await.unwrap().status(), 200);
}

/// What dashboards and alerts may rely on: none of these names goes away.
const CONTRACT: &[&str] = &[
    "faas_invocations",
    "faas_errors",
    "faas_timeouts",
    "faas_coldstarts",
    "faas_invoke_duration_seconds",
    "faas_init_duration_seconds",
    "faas_mem_usage_bytes",
    "faas_cpu_usage_seconds",
    "messaging_process_duration_seconds",
    "messaging_client_operation_duration_seconds",
    "agent_settlements",
    "agent_queue_age_seconds",
    "agent_queue_depth",
    "agent_dead_letters",
    "agent_revision_info",
    "host_memory_budget_bytes",
    "host_memory_reserved_bytes",
    "host_memory_resident_bytes",
    "host_tasks_waiting_for_memory",
    "host_live_instances",
    "db_client_operation_duration_seconds",
    "db_client_connections",
    "cache_hits",
    "cache_misses",
];

/// name → (type, labels) of every metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics of a scrape.
fn measured(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((series, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let parts = ["_bucket", "_sum", "_count"];
            let histogram =
                parts.iter().find_map(|part| series.strip_suffix(part)).filter(|name| metrics.contains_key(*name));
            let (_, labels) = metrics.get_mut(histogram.unwrap_or(series)).expect("# TYPE stands before the series");
            let (pairs, _) = rest.rsplit_once('}').unwrap();
            // No value of a label has a comma.
            let names = pairs.split(',').map(|pair| pair.split_once('=').unwrap().0);
            labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    metrics
}

/// The metrics of the table in docs/metrics.md.
fn documented() -> Metrics {
    let rows = include_str!("../../../docs/metrics.md").lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let names = cells[3].split(',').map(|label| label.trim().trim_matches('`')).filter(|label| !label.is_empty());
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), names.map(str::to_owned).collect()))
    })
    .collect()
}
