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

/// Paths that lead out of `/drafts`, as a guest writes them.
const ESCAPES: &[&str] = &[
    "..",
    "../",
    "../private",
    "../private/file.txt",
    "./../private/file.txt",
    "..//private//file.txt",
    "../../etc/passwd",
    "../reports/file.txt",
    "inner/..",
    "inner/../..",
    "inner/../../private/file.txt",
    "inner/../inner/../../private/file.txt",
    "missing/../../private/file.txt",
    "file.txt/../../private/file.txt",
    "link",
    "link/",
    "./link",
    "inner/../link",
    "linked",
    "linked/",
    "linked/.",
    "linked/..",
    "linked/file.txt",
    "linked/made.txt",
    "linked/../private/file.txt",
    "chain",
    "chain/file.txt",
    "inner/up",
    "inner/up/private/file.txt",
    "rooted/etc/passwd",
    "proc/root/etc/passwd",
    "proc/environ",
    "proc/fd/0",
    "loop",
    "loop/file.txt",
    "/etc/passwd",
    "/proc/self/environ",
    "%2e%2e/private/file.txt",
    "..\\private\\file.txt",
    "\u{ff0e}\u{ff0e}/private/file.txt",
    "..\u{2215}private",
    "file.txt\0",
    "../private/file.txt\0.png",
];

#[tokio::test]
async fn no_path_of_a_guest_leads_out_and_a_full_folder_is_its_own_fault() {
    let root = tempfile::TempDir::new().unwrap();
    for folder in ["reports", "drafts/inner", "private"] {
        std::fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    std::fs::write(root.path().join("private/file.txt"), "a secret").unwrap();
    std::fs::write(root.path().join("reports/file.txt"), "the report").unwrap();
    for (link, target) in [
        ("link", "../private/file.txt"),
        ("linked", "../private"),
        ("chain", "linked"),
        ("inner/up", "../.."),
        ("rooted", "/"),
        ("proc", "/proc/self"),
        ("loop", "loop"),
    ] {
        std::os::unix::fs::symlink(target, root.path().join("drafts").join(link)).unwrap();
    }
    let host = HostBuilder::bare().env("AGENT_HOST_FILES_ROOT", root.path().to_str().unwrap()).start().await;
    let folder = agents_dir().join("fixtures/manifest");
    let grants = "\n[grants]\nfiles = [
        { host = \"drafts\", guest = \"/drafts\", access = \"read-write\", quota = \"1MB\", max_files = 100 },
        { host = \"reports\", guest = \"/reports\" },
    ]\n";
    let manifest = std::fs::read_to_string(folder.join("agent.toml")).unwrap() + grants;
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let manifest = manifest.replace("\"1s\"", "\"60s\"");
    let deployed = host.deploy("fixtures", &manifest, module).await;
    assert_eq!(deployed.status(), 201, "{}", deployed.text().await.unwrap());
    let run = async |steps: serde_json::Value| {
        let answers = host.run_json("fixtures", &json!({ "do": "files", "steps": steps })).await;
        answers.as_array().unwrap().iter().map(|answer| answer.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let long = ["a".repeat(4096), "a/".repeat(2100), "../".repeat(2000) + "etc/passwd"];
    for escape in ESCAPES.iter().copied().chain(long.iter().map(String::as_str)) {
        let path = format!("/drafts/{escape}");
        let steps = json!([
            { "read": { "path": path } },
            { "stat": { "path": path } },
            { "list": { "path": path } },
            { "write": { "path": path, "text": "broken" } },
            { "append": { "path": path, "bytes": 1 } },
            { "mkdir": { "path": path } },
            { "link": { "from": path, "to": "/drafts/stolen" } },
            { "rename": { "from": "/drafts/inner", "to": path } },
            { "read": { "path": "/drafts/stolen" } },
            { "rename": { "from": "/reports/file.txt", "to": "/drafts/stolen" } },
        ]);
        for answer in run(steps).await {
            assert!(["a secret", "the report", "root:"].iter().all(|seen| !answer.contains(seen)), "{path}: {answer}");
        }
        assert_eq!(std::fs::read_to_string(root.path().join("private/file.txt")).unwrap(), "a secret", "{path}");
        assert_eq!(std::fs::read_to_string(root.path().join("reports/file.txt")).unwrap(), "the report", "{path}");
        let names = |folder: &str| std::fs::read_dir(root.path().join(folder)).unwrap().count();
        assert_eq!((names("private"), names("reports"), names("")), (1, 1, 3), "{path}");
    }

    std::fs::remove_dir_all(root.path().join("drafts/inner")).ok();
    let answers = run(json!([
        { "set-size": { "path": "/drafts/sparse", "bytes": 1_099_511_627_776_u64 } },
        { "append": { "path": "/drafts/endless", "bytes": 100_000_000 } },
        { "make": { "path": "/drafts", "count": 1_000_000 } },
        { "write": { "path": "/drafts/more", "text": "x" } },
        { "unlink": { "path": "/drafts/endless" } },
        { "unlink": { "path": "/drafts/0" } },
        { "write": { "path": "/drafts/1", "text": "room again" } },
        { "read": { "path": "/drafts/1" } },
        { "read": { "path": "/reports/file.txt" } },
    ]))
    .await;
    let full = answers.iter().map(|answer| answer.starts_with("error: ")).collect::<Vec<_>>();
    assert_eq!(full, [true, true, true, true, false, false, false, false, false], "{answers:?}");
    assert_eq!(answers[7..], ["room again", "the report"]);
    // The guest's libc takes every failure of a stream for an I/O error.
    assert!([0, 2, 3].into_iter().all(|step| answers[step].contains("Quota exceeded")), "{answers:?}");
}
