//! Requests as a guest sends them, through the hooks that wasmtime-wasi-http calls.

mod ssrf;
mod streams;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use prometheus::Registry;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::capability::measured::OperationMetrics;
use crate::capability::{Backends, Capabilities, cache, key_value, secrets, sql};
use crate::manifest::Manifest;
use crate::task::{AgentName, Task};

/// An address that looks public. Nothing connects to it: it exists on embedded networks only.
const PUBLIC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 216, 34));
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A task's outbound HTTP.
struct Guest(OutboundHttp);

impl Guest {
    fn new(network: Arc<dyn Network>, grants: &[&str]) -> Self {
        Self::with(Arc::new(Outbound::new(network)), grants, "30s")
    }

    fn with(outbound: Arc<Outbound>, grants: &[&str], timeout: &str) -> Self {
        let manifest = format!(
            "manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n[limits]\ntimeout = \"{timeout}\"\n[grants]\n\
             allowed_outbound_hosts = {grants:?}\n"
        );
        let capabilities = Capabilities::new(Backends {
            database: Arc::new(sql::LazyDatabase::new("no-such-folder".into())),
            key_value: Arc::new(key_value::MemoryKeyValue::new()),
            cache: Arc::new(cache::MemoryCache::new()),
            secrets: Arc::new(secrets::EnvironmentSecrets::default()),
            outbound,
            directory: Arc::new(|_: &AgentName| false),
        });
        let name = AgentName::parse("a").unwrap();
        let plan = capabilities.plan(&name, 1, Arc::new(Manifest::parse(&manifest).unwrap()));
        let mut task = Task::new(name, "");
        task.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
        Self(OutboundHttp::new(&capabilities.session(&plan, &task), std::time::Instant::now()))
    }

    /// Sends a request; the response whole, where there is one.
    async fn send(&mut self, request: Request<WasiBody>) -> Result<Response<Bytes>> {
        let (response, connection) = self.begin(request, None).await?;
        let connection = tokio::spawn(Box::into_pin(connection));
        let (head, body) = response.into_parts();
        let body = body.collect().await;
        connection.abort();
        Ok(Response::from_parts(head, body?.to_bytes()))
    }

    async fn begin(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>) -> Result<Answer> {
        Box::into_pin(self.0.gate.send_request(request, options, Box::new(async { Ok(()) }))).await
    }

    async fn get(&mut self, url: &str) -> Result<Response<Bytes>> {
        self.send(get(url)).await
    }
}

fn get(url: &str) -> Request<WasiBody> {
    Request::get(url).body(body(Bytes::new())).unwrap()
}

fn body(bytes: impl Into<Bytes>) -> WasiBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn server(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn hello(_: &Request<Bytes>) -> Response<Bytes> {
    Response::new(Bytes::from_static(b"hello"))
}

#[tokio::test]
async fn the_embedded_network_does_what_a_network_does() {
    let network = MemoryNetwork::new().with_name("server.test", &[PUBLIC]).with_server(server(PUBLIC, 80), hello);
    let (server, nobody) = (server(PUBLIC, 80), server(PUBLIC, 81));
    conformance::exercise(&network, &conformance::Facts { name: ("server.test", PUBLIC), server, nobody }).await;
}

#[tokio::test]
async fn the_real_network_does_what_a_network_does() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    // Bound, and then nobody's.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                if tokio::io::AsyncReadExt::read(&mut stream, &mut request).await.is_ok_and(|bytes| bytes > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
                }
            });
        }
    });
    let facts = conformance::Facts { name: ("localhost", LOOPBACK), server, nobody };
    conformance::exercise(&TcpNetwork::default(), &facts).await;
}

#[tokio::test]
async fn tls_takes_the_certificate_of_the_name_and_no_other() {
    let authority = rcgen::generate_simple_self_signed(vec!["api.test".to_owned(), "10.9.8.7".to_owned()]).unwrap();
    let certificate = authority.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(authority.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&names);
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                seen.lock().unwrap().push(stream.get_ref().1.server_name().map(str::to_owned));
            }
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let network = TcpNetwork::with_roots(roots).unwrap();
    let name = |name: &str| url::Host::parse(name).unwrap();
    network.connect(address, Some(&name("api.test"))).await.map(drop).unwrap();
    for other in ["other.test", "sub.api.test", "127.0.0.1", "[::1]"] {
        let refused = network.connect(address, Some(&name(other))).await.map(drop).unwrap_err();
        assert!(matches!(refused, NetworkError::Certificate(_)), "{other}: {refused:?}");
    }
    let distrustful = TcpNetwork::with_roots(rustls::RootCertStore::empty()).unwrap();
    let refused = distrustful.connect(address, Some(&name("api.test"))).await.map(drop).unwrap_err();
    assert!(matches!(refused, NetworkError::Certificate(_)), "{refused:?}");
    assert_eq!(
        names.lock().unwrap().first(),
        Some(&Some("api.test".to_owned())),
        "the server is told who is asked for"
    );
}

