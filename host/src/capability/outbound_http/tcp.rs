//! The real network: the system's resolver, TCP, and TLS with the system's certificates.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use url::Host;

use super::limits::LOOKUPS_MAX;
use super::network::{BoxedStream, Network, NetworkError};
use crate::capability::Cause;

/// The network of this machine. Proxies in the environment are not used: a proxy would resolve names by itself, after the
/// check.
pub struct TcpNetwork {
    lookups: Arc<Semaphore>,
    /// Read at the first request over TLS: a host whose agents make none need not know the certificates.
    tls: OnceLock<TlsConnector>,
}

// The connector has no form for people, and what it holds are this machine's authorities.
impl std::fmt::Debug for TcpNetwork {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TcpNetwork").field("lookups", &self.lookups).finish_non_exhaustive()
    }
}

impl Default for TcpNetwork {
    fn default() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)), tls: OnceLock::new() }
    }
}

impl TcpNetwork {
    /// With these authorities in place of the system's.
    ///
    /// # Errors
    /// rustls offers no protocol: a mistake in the build.
    pub fn with_roots(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let network = Self::default();
        let _ = network.tls.set(connector(roots)?);
        Ok(network)
    }

    async fn tls(&self) -> Result<TlsConnector, NetworkError> {
        if let Some(connector) = self.tls.get() {
            return Ok(connector.clone());
        }
        // Some hundred files or one large one.
        let loaded = tokio::task::spawn_blocking(|| connector(system_roots())).await;
        let connector = loaded.map_err(|panicked| NetworkError::Tls(panicked.into()))?;
        let connector = connector.map_err(|error| NetworkError::Tls(error.into()))?;
        Ok(self.tls.get_or_init(|| connector).clone())
    }
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate authority of this system cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (taken, _unusable) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        tracing::error!(
            "this system has no certificate authorities: agents' requests over TLS fail; install ca-certificates"
        );
    }
    roots
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[async_trait::async_trait]
impl Network for TcpNetwork {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let unavailable = |error: Cause| NetworkError::Unreachable(error);
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(|closed| unavailable(closed.into()))?;
        let name = name.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            // With the thread, not with the task: a lookup goes on when nobody waits for it any more.
            let _permit = permit;
            (name, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        let found = lookup.await.map_err(|panicked| unavailable(panicked.into()))?;
        let found = found.map_err(|error| NetworkError::NameNotFound(error.into()))?;
        if found.is_empty() { Err(NetworkError::NameNotFound("no records".into())) } else { Ok(found) }
    }

    async fn connect(&self, address: SocketAddr, tls: Option<&Host<String>>) -> Result<BoxedStream, NetworkError> {
        let stream = TcpStream::connect(address).await.map_err(unconnected)?;
        // Without it small requests wait for the acknowledgement of their first half.
        let _ = stream.set_nodelay(true);
        let Some(host) = tls else { return Ok(Box::new(stream)) };
        let name = match host {
            Host::Domain(name) => {
                ServerName::try_from(name.clone()).map_err(|error| NetworkError::Certificate(error.into()))?
            }
            Host::Ipv4(address) => ServerName::from(IpAddr::V4(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::V6(*address)),
        };
        Ok(Box::new(self.tls().await?.connect(name, stream).await.map_err(unsecured)?))
    }
}

fn unconnected(error: io::Error) -> NetworkError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => NetworkError::Refused(error.into()),
        _ => NetworkError::Unreachable(error.into()),
    }
}

fn unsecured(error: io::Error) -> NetworkError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            NetworkError::Certificate(error.into())
        }
        Some(_) => NetworkError::Tls(error.into()),
        None => NetworkError::Unreachable(error.into()),
    }
}
