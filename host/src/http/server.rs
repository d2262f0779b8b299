//! Connections of the API: plain or TLS, with a time for what clients have to say and to take.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::patience::{PATIENCE, Paced, Patience, Taken};

/// Pause after the system had no more file descriptors, or the like, for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a host cannot serve TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not what it should be.
    #[error("{path}: {reason}: expected {expected} in PEM")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// The certificate and the key do not go together.
    #[error("the certificate and its key cannot be used")]
    Pair(#[source] rustls::Error),
}

/// A certificate and its key, ready to serve.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads a certificate, with those that lead to its authority, and its key.
    ///
    /// # Errors
    /// [`TlsError`], naming the file.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let file = |path: &Path, expected| {
            let path = path.display().to_string();
            move |error: &dyn std::fmt::Display| TlsError::File {
                path: path.clone(),
                reason: error.to_string(),
                expected,
            }
        };
        let unreadable = file(certificate, "a certificate, its own first");
        let chain = CertificateDer::pem_file_iter(certificate).map_err(|error| unreadable(&error))?;
        let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| unreadable(&error))?;
        if chain.is_empty() {
            return Err(unreadable(&"there is no certificate in it"));
        }
        let unreadable = file(key, "its private key");
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(…)")
    }
}

/// Serves until the host closes, and then until what was asked is answered.
pub async fn serve(listener: TcpListener, router: Router, tls: Option<Tls>, closing: CancellationToken) {
    serve_within(PATIENCE, listener, router, tls, closing).await;
}

async fn serve_within(
    patience: Patience,
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
    closing: CancellationToken,
) {
    let connections = TaskTracker::new();
    while let Some(accepted) = closing.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, tls, closing) = (router.clone(), tls.clone(), closing.clone());
        connections.spawn(async move {
            if let Err(error) = connection(patience, (stream, peer), router, tls, closing).await {
                tracing::debug!(%peer, %error, "a connection ended early");
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(
    patience: Patience,
    (stream, peer): (TcpStream, SocketAddr),
    router: Router,
    tls: Option<Tls>,
    closing: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => exchange(patience, stream, peer, router, closing).await,
        Some(Tls(acceptor)) => {
            let agreed = tokio::time::timeout(patience.head, acceptor.accept(stream)).await;
            exchange(patience, agreed.map_err(|_| io::ErrorKind::TimedOut)??, peer, router, closing).await
        }
    }
}

async fn exchange(
    patience: Patience,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    closing: CancellationToken,
) -> io::Result<()> {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request.map(|body| Paced::new(body, patience.body)))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .serve_connection(TokioIo::new(Taken::new(stream, patience.answer)), service);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    served.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn started(tls: Option<Tls>) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        started_within(PATIENCE, tls).await
    }

    async fn started_within(
        patience: Patience,
        tls: Option<Tls>,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let router = Router::new()
            .route("/", axum::routing::get(|info: ConnectInfo<SocketAddr>| async move { info.0.ip().to_string() }));
        serving(patience, router, tls).await
    }

    async fn serving(
        patience: Patience,
        router: Router,
        tls: Option<Tls>,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let serving = tokio::spawn(serve_within(patience, listener, router, tls, closing.clone()));
        (address, closing, serving)
    }

    #[tokio::test]
    async fn it_serves_until_it_closes() {
        let (address, closing, serving) = started(None).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        closing.cancel();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("127.0.0.1"), "{rest}");
        serving.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_its_head_is_let_go() {
        let impatient = Patience { head: Duration::from_millis(20), ..PATIENCE };
        let (address, _closing, _serving) = started_within(impatient, None).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        let mut rest = Vec::new();
        // It ends: that is what is shown.
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    }

    /// What a request holds, and when it goes.
    struct Held(Option<tokio::sync::oneshot::Sender<()>>);

    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_an_endless_answer_is_let_go() {
        let (sender, gone) = tokio::sync::oneshot::channel();
        let held = Arc::new(std::sync::Mutex::new(Some(Held(Some(sender)))));
        let endless = move || {
            let held = held.lock().unwrap().take();
            let chunks = futures::stream::repeat_with(move || {
                let _held = &held;
                Ok::<_, io::Error>(vec![0_u8; 64 << 10])
            });
            async move { axum::body::Body::from_stream(chunks) }
        };
        let impatient = Patience { answer: Duration::from_millis(20), ..PATIENCE };
        let router = Router::new().route("/", axum::routing::get(endless));
        let (address, _closing, _serving) = serving(impatient, router, None).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        gone.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_may_be_slow_and_may_not_drip() {
        use axum::extract::rejection::BytesRejection;
        let read = |body: Result<bytes::Bytes, BytesRejection>| async move { body.map(|body| body.len().to_string()) };
        let router = Router::new().route("/", axum::routing::post(read));
        // Each byte buys 2 ms.
        let impatient = Patience { body: Duration::from_millis(40), ..PATIENCE };
        let (address, _closing, _serving) = serving(impatient, router, None).await;
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n";

        let (mut answers, mut body) = TcpStream::connect(address).await.unwrap().into_split();
        body.write_all(head).await.unwrap();
        let dripping = tokio::spawn(async move {
            // A byte now and then, until nobody takes it any more. Far more would come than the time that there is.
            while body.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut answer = Vec::new();
        // Reset or not, it ends.
        let _ = answers.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
        drop(answers);
        dripping.await.unwrap();

        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head).await.unwrap();
        stream.write_all(&[b'x'; 1_000]).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("1000"), "{answer}");
    }

    #[tokio::test]
    async fn it_speaks_tls_with_a_certificate_and_says_what_is_wrong_with_one() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let (address, _closing, _serving) = started(Some(Tls::read(&certificate, &key).unwrap())).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("127.0.0.1"), "{answer}");

        for (certificate, key, names) in [
            (&folder.path().join("none.pem"), &key, "none.pem"),
            (&key, &key, "no certificate"),
            (&certificate, &certificate, "private key"),
        ] {
            let error = Tls::read(certificate, key).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
    }
}
