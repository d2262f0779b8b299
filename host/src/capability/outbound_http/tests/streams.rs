//! Bodies and times: what is endless, slow or too large ends in an error of its request alone.

use std::time::Duration;

use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wasmtime_wasi::p2::{OutputStream, StreamError};
use wasmtime_wasi_http::p2::body::{HostOutgoingBody, StreamContext};

use super::*;

/// A network of one server that answers with raw bytes, and then says nothing more or goes on for ever.
#[derive(Debug)]
struct Raw {
    head: &'static str,
    then: &'static [u8],
    is_endless: bool,
}

#[async_trait::async_trait]
impl Network for Raw {
    async fn resolve(&self, _name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        Ok(vec![PUBLIC])
    }

    async fn connect(
        &self,
        _address: SocketAddr,
        _tls: Option<&url::Host<String>>,
    ) -> Result<BoxedStream, NetworkError> {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let (head, then, is_endless) = (self.head, self.then, self.is_endless);
        tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let _ = theirs.read(&mut request).await;
            let _ = theirs.write_all(head.as_bytes()).await;
            while theirs.write_all(then).await.is_ok() && is_endless {}
            // Reads on, without an answer, until the other side goes.
            while theirs.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {}
        });
        Ok(Box::new(ours))
    }
}

const GRANTS: &[&str] = &["http://raw.test"];
const OK: &str = "HTTP/1.1 200 OK\r\n\r\n";

fn raw(head: &'static str, then: &'static [u8], is_endless: bool, timeout: &str) -> Guest {
    Guest::with(Arc::new(Outbound::new(Arc::new(Raw { head, then, is_endless }))), GRANTS, timeout)
}

#[tokio::test]
async fn an_endless_response_ends_at_its_limit() {
    let answer = raw(OK, &[b'x'; 32 << 10], true, "20m").get("http://raw.test/").await;
    assert!(matches!(answer, Err(Error::HttpResponseBodySize(Some(_)))), "{answer:?}");
}

#[tokio::test]
async fn an_endless_or_enormous_head_ends_at_its_limit() {
    let answer = raw("HTTP/1.1 200 OK\r\n", b"x-more: and more\r\n", true, "20m").get("http://raw.test/").await;
    assert!(matches!(answer, Err(Error::HttpResponseHeaderSectionSize(_))), "{answer:?}");
    let answer = raw("HTTP/1.1 200 OK\r\nx: ", &[b'x'; 1024], true, "20m").get("http://raw.test/").await;
    assert!(matches!(answer, Err(Error::HttpResponseHeaderSectionSize(_))), "{answer:?}");
}

#[tokio::test]
async fn a_server_without_an_answer_is_waited_for_until_the_task_ends_at_most() {
    for head in ["", "HTTP/1.1 200 OK\r\n"] {
        let answer = raw(head, b"", false, "50ms").get("http://raw.test/").await;
        assert!(is_late(&answer), "{head:?}: {answer:?}");
    }
    // Every byte comes in time, and they do not end. Neither does the task's time begin anew with each.
    let answer = raw(OK, b"x", false, "50ms").get("http://raw.test/").await;
    assert!(is_late(&answer), "{answer:?}");
}

/// Which of the times was up first is the machine's mood.
fn is_late<T>(answer: &Result<T>) -> bool {
    matches!(answer, Err(Error::ConnectionTimeout | Error::HttpResponseTimeout | Error::ConnectionReadTimeout))
}

#[tokio::test]
async fn the_guests_own_timeouts_hold_too() {
    let soon = Some(Duration::from_millis(20));
    let options = RequestOptions { first_byte_timeout: soon, ..RequestOptions::default() };
    let answer = raw("", b"", false, "20m").begin(get("http://raw.test/"), Some(options)).await.map(drop);
    assert!(matches!(answer, Err(Error::HttpResponseTimeout)), "{answer:?}");
    let options = RequestOptions { between_bytes_timeout: soon, ..RequestOptions::default() };
    let mut guest = raw(OK, b"x", false, "20m");
    let (response, connection) = guest.begin(get("http://raw.test/"), Some(options)).await.unwrap();
    tokio::spawn(Box::into_pin(connection));
    let read = response.into_body().collect().await.map(drop);
    assert!(matches!(read, Err(Error::ConnectionReadTimeout)), "{read:?}");
    let zero = RequestOptions { connect_timeout: Some(Duration::ZERO), ..RequestOptions::default() };
    let pending = Guest::new(Arc::new(Hole), GRANTS).begin(get("http://raw.test/"), Some(zero)).await.map(drop);
    assert!(matches!(pending, Err(Error::ConnectionTimeout | Error::ConnectionLimitReached)), "{pending:?}");
}

