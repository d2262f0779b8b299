//! A deploy is done when the whole fleet serves it, and says which host does not.

use serde_json::Value;

use super::common::{Host, agent_host, agents_dir};
use super::fleet::Fleet;
use super::operate::{echo, manifest};
use super::scripts::unique;

/// Deploys a folder by the command line, and gives the exit status, what it printed, and its complaint.
async fn deploy(host: &Host, folder: &std::path::Path, more: &[&str]) -> (i32, String, String) {
    let mut command = agent_host();
    let ended = command.arg("deploy").arg(folder).arg("--url").arg(host.url("")).args(more).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ended.status.code().unwrap(), text(ended.stdout), text(ended.stderr))
}

/// A load balancer may send the first task of a new agent to a host that is still compiling it.
#[tokio::test(flavor = "multi_thread")]
async fn right_after_a_deploy_every_host_takes_tasks_of_the_new_agent() {
    let fleet = Fleet::start().await;
    let (first, second) = (fleet.host().start().await, fleet.host().start().await);
    let name = unique("new");
    assert_eq!(first.deploy(&name, &manifest(&name, "one"), echo()).await.status(), 201);
    // While the other one is busy with it: unknown is what no host has, however many ask.
    let unknown = (0..100).map(|number| {
        let request = second.client().post(second.url(&format!("/v1/agents/{name}-{number}/tasks"))).body("x");
        async move { request.send().await.unwrap().status() }
    });
    let (id, unknown) = tokio::join!(second.submit(&name, "", "x"), futures::future::join_all(unknown));
    assert!(unknown.iter().all(|status| *status == 404), "{unknown:?}");
    assert_eq!(second.finished(&id).await["status"], "succeeded");
    drop((first, second));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_waits_for_every_host_and_names_the_one_that_cannot() {
    let fleet = Fleet::start().await;
    let root = tempfile::TempDir::new().unwrap();
    std::fs::create_dir(root.path().join("reports")).unwrap();
    // The other one has no folders to grant.
    let first = fleet.host().env("AGENT_HOST_FILES_ROOT", root.path().to_str().unwrap()).start().await;
    let mut second = fleet.host().start().await;

    let folder = tempfile::TempDir::new().unwrap();
    let name = unique("whole");
    let manifest = |grants: &str| {
        let manifest =
            format!("manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"m.wasm\"\n[grants]\n{grants}\n");
        std::fs::write(folder.path().join("agent.toml"), manifest).unwrap();
    };
    std::fs::copy(agents_dir().join("fixtures/manifest/fixtures.wasm"), folder.path().join("m.wasm")).unwrap();
    manifest("");
    let (status, text, complaint) = deploy(&first, folder.path(), &[]).await;
    assert_eq!((status, text.matches(": serves it\n").count()), (0, 2), "{text}{complaint}");

    manifest("files = [{ host = \"reports\", guest = \"/reports\" }]");
    let (status, text, complaint) = deploy(&first, folder.path(), &[]).await;
    assert_eq!(
        (status, text.matches(": serves it\n").count(), text.matches(": cannot: ").count()),
        (69, 1, 1),
        "{text}"
    );
    assert!(complaint.contains("could not follow, and serves what it had"), "{complaint}");
    // It serves what it had, and says that it is not ready.
    assert_eq!(second.get("/readyz").await.unwrap().status(), 503);

    // A change that it can follow makes it ready, also where it is the one that is asked for it.
    let rollback = second.client().post(second.url(&format!("/v1/agents/{name}/rollback")));
    assert_eq!(rollback.json(&serde_json::json!({})).send().await.unwrap().status(), 200);
    assert_eq!(second.get("/readyz").await.unwrap().status(), 200);

    // A host that stops is waited for no more.
    assert!(second.terminate().await.success());
    manifest("");
    let (status, text, complaint) = deploy(&first, folder.path(), &["--format", "json"]).await;
    assert_eq!(status, 0, "{text}{complaint}");
    let deployed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&deployed["revision"], deployed["hosts"].as_array().unwrap().len()), (&1.into(), 1), "{deployed}");
    drop((first, second));
    fleet.end().await;
}
