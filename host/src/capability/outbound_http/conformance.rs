//! What every network does, run over the real and the embedded one.

use std::net::{IpAddr, SocketAddr};

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use super::{Network, NetworkError};

/// What there is on the network under test.
#[derive(Debug)]
pub struct Facts {
    /// A name, and one of the addresses that it leads to.
    pub name: (&'static str, IpAddr),
    /// A server of HTTP that answers `/` with `hello`.
    pub server: SocketAddr,
    /// An address where nobody listens.
    pub nobody: SocketAddr,
}

/// Runs the suite.
///
/// # Panics
/// The network does something else.
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test suite fails by panicking")]
pub async fn exercise(network: &dyn Network, facts: &Facts) {
    let (name, address) = facts.name;
    assert!(network.resolve(name).await.unwrap().contains(&address), "{name} leads to {address}");
    for unknown in ["no-such-host.invalid", "", "a..b", "x y"] {
        let error = network.resolve(unknown).await.unwrap_err();
        assert!(matches!(error, NetworkError::NameNotFound(_)), "{unknown:?}: {error:?}");
    }
    // An address is connected to, whatever its name is.
    let refused = network.connect(facts.nobody, None).await;
    assert!(matches!(refused, Err(NetworkError::Refused(_))), "nobody listens");
    // Two connections are two: what happens on one is not seen on the other.
    let (one, other) = (network.connect(facts.server, None).await, network.connect(facts.server, None).await);
    for stream in [other.unwrap(), one.unwrap()] {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream)).await.unwrap();
        let driving = tokio::spawn(connection);
        let request = Request::get("/").header("host", "server.test").body(Empty::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        drop(sender);
        driving.await.unwrap().unwrap();
    }
}
