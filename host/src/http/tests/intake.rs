use super::doubles::agent_info;
use super::*;
use crate::http::{Auth, Config, Token};
use crate::units::ByteSize;
use futures::StreamExt as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Serves a router on a port of its own and returns its address.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only(std::iter::empty()).no_proxy().build().unwrap()
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_and_not_a_reset() {
    let (doubles, _published) = Doubles::new();
    let url = format!("{}/v1/agents/echo/tasks", serve(doubles.router(Config::default())).await);
    let client = client();
    let large = vec![b'x'; 10_000_000];
    let declared = client.post(&url).body(large.clone()).send().await.unwrap();
    assert_eq!(declared.status(), 413);
    let chunks: Vec<_> = large.chunks(65_536).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    let chunked = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let chunked = client.post(&url).body(chunked).send().await.unwrap();
    assert_eq!(chunked.status(), 413);
    assert_eq!(chunked.headers()["content-type"], "application/problem+json");
    let largest = vec![b'x'; 8 << 20];
    assert_eq!(client.post(&url).body(largest).send().await.unwrap().status(), 202);
}

/// Sends a request as simple clients do, all of it before a look at the answer, and returns the answer's status line.
async fn send_blindly(url: &str, path: &str, body_bytes: usize) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await?;
    let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {body_bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&vec![0; body_bytes]).await?;
    let mut status = vec![0; 12];
    stream.read_exact(&mut status).await?;
    Ok(String::from_utf8_lossy(&status).into_owned())
}

#[tokio::test]
async fn whoever_is_refused_early_gets_the_answer_and_not_a_reset() {
    let (doubles, _published) = Doubles::new();
    let auth = Auth { admin: Some(Token::new("a")), ..Auth::default() };
    let url = serve(doubles.router(Config { auth, ..Config::default() })).await;
    for (path, status) in [
        ("/v1/agents/echo/revisions", "401"),
        ("/v1/agents/nobody/tasks", "404"),
        ("/v1/agents/echo/tasks", "413"),
        ("/v2", "404"),
    ] {
        let answer = send_blindly(&url, path, 20_000_000).await;
        assert_eq!(answer.unwrap_or_else(|error| format!("{path}: {error}")), format!("HTTP/1.1 {status}"));
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_refused_without_sending() {
    let (doubles, _published) = Doubles::new();
    let url = serve(doubles.router(Config::default())).await;
    let mut stream = tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let head =
        "POST /v1/agents/echo/tasks HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");
}

#[tokio::test]
async fn random_bytes_are_a_body_like_any_other() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config::default());
    let body: Vec<u8> = (0..=255).collect();
    assert_eq!(post(&router, "/v1/agents/echo/tasks", &[], body.clone()).await.status, 202);
    assert_eq!(published.try_recv().unwrap().0.body, body);
}

#[tokio::test]
async fn submissions_beyond_the_bound_are_shed_until_there_is_room() {
    let (doubles, mut published) = Doubles::new();
    let router = doubles.router(Config { intake_requests_max: 1, ..Config::default() });
    let held = doubles.publishing.clone().acquire_many_owned(1_000_000).await.unwrap();
    let first = {
        let router = router.clone();
        tokio::spawn(async move { post(&router, "/v1/agents/echo/tasks", &[], "1").await.status })
    };
    // Once it has a record, it holds its place and waits for its confirm.
    while doubles.recorded() == 0 {
        tokio::task::yield_now().await;
    }
    let shed = post(&router, "/v1/agents/echo/tasks", &[], "2").await;
    shed.problem(429, "busy");
    assert_eq!(shed.header("retry-after"), Some("1"));
    drop(held);
    assert_eq!(first.await.unwrap(), 202);
    assert_eq!(published.recv().await.unwrap().0.body, "1");
    assert_eq!(post(&router, "/v1/agents/echo/tasks", &[], "3").await.status, 202);
}

#[tokio::test]
async fn bytes_held_are_bounded_too() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config { intake_bytes_max: ByteSize(4 << 10), ..Config::default() });
    post(&router, "/v1/agents/echo/tasks", &[], vec![0; 5 << 10]).await.problem(429, "busy");
    assert_eq!(post(&router, "/v1/agents/echo/tasks", &[], vec![0; 4 << 10]).await.status, 202);
    assert_eq!(post(&router, "/v1/agents/echo/tasks", &[], vec![0; 4 << 10]).await.status, 202);
}

#[tokio::test]
async fn where_submissions_wait_too_long_further_ones_to_that_agent_are_shed() {
    let (doubles, mut published) = Doubles::new();
    doubles.lock().agents.push(agent_info("other"));
    let router = doubles.router(Config { intake_wait_max: Duration::ZERO, ..Config::default() });
    let held = doubles.publishing.clone().acquire_many_owned(1_000_000).await.unwrap();
    let submitting = |path: &'static str| {
        let router = router.clone();
        tokio::spawn(async move { post(&router, path, &[], "1").await.status })
    };
    let recorded = async |tasks: usize| {
        while doubles.recorded() < tasks {
            tokio::task::yield_now().await;
        }
    };
    let first = submitting("/v1/agents/echo/tasks");
    recorded(1).await;
    for path in ["/v1/agents/echo/tasks", "/v1/agents/echo/tasks:batch"] {
        let shed = post(&router, path, &[], "2").await;
        let detail = shed.problem(429, "busy");
        assert!(detail.contains("agent echo"), "{detail}");
        assert_eq!(shed.header("retry-after"), Some("1"));
    }
    // The tasks of a batch wait too, one by one.
    let other = submitting("/v1/agents/other/tasks:batch");
    recorded(2).await;
    drop(held);
    assert_eq!((first.await.unwrap().as_u16(), other.await.unwrap().as_u16()), (202, 202));
    assert_eq!(post(&router, "/v1/agents/echo/tasks", &[], "3").await.status, 202);
    let mut bodies = Vec::new();
    while let Ok((task, _)) = published.try_recv() {
        bodies.push(task.body);
    }
    assert_eq!(bodies.len(), 3, "{bodies:?}");
}

#[tokio::test]
async fn a_small_body_is_read_even_where_it_is_refused_so_that_its_connection_stays_good() {
    let (doubles, _published) = Doubles::new();
    let router = doubles.router(Config::default());
    let refused = async |headers: &[(&str, &str)]| {
        let (sender, read) = tokio::sync::oneshot::channel();
        let mut sender = Some(sender);
        let body = futures::stream::once(async move { Ok::<_, std::io::Error>("x") }).chain(futures::stream::poll_fn(
            move |_| {
                sender.take().map(|sender| sender.send(()));
                std::task::Poll::Ready(None)
            },
        ));
        let answer = post(&router, "/v1/agents/nobody/tasks", headers, Body::from_stream(body)).await;
        answer.problem(404, "unknown-agent");
        read.await.is_ok()
    };
    assert!(refused(&[("content-length", "1")]).await, "read to its end");
    assert!(!refused(&[("content-length", "1"), ("expect", "100-continue")]).await, "not asked for");
}
