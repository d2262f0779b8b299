//! The dashboard in a real browser, and what it draws from.

use serde_json::Value;
use tokio::process::Command;

use super::common::{HostBuilder, wait_until};

/// The first event of a stream, as JSON.
async fn first_event(mut answer: reqwest::Response) -> Value {
    let mut text = String::new();
    while let Some(part) = answer.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&part).unwrap());
        let whole = text.split("\n\n").find(|event| event.contains("data:") && text.contains("\n\n"));
        if let Some(data) = whole.and_then(|event| event.lines().find_map(|line| line.strip_prefix("data:"))) {
            return serde_json::from_str(data.trim()).unwrap();
        }
    }
    panic!("the stream ended: {text}");
}

#[tokio::test]
async fn the_live_stream_tells_how_the_host_does_and_has_a_limit() {
    let host = HostBuilder::bare().with_samples().start().await;
    host.run("echo", "text/plain", "x").await;
    let snapshot = first_event(host.get("/v1/live").await.unwrap()).await;
    assert!(snapshot["resources"]["memory_resident_bytes"].as_u64().unwrap() > 0, "{snapshot}");
    let agents: Vec<_> = snapshot["agents"].as_array().unwrap().iter().map(|agent| agent["agent"].clone()).collect();
    assert!(agents.contains(&"echo".into()), "{snapshot}");
    let mut open = Vec::new();
    for _ in 0..agent_host::http::STREAMS_MAX {
        let answer = host.get("/v1/live").await.unwrap();
        assert_eq!(answer.status(), 200);
        open.push(answer);
    }
    assert_eq!(host.get("/v1/live").await.unwrap().status(), 429);
    open.clear();
    wait_until("a place is free again", async || {
        host.get("/v1/live").await.ok().filter(|answer| answer.status() == 200).map(drop)
    })
    .await;
}

/// Chromium draws each page from what the host says, within the page's own policy.
#[tokio::test]
async fn every_page_draws_itself_in_a_browser() {
    let host = HostBuilder::bare().with_samples().start().await;
    let id = host.submit("echo", "", "hello dashboard").await;
    host.finished(&id).await;
    for (page, drawn) in [
        ("#/overview", "Database connections".to_owned()),
        ("#/agents", "task-worker".to_owned()),
        ("#/agents/echo", "revision-added".to_owned()),
        ("#/tasks", id.clone()),
        (&format!("#/tasks/{id}"), "hello dashboard".to_owned()),
        ("#/dead-letters", "No task failed for good".to_owned()),
        ("#/events", "agents folder".to_owned()),
    ] {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--timeout=5000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(host.url(&format!("/{page}")))
            .kill_on_drop(true)
            .output()
            .await
            .expect("chromium is installed");
        let document = String::from_utf8_lossy(&output.stdout);
        let main =
            document.split_once("<main").map_or("", |(_, main)| main.split("</main>").next().unwrap_or_default());
        assert!(main.contains(&drawn), "{page} has no {drawn:?}:\n{main}");
        assert!(!main.contains("role=\"alert\""), "{page}:\n{main}");
    }
}
