//! What is put beside a host to watch it: it asks for what a host really measures.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::common::{HostBuilder, wait_until};
use super::operate::{fixtures, manifest};
use super::scripts::unique;

/// What the names of this project's metrics begin with.
const FAMILIES: [&str; 7] = ["faas_", "agent_", "host_", "db_client_", "messaging_", "http_client_", "cache_"];

/// Names of metrics in a text: words of letters and underscores that begin as those do.
fn names(text: &str) -> BTreeSet<String> {
    let is_word = |character: char| character.is_ascii_lowercase() || character == '_';
    let words = text.split(|character| !is_word(character));
    words.filter(|word| FAMILIES.iter().any(|family| word.starts_with(family))).map(str::to_owned).collect()
}

fn deploy_file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_the_dashboard_of_grafana_ask_for_metrics_that_there_are() {
    let host = HostBuilder::real().with_samples().start().await;
    // One of each kind of end, so that every series has begun.
    host.run_json("cache-reader", &json!({ "key": unique("key") })).await;
    let name = unique("fails");
    assert_eq!(host.deploy(&name, &manifest(&name, "fails"), fixtures()).await.status(), 201);
    let id = host.submit(&name, "", r#"{"do":"trap"}"#).await;
    host.finished(&id).await;

    // The broker is asked for the depth of queues every few seconds.
    let metrics = wait_until("the queues have been looked at", async || {
        let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
        metrics.contains("\nagent_queue_depth{").then_some(metrics)
    })
    .await;
    let there: BTreeSet<_> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect();
    let dashboard: serde_json::Value =
        serde_json::from_str(&deploy_file("grafana/dashboards/agent-host.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut expressions: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    expressions.extend(variables.filter_map(|variable| variable["definition"].as_str().map(str::to_owned)));
    assert!(expressions.len() > 20, "{expressions:?}");

    for (what, text) in [("Grafana", expressions.join("\n")), ("alerts", deploy_file("prometheus/alerts.yml"))] {
        let asked = names(&text);
        assert!(asked.len() > 5, "{what}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&there).collect();
        assert!(unknown.is_empty(), "{what} asks for {unknown:?}, of which a host that has worked has nothing");
    }
}
