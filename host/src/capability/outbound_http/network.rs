//! The outside of outbound HTTP: names become addresses, and addresses byte streams. What may be connected to is decided
//! above it, between the two.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncWrite};
use url::Host;

use crate::capability::Cause;

/// A resolver and a connector.
#[async_trait::async_trait]
pub trait Network: std::fmt::Debug + Send + Sync {
    /// All addresses of a name, at least one, as they are now: nothing is remembered.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError>;

    /// Connects to exactly this address. With a host for `tls`, the stream is secured and the other side has shown a
    /// certificate for that host.
    async fn connect(&self, address: SocketAddr, tls: Option<&Host<String>>) -> Result<BoxedStream, NetworkError>;
}

/// A connection's bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection.
pub type BoxedStream = Box<dyn Stream>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The name has no address.
    #[error("the name has no address")]
    NameNotFound(#[source] Cause),
    /// The other side refused.
    #[error("the connection was refused")]
    Refused(#[source] Cause),
    /// There is no way there, or the way broke off.
    #[error("the address cannot be reached")]
    Unreachable(#[source] Cause),
    /// The other side's certificate is not for this host, not valid, or of nobody who is trusted.
    #[error("the certificate is not accepted")]
    Certificate(#[source] Cause),
    /// TLS failed otherwise.
    #[error("TLS failed")]
    Tls(#[source] Cause),
}
