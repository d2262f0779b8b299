//! Granted folders: what the manifest grants, as it grants it, and nothing beside it.

use serde_json::json;

use super::common::{HostBuilder, agents_dir};

#[tokio::test]
async fn an_agent_reaches_its_folders_and_nothing_else() {
    let root = tempfile::TempDir::new().unwrap();
    for (folder, text) in [("reports", "the report"), ("drafts", "a draft"), ("private", "a secret")] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
        std::fs::write(root.path().join(folder).join("file.txt"), text).unwrap();
    }
    std::os::unix::fs::symlink("../private/file.txt", root.path().join("reports/link.txt")).unwrap();
    let host = HostBuilder::bare().env("AGENT_HOST_FILES_ROOT", root.path().to_str().unwrap()).start().await;
    let folder = agents_dir().join("fixtures/manifest");
    let grants = "\n[grants]\nfiles = [
        { host = \"reports\", guest = \"/reports\" },
        { host = \"drafts\", guest = \"/drafts\", access = \"read-write\" },
    ]\n";
    let manifest = std::fs::read_to_string(folder.join("agent.toml")).unwrap() + grants;
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let deployed = host.deploy("fixtures", &manifest, module.clone()).await;
    assert_eq!(deployed.status(), 201, "{}", deployed.text().await.unwrap());

    let run = async |body| {
        let answer = host.run("fixtures", "application/json", serde_json::Value::to_string(&body)).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(run(json!({ "do": "read-file", "path": "/reports/file.txt" })).await, (200, "the report".to_owned()));
    assert_eq!(run(json!({ "do": "write-file", "path": "/drafts/new.txt", "text": "hello" })).await.0, 200);
    assert_eq!(std::fs::read_to_string(root.path().join("drafts/new.txt")).unwrap(), "hello");
    for refused in [
        json!({ "do": "write-file", "path": "/reports/new.txt", "text": "read only" }),
        json!({ "do": "read-file", "path": "/private/file.txt" }),
        json!({ "do": "read-file", "path": "/reports/../private/file.txt" }),
        json!({ "do": "read-file", "path": "/reports/link.txt" }),
        json!({ "do": "read-file", "path": "/proc/self/environ" }),
    ] {
        let (status, said) = run(refused.clone()).await;
        assert_eq!(status, 422, "{refused}: {said}");
        assert!(!said.contains("a secret"), "{refused}: {said}");
    }

    let outside = manifest.replace("host = \"reports\"", "host = \"nowhere\"");
    let refused = host.deploy("fixtures", &outside, module).await;
    assert_eq!(refused.status(), 422);
    assert!(refused.text().await.unwrap().contains("nowhere"));
}
