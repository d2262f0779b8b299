//! The folder of agents that a host follows while it runs.

use std::path::Path;

use serde_json::Value;

use super::common::{Host, HostBuilder, wait_until};
use super::operate::{echo, manifest};
use super::scripts::unique;

fn write(dir: &Path, folder: &str, manifest: &str) {
    let folder = dir.join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("m.wasm"), echo()).unwrap();
    std::fs::write(folder.join("agent.toml"), manifest).unwrap();
}

/// The agent's description and revision.
async fn active(host: &Host, name: &str) -> Option<(String, u64)> {
    let answer = host.get(&format!("/v1/agents/{name}")).await.unwrap();
    let shown: Value = (answer.status() == 200).then_some(answer)?.json().await.unwrap();
    Some((shown["description"].as_str().unwrap().to_owned(), shown["revision"].as_u64().unwrap()))
}

async fn until(host: &Host, name: &str, description: &str, revision: u64) {
    let wanted = Some((description.to_owned(), revision));
    wait_until("the agent is as its folder says", async || (active(host, name).await == wanted).then_some(())).await;
}

#[tokio::test]
async fn what_changes_in_the_agents_folder_is_deployed() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (unique("first"), unique("second"));
    write(dir.path(), "1", &manifest(&first, "one"));
    let mut host = HostBuilder::bare().env("AGENT_HOST_AGENTS_DIR", dir.path().to_str().unwrap()).start().await;
    assert_eq!(active(&host, &first).await, Some(("one".to_owned(), 1)));
    write(dir.path(), "1", &manifest(&first, "two"));
    until(&host, &first, "two", 2).await;

    // One that cannot be deployed is told of, and what runs stays.
    std::fs::write(dir.path().join("1/agent.toml"), "manifest_version = 1\n[agent\n").unwrap();
    wait_until("it is told of", || std::future::ready(host.log().contains("/1 is not deployed").then_some(()))).await;
    assert_eq!(active(&host, &first).await, Some(("two".to_owned(), 2)));
    write(dir.path(), "1", &manifest(&first, "three"));
    until(&host, &first, "three", 3).await;
    // What was there before is deployed again where the folder goes back to it.
    write(dir.path(), "1", &manifest(&first, "two"));
    until(&host, &first, "two", 2).await;

    // Files that are written again as they were overrule nobody who directed tasks elsewhere.
    let rollback = host.client().post(host.url(&format!("/v1/agents/{first}/rollback")));
    assert_eq!(rollback.json(&serde_json::json!({ "revision": 1 })).send().await.unwrap().status(), 200);
    write(dir.path(), "1", &manifest(&first, "two"));
    // A folder that appears, and then changes. The first one is looked at before it in each look, and in the later one it
    // has been quiet long since.
    write(dir.path(), "2", &manifest(&second, "new"));
    until(&host, &second, "new", 1).await;
    write(dir.path(), "2", &manifest(&second, "newer"));
    until(&host, &second, "newer", 2).await;
    assert_eq!(active(&host, &first).await, Some(("one".to_owned(), 1)));
    // A folder that goes leaves its agent.
    std::fs::remove_dir_all(dir.path().join("2")).unwrap();
    wait_until("it is told of", || std::future::ready(host.log().contains("/2 is gone").then_some(()))).await;
    assert_eq!(active(&host, &second).await, Some(("newer".to_owned(), 2)));
}
