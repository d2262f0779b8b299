//! Everything that a person can get wrong: a clear error that says what to do, the right status, and a host that goes on.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::common::{Host, HostBuilder, agent_host, agents_dir, wait_until};

/// Exit statuses of the contract, section 7.
const EXIT_CONFIG: i32 = 64;
const EXIT_UNAVAILABLE: i32 = 69;

/// Runs a start that must fail, and gives its exit status and what it said.
async fn failed_start(settings: &[(&str, &str)]) -> (i32, String) {
    let data = tempfile::TempDir::new().unwrap();
    let mut command = agent_host();
    command.arg("serve").env("AGENT_HOST_LISTEN", "127.0.0.1:0").env("AGENT_HOST_DATA_DIR", data.path());
    for (name, value) in settings {
        command.env(name, value);
    }
    let output = tokio::time::timeout(Duration::from_secs(120), command.output()).await.expect("it ends").unwrap();
    (output.status.code().expect("an exit status"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn wrong_settings_are_all_reported_at_once() {
    let settings =
        [("AGENT_HOST_LISTN", "127.0.0.1:1"), ("AGENT_HOST_MEMORY_BUDGET", "lots"), ("AMQP_URL", "http://example.com")];
    let (status, said) = failed_start(&settings).await;
    assert_eq!(status, EXIT_CONFIG, "{said}");
    for expected in ["AGENT_HOST_LISTN", "AGENT_HOST_MEMORY_BUDGET", "lots", "AMQP_URL", "amqp://"] {
        assert!(said.contains(expected), "{expected} is missing in: {said}");
    }
}

#[tokio::test]
async fn an_open_address_needs_an_admin_token() {
    let (status, said) = failed_start(&[("AGENT_HOST_LISTEN", "0.0.0.0:0")]).await;
    assert_eq!(status, EXIT_CONFIG, "{said}");
    assert!(said.contains("AGENT_HOST_ADMIN_TOKEN"), "{said}");
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, said) = failed_start(&[("AGENT_HOST_LISTEN", &address)]).await;
    assert_eq!(status, EXIT_UNAVAILABLE, "{said}");
    assert!(said.contains(&address) && said.contains("AGENT_HOST_LISTEN"), "{said}");
}

#[tokio::test]
async fn everything_that_keeps_a_host_from_starting_is_said_at_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("amqp://guest:guest@{nobody}/%2f");
    let unavailable = [("AGENT_HOST_LISTEN", address.as_str()), ("AMQP_URL", &url)];
    let (status, said) = failed_start(&unavailable).await;
    assert_eq!(status, EXIT_UNAVAILABLE, "{said}");
    assert!(said.contains(&address) && said.contains(&nobody.to_string()), "{said}");

    let folders = [("AGENT_HOST_AGENTS_DIR", "/nonexistent/agents"), ("AGENT_HOST_FILES_ROOT", "/nonexistent/files")];
    let (status, said) = failed_start(&[unavailable, folders].concat()).await;
    assert_eq!(status, EXIT_CONFIG, "{said}");
    for expected in [&address, &nobody.to_string(), "/nonexistent/agents", "/nonexistent/files"] {
        assert!(said.contains(expected), "{expected} is missing in: {said}");
    }
}

#[tokio::test]
async fn an_unreachable_broker_is_named_without_its_password() {
    // Bound and never accepted by anything that speaks AMQP; dropped before the start, so that nothing listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("amqp://guest:hunter2@127.0.0.1:{port}/%2f");
    let (status, said) = failed_start(&[("AMQP_URL", &url)]).await;
    assert_eq!(status, EXIT_UNAVAILABLE, "{said}");
    assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

/// The host still works: it runs a task.
async fn still_works(host: &Host) {
    let answer = host.run("echo", "text/plain", "still there").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "still there");
}

async fn problem(answer: reqwest::Response) -> (StatusCode, Value) {
    let status = answer.status();
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(content_type, "application/problem+json");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["status"], status.as_u16());
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "{member}: {problem}");
    }
    (status, problem)
}