/// A network that answers nothing.
#[derive(Debug)]
struct Hole;

#[async_trait::async_trait]
impl Network for Hole {
    async fn resolve(&self, _name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        std::future::pending().await
    }

    async fn connect(
        &self,
        _address: SocketAddr,
        _tls: Option<&url::Host<String>>,
    ) -> Result<BoxedStream, NetworkError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_told_from_a_response() {
    let cut = |request: &'static str| {
        let network = Raw { head: request, then: b"", is_endless: false };
        Guest::new(Arc::new(Cut(network)), GRANTS)
    };
    let answer = cut("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").get("http://raw.test/").await;
    assert!(matches!(answer, Err(Error::HttpResponseIncomplete)), "{answer:?}");
    let answer = cut("").get("http://raw.test/").await;
    assert!(matches!(answer, Err(Error::HttpResponseIncomplete | Error::ConnectionTerminated)), "{answer:?}");
    let answer = cut("SSH-2.0-OpenSSH\r\n").get("http://raw.test/").await;
    assert!(matches!(answer, Err(Error::HttpProtocolError)), "{answer:?}");
}

/// Closes after the head.
#[derive(Debug)]
struct Cut(Raw);

#[async_trait::async_trait]
impl Network for Cut {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        self.0.resolve(name).await
    }

    async fn connect(
        &self,
        _address: SocketAddr,
        _tls: Option<&url::Host<String>>,
    ) -> Result<BoxedStream, NetworkError> {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let head = self.0.head;
        tokio::spawn(async move {
            let mut request = vec![0; 4096];
            let _ = theirs.read(&mut request).await;
            let _ = theirs.write_all(head.as_bytes()).await;
        });
        Ok(Box::new(ours))
    }
}

#[tokio::test]
async fn a_request_body_ends_at_its_limit_and_the_guests_fault_is_told() {
    let part = Bytes::from(vec![b'x'; 64 << 10]);
    let endless = futures::stream::repeat_with(move || Ok(Frame::data(part.clone())));
    // A GET has no body for hyper, whatever the guest gave it.
    let mut request = get("http://raw.test/");
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = StreamBody::new(endless).boxed_unsync();
    let answer = raw("", b"", false, "20m").send(request).await;
    assert!(matches!(answer, Err(Error::HttpRequestBodySize(Some(limits::REQUEST_BODY_BYTES_MAX)))), "{answer:?}");

    let aborted = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"x"))), Err(Error::HttpProtocolError)]);
    let mut request = get("http://raw.test/");
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = StreamBody::new(aborted).boxed_unsync();
    let answer = raw("", b"", false, "20m").send(request).await;
    assert!(matches!(answer, Err(Error::HttpProtocolError)), "{answer:?}");
}

#[tokio::test]
async fn all_bodies_of_a_task_together_have_a_limit() {
    let network = MemoryNetwork::new().with_name("api.test", &[PUBLIC]).with_server(server(PUBLIC, 80), hello);
    let mut guest = Guest::new(Arc::new(network), &["http://api.test"]);
    let whole = usize::try_from(limits::REQUEST_BODY_BYTES_MAX).unwrap();
    let fits = limits::TASK_REQUEST_BYTES_MAX / limits::REQUEST_BODY_BYTES_MAX;
    for _ in 0..fits {
        let request = Request::post("http://api.test/").body(body(vec![b'x'; whole])).unwrap();
        guest.send(request).await.unwrap();
    }
    let request = Request::post("http://api.test/").body(body("x")).unwrap();
    let answer = guest.send(request).await;
    assert!(matches!(answer, Err(Error::HttpRequestBodySize(_))), "{answer:?}");
}

/// GHSA-f8mm-ggr3-89wh: before 48.0.9, writes of nothing to a body could pile up in the host.
#[tokio::test]
async fn writes_of_nothing_fill_a_body_like_any_other() {
    let (mut outgoing, _unread) = HostOutgoingBody::new(StreamContext::Request, None, 1, limits::BODY_CHUNK_BYTES_MAX);
    let mut stream = outgoing.take_output_stream().unwrap();
    let mut writes = 0;
    let ended = loop {
        match OutputStream::write(&mut *stream, Bytes::new()) {
            Ok(()) => writes += 1,
            Err(error) => break error,
        }
        assert!(writes < 10, "nothing keeps them");
    };
    assert!(matches!(ended, StreamError::Trap(_)), "{ended:?}");
    assert_eq!(stream.check_write().unwrap(), 0, "a guest that asks first waits");
}
