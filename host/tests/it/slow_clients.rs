//! Clients that are slow, or take nothing, and many of them: each is bounded, and nobody else notices. How long one is waited
//! for, `http::server` tests.

use agent_host::http::{INTAKE_BYTES_MAX_DEFAULT, STREAMS_MAX, TASK_STREAMS_MAX};
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::common::{Host, HostBuilder, wait_until};
use super::operate::{echo, manifest};
use super::scripts::unique;

/// What is opened side by side.
const AT_ONCE: usize = 32;

async fn host() -> (Host, String) {
    let (host, name) = (HostBuilder::real().start().await, unique("slow"));
    assert_eq!(host.deploy(&name, &manifest(&name, "one"), echo()).await.status(), 201);
    (host, name)
}

async fn connect(host: &Host) -> TcpStream {
    TcpStream::connect(host.url("").trim_start_matches("http://")).await.unwrap()
}

/// Asks for a path, and reads no more than the status of the answer.
async fn ask(host: &Host, path: &str) -> (TcpStream, u16) {
    let mut stream = connect(host).await;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    (stream, String::from_utf8_lossy(&status[9..]).parse().unwrap())
}

async fn serves_others(host: &Host, name: &str) {
    for body in ["one", "two", "three"] {
        let answer = host.run(name, "text/plain", body).await;
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, body));
    }
    assert_eq!(host.get("/readyz").await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_event_streams_that_nobody_reads_bother_nobody() {
    let (host, name) = host().await;
    // Each is of a task of its own, which has not begun.
    let url = host.url(&format!("/v1/agents/{name}/tasks:batch?delay=1h"));
    let submitted = host.client().post(url).body("1\n".repeat(TASK_STREAMS_MAX)).send().await.unwrap();
    assert_eq!(submitted.status(), 202);
    let accepted: serde_json::Value = submitted.json().await.unwrap();
    let ids: Vec<&str> = accepted["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let paths: Vec<String> = ids.iter().map(|id| format!("/v1/tasks/{id}/events")).collect();
    let all = paths.iter().map(String::as_str).chain(std::iter::repeat_n("/v1/live", STREAMS_MAX));
    let open = futures::stream::iter(all).map(|path| ask(&host, path));
    let open: Vec<_> = open.buffer_unordered(AT_ONCE).collect().await;
    assert!(open.iter().all(|(_, status)| *status == 200));
    assert_eq!((ask(&host, &paths[0]).await.1, ask(&host, "/v1/live").await.1), (429, 429));
    serves_others(&host, &name).await;

    // They end with their tasks, read or not.
    let cancelled = ids.iter().map(|id| host.client().delete(host.url(&format!("/v1/tasks/{id}"))).send());
    let cancelled: Vec<_> = futures::stream::iter(cancelled).buffer_unordered(AT_ONCE).collect().await;
    assert!(cancelled.iter().all(|answer| answer.as_ref().unwrap().status() == 202));
    wait_until("there is a place again", async || (ask(&host, &paths[0]).await.1 == 200).then_some(())).await;
    serves_others(&host, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stop_halfway_are_held_within_a_bound() {
    const SENT_BYTES: usize = 1 << 20;
    let (host, name) = host().await;
    let path = format!("/v1/agents/{name}/tasks");
    let head = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n", 2 * SENT_BYTES);
    let stops = async || {
        let mut stream = connect(&host).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; SENT_BYTES]).await.unwrap();
        stream
    };
    let mut stopped = Vec::new();
    // All but a few MiB of what there is room for.
    for _ in 0..INTAKE_BYTES_MAX_DEFAULT.0 / SENT_BYTES as u64 - 4 {
        stopped.push(stops().await);
    }
    let large = async || {
        let large = host.client().post(host.url(&path)).body(vec![b'x'; 8 * SENT_BYTES]);
        large.send().await.unwrap().status().as_u16()
    };
    // A large one that comes while they are still read takes the room of one of them, which is refused then.
    while large().await != 429 {
        stopped.push(stops().await);
        assert!(stopped.len() < 1_000, "what is held of bodies is bounded");
    }
    serves_others(&host, &name).await;
    drop(stopped);
    wait_until("there is room again", async || (large().await == 202).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_nobody_takes_are_held_within_a_bound() {
    /// Far more than the connections themselves hold, so that most of each stays with the host.
    const OUTPUT_BYTES: usize = 7 << 20;
    let (host, name) = (HostBuilder::real().start().await, unique("slow"));
    let limits = manifest(&name, "one").replace("[limits]\n", "[limits]\noutput = \"8MiB\"\n");
    assert_eq!(host.deploy(&name, &limits, echo()).await.status(), 201);
    let id = host.submit(&name, "", vec![b'x'; OUTPUT_BYTES]).await;
    assert_eq!(host.finished(&id).await["status"], "succeeded");
    let mut untaken = Vec::new();
    let path = format!("/v1/tasks/{id}/output");
    let refused = loop {
        assert!(untaken.len() < 100, "what is held of answers is bounded");
        let (stream, status) = ask(&host, &path).await;
        if status != 200 {
            break status;
        }
        untaken.push(stream);
    };
    assert_eq!(refused, 429);
    // Who waits for a result of that size is told that its task is taken.
    let waited = host.run(&name, "text/plain", vec![b'y'; OUTPUT_BYTES]).await;
    assert_eq!(waited.status(), 202);
    let accepted: serde_json::Value = waited.json().await.unwrap();
    serves_others(&host, &name).await;
    drop(untaken);
    let later = format!("/v1/tasks/{}/output", accepted["id"].as_str().unwrap());
    let taken =
        wait_until("there is room again", async || host.get(&later).await.ok().filter(|answer| answer.status() == 200));
    assert_eq!(taken.await.bytes().await.unwrap(), vec![b'y'; OUTPUT_BYTES]);
}