#[tokio::test]
async fn wrong_deploys_are_refused_and_the_running_revision_stays() {
    let host = HostBuilder::real().with_samples().start().await;
    let manifest = std::fs::read_to_string(agents_dir().join("echo/agent.toml")).unwrap();
    let module = std::fs::read(agents_dir().join("echo/echo.wasm")).unwrap();
    let revision = |agent: Value| agent["revision"].as_u64().unwrap();
    let before = revision(host.get("/v1/agents/echo").await.unwrap().json().await.unwrap());

    let unknown_import = wat_component(
        r#"(import "acme:weather/forecast@1.0.0" (instance (export "today" (func))))
           (import "acme:bank/vault@2.0.0" (instance (export "open" (func))))"#,
    );
    let truncated = module.get(..module.len() / 2).unwrap().to_vec();
    let cases: Vec<(&str, String, Vec<u8>, Vec<&str>)> = vec![
        ("an unknown key", format!("{manifest}\n[limit]\nmemory = \"1MiB\"\n"), module.clone(), vec!["limit"]),
        (
            "another agent's name",
            manifest.replace("name = \"echo\"", "name = \"other\""),
            module.clone(),
            vec!["other", "echo"],
        ),
        (
            "a limit out of range",
            format!("{manifest}\n[retry]\nmax_attempts = 0\n"),
            module.clone(),
            vec!["max_attempts"],
        ),
        ("text for a module", manifest.clone(), b"this is no module".to_vec(), vec!["WebAssembly"]),
        ("nothing for a module", manifest.clone(), Vec::new(), vec!["module"]),
        ("half a module", manifest.clone(), truncated, vec!["WebAssembly"]),
        (
            "unknown imports",
            manifest.clone(),
            unknown_import,
            vec!["acme:weather/forecast@1.0.0", "acme:bank/vault@2.0.0"],
        ),
        ("no handler", manifest.clone(), wat_component(""), vec!["agent:runtime/handler"]),
    ];
    for (name, manifest, module, expected) in cases {
        let (status, problem) = problem(host.deploy("echo", &manifest, module).await).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{name}: {problem}");
        for expected in expected {
            assert!(
                problem["detail"].as_str().unwrap().contains(expected),
                "{name}: {expected} is missing in {problem}"
            );
        }
    }
    let after: Value = host.get("/v1/agents/echo").await.unwrap().json().await.unwrap();
    assert_eq!(revision(after), before, "a refused deploy uses no revision number");
    still_works(&host).await;
}

fn wat_component(inside: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {inside})")).unwrap()
}

#[tokio::test]
async fn wrong_submissions_get_their_status() {
    let host = HostBuilder::real().with_samples().start().await;
    let post = |path: &str, body: Vec<u8>| host.client().post(host.url(path)).body(body).send();
    for (path, body, expected) in [
        ("/v1/agents/nobody/tasks", vec![], StatusCode::NOT_FOUND),
        ("/v1/agents/No-Body/tasks", vec![], StatusCode::NOT_FOUND),
        ("/v1/agents/echo/tasks", vec![b'x'; 10 << 20], StatusCode::PAYLOAD_TOO_LARGE),
        ("/v1/agents/echo/tasks?delay=soon", vec![], StatusCode::BAD_REQUEST),
        ("/v1/nonsense", vec![], StatusCode::NOT_FOUND),
    ] {
        let (status, problem) = problem(post(path, body).await.unwrap()).await;
        assert_eq!(status, expected, "{path}: {problem}");
    }
    let (status, problem) = problem(host.get("/v1/tasks/no-such-task").await.unwrap()).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    still_works(&host).await;
}

#[tokio::test]
async fn random_bytes_are_a_body_like_any_other() {
    let host = HostBuilder::real().with_samples().start().await;
    // Not random at all, so that a failure repeats: a few kilobytes from a linear congruential generator.
    let mut state = 2_463_534_242_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(5_000)
    .collect();
    let echoed = host.run("echo", "application/octet-stream", noise.clone()).await;
    assert_eq!((echoed.status(), echoed.bytes().await.unwrap().to_vec()), (StatusCode::OK, noise.clone()));
    for agent in ["thumbnail", "counter", "task-worker", "voter", "crud", "cache-reader"] {
        let refused = host.run(agent, "application/octet-stream", noise.clone()).await;
        let status = refused.status();
        let text = refused.text().await.unwrap();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{agent}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["failure"]["type"], json!("rejected"), "{agent}: {problem}");
    }
    still_works(&host).await;
}

#[tokio::test]
async fn a_bad_agent_in_the_folder_is_reported_and_the_rest_deploy() {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, manifest) in [("bad", "nonsense = true\n".to_owned()), ("echo", read_echo("agent.toml"))] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("agent.toml"), manifest).unwrap();
    }
    std::fs::copy(agents_dir().join("echo/echo.wasm"), folder.path().join("echo/echo.wasm")).unwrap();
    let mut host = HostBuilder::bare().env("AGENT_HOST_AGENTS_DIR", folder.path().to_str().unwrap()).start().await;
    wait_until("echo is deployed", async || {
        host.get("/v1/agents/echo").await.ok().filter(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    still_works(&host).await;
    let log = host.log();
    assert!(log.contains("nonsense"), "the bad manifest is reported: {log}");
}

fn read_echo(file: &str) -> String {
    std::fs::read_to_string(agents_dir().join("echo").join(file)).unwrap()
}
