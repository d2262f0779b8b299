//! Outbound HTTP from an agent to a server of this machine: granted as such, denied otherwise, and over with its task.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::common::{Host, HostBuilder, agents_dir};

/// A server whose answer the path names: `/hello`, `/redirect`, `/endless`, `/silent`. Counts its visitors.
async fn server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let visits = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&visits);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counting.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let _ = match request.split(' ').nth(1).unwrap_or_default() {
                    "/hello" => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await,
                    "/redirect" => {
                        let head = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(head).await
                    }
                    "/endless" => {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                        Ok(())
                    }
                    _ => stream.read(&mut [0; 1]).await.map(drop),
                };
            });
        }
    });
    (port, visits)
}

async fn deploy(host: &Host, grants: &str) {
    let folder = agents_dir().join("fixtures/manifest");
    let manifest = std::fs::read_to_string(folder.join("agent.toml")).unwrap();
    let manifest = format!("{manifest}\n[grants]\nallowed_outbound_hosts = {grants}\n");
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let deployed = host.deploy("fixtures", &manifest, module).await;
    assert!(deployed.status().is_success(), "{}", deployed.text().await.unwrap());
}

#[tokio::test]
async fn an_agent_reaches_what_is_granted_and_nothing_else() {
    let mut host = HostBuilder::bare().start().await;
    let ((port, visits), (canary_port, canary)) = (server().await, server().await);
    deploy(&host, &format!("[\"http://localhost:{port}\", \"http://*:*\"]")).await;
    let get = async |host: &Host, url: String| {
        let answer = host.run("fixtures", "application/json", json!({ "do": "get", "url": url }).to_string()).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let answer = get(&host, format!("http://localhost:{port}/hello")).await;
    assert_eq!(answer, (200, "200 hello".to_owned()));
    assert_eq!(get(&host, format!("http://LOCALHOST.:{port}/redirect")).await, (200, "302 ".to_owned()));
    assert_eq!(visits.load(Ordering::SeqCst), 2);
    for url in [
        format!("http://localhost:{canary_port}/hello"),
        format!("http://127.0.0.1:{canary_port}/hello"),
        format!("http://2130706433:{canary_port}/hello"),
        format!("http://[::ffff:127.0.0.1]:{canary_port}/hello"),
        format!("http://127.0.0.1:{port}/hello"),
        format!("https://localhost:{port}/hello"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        let (status, said) = get(&host, url.clone()).await;
        assert_eq!(status, 200, "{url}: {said}");
        assert!(said.starts_with("Denied("), "{url}: {said}");
    }
    assert_eq!((visits.load(Ordering::SeqCst), canary.load(Ordering::SeqCst)), (2, 0));
    let line = format!("add \\\"http://127.0.0.1:{canary_port}\\\" to allowed_outbound_hosts");
    let log = host.log_to_its_end().await.replace("\\\"", "\"").replace('"', "\\\"");
    assert!(log.contains(&line), "{line} is not in {log}");
    assert!(log.contains("is a loopback address"), "{log}");
}

#[tokio::test]
async fn a_response_that_does_not_end_ends_with_its_task() {
    let host = HostBuilder::bare().start().await;
    let (port, _) = server().await;
    deploy(&host, &format!("[\"http://127.0.0.1:{port}\"]")).await;
    for (path, outcome) in [("silent", "timed-out"), ("endless", "out-of-memory")] {
        let body = json!({ "do": "get", "url": format!("http://127.0.0.1:{port}/{path}") }).to_string();
        let id = host.submit("fixtures", "", body).await;
        let task = host.finished(&id).await;
        // The fixture's second is short: an endless body may outlast it before it has filled the memory.
        let ended = task["failure"]["type"].as_str().unwrap().to_owned();
        assert!(ended == outcome || (path == "endless" && ended == "timed-out"), "{path}: {task}");
    }
    let body = json!({ "do": "get", "url": format!("http://127.0.0.1:{port}/hello") }).to_string();
    assert_eq!(host.run("fixtures", "application/json", body).await.text().await.unwrap(), "200 hello");
    super::common::wait_until("both requests are counted, the one that ended with its task too", async || {
        let metrics = host.get("/metrics").await.unwrap().text().await.unwrap();
        let counted = |outcome| {
            let line = format!("http_client_request_duration_seconds_count{{outcome=\"{outcome}\"}} ");
            metrics.lines().any(|counted| counted.strip_prefix(&line).is_some_and(|count| count != "0"))
        };
        (counted("2xx") && counted("stopped")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_grant_that_is_none_is_refused_at_the_deploy() {
    let host = HostBuilder::bare().start().await;
    let folder = agents_dir().join("fixtures/manifest");
    let manifest = std::fs::read_to_string(folder.join("agent.toml")).unwrap();
    let manifest = format!("{manifest}\n[grants]\nallowed_outbound_hosts = [\"api.example.com\"]\n");
    let module = std::fs::read(folder.join("fixtures.wasm")).expect("cargo xtask agents has built it");
    let refused = host.deploy("fixtures", &manifest, module).await;
    assert_eq!(refused.status(), 422);
    let said = refused.text().await.unwrap();
    assert!(said.contains("api.example.com") && said.contains("https://api.example.com:443"), "{said}");
}