#[tokio::test]
async fn what_a_server_sees_is_the_hosts_word_for_it() {
    let echo =
        |request: &Request<Bytes>| Response::new(Bytes::from(format!("{:?}", (request.uri(), request.headers()))));
    let network = MemoryNetwork::new()
        .with_name("api.test", &[PUBLIC])
        .with_server(server(PUBLIC, 80), echo)
        .with_server(server(PUBLIC, 8080), echo);
    let mut guest = Guest::new(Arc::new(network), &["http://api.test", "http://api.test:8080"]);
    let mut request = get("http://API.test./a/../b?c=d");
    for (name, value) in [
        ("host", "evil.test"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("proxy-authorization", "secret"),
        ("keep-alive", "1"),
        ("x-own", "kept"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let said = String::from_utf8(guest.send(request).await.unwrap().body().to_vec()).unwrap();
    assert!(said.starts_with("(/a/../b?c=d, "), "{said}");
    assert!(said.contains(r#""host": "api.test""#) && said.contains(r#""x-own": "kept""#), "{said}");
    assert!(said.contains(r#""traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#), "{said}");
    for gone in ["evil", "upgrade", "trailers", "chunked", "secret", "keep-alive"] {
        assert!(!said.contains(gone), "{gone} in {said}");
    }
    let mut request = get("http://api.test:8080");
    request.headers_mut().append("traceparent", "own".parse().unwrap());
    let said = String::from_utf8(guest.send(request).await.unwrap().body().to_vec()).unwrap();
    assert!(said.starts_with("(/, ") && said.contains(r#""host": "api.test:8080""#), "{said}");
    assert!(said.contains(r#""traceparent": "own""#), "{said}");
}

#[tokio::test]
async fn requests_are_counted_and_timed_by_outcome() {
    let registry = Registry::new();
    let network = MemoryNetwork::new().with_name("api.test", &[PUBLIC]).with_server(server(PUBLIC, 80), hello);
    let outbound = OperationMetrics::new(&registry).unwrap().outbound(Arc::new(network));
    let mut guest = Guest::with(outbound, &["http://api.test", "http://gone.test"], "30s");
    guest.get("http://api.test/").await.unwrap();
    assert!(matches!(guest.get("http://other.test/").await, Err(Error::HttpRequestDenied)));
    assert!(matches!(guest.get("http://gone.test/").await, Err(Error::DnsError { .. })));
    assert_eq!(guest.0.requests(), 3);
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for outcome in ["2xx", "denied", "failed"] {
        let line = format!("http_client_request_duration_seconds_count{{outcome=\"{outcome}\"}} 1");
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_task_makes_so_many_requests_and_so_many_at_once() {
    let network = MemoryNetwork::new().with_name("api.test", &[PUBLIC]).with_server(server(PUBLIC, 80), hello);
    let mut guest = Guest::new(Arc::new(network), &["http://api.test"]);
    let mut held = Vec::new();
    for _ in 0..limits::TASK_CONCURRENCY_MAX {
        held.push(guest.begin(get("http://api.test/"), None).await.unwrap());
    }
    let refused = guest.begin(get("http://api.test/"), None).await.map(drop);
    assert!(matches!(refused, Err(Error::ConnectionLimitReached)), "{refused:?}");
    held.pop();
    guest.get("http://api.test/").await.unwrap();
    drop(held);
    while guest.0.requests() < limits::TASK_REQUESTS_MAX {
        guest.get("http://api.test/").await.unwrap();
    }
    assert!(matches!(guest.get("http://api.test/").await, Err(Error::HttpRequestDenied)));
}

#[tokio::test]
async fn connections_of_the_process_are_bounded_and_given_back() {
    let network = MemoryNetwork::new().with_name("api.test", &[PUBLIC]).with_server(server(PUBLIC, 80), hello);
    let outbound = Arc::new(Outbound::new(Arc::new(network)));
    let mut guest = Guest::with(Arc::clone(&outbound), &["http://api.test"], "30s");
    let all = u32::try_from(limits::CONNECTIONS_MAX).unwrap();
    let others = Arc::clone(&outbound.connections).acquire_many_owned(all).await.unwrap();
    let options =
        RequestOptions { connect_timeout: Some(std::time::Duration::from_millis(1)), ..RequestOptions::default() };
    let refused = guest.begin(get("http://api.test/"), Some(options)).await.map(drop);
    assert!(matches!(refused, Err(Error::ConnectionLimitReached | Error::ConnectionTimeout)), "{refused:?}");
    drop(others);
    guest.get("http://api.test/").await.unwrap();
    assert!(guest.get("http://nobody.test/").await.is_err());
    crate::broker::conformance::wait_until("all connections are given back", async || {
        (outbound.connections.available_permits() == limits::CONNECTIONS_MAX).then_some(())
    })
    .await;
}
