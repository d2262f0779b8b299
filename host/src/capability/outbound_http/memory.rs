//! The embedded network: names, addresses and servers that exist only in this process. Nothing leaves it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use url::Host;

use super::network::{BoxedStream, Network, NetworkError};

/// Bytes that wait on a connection in each direction.
const PIPE_BYTES: usize = 64 << 10;

/// What a server answers with.
type Answer = Arc<dyn Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync>;

/// Names, and servers with fixed answers.
#[derive(Default)]
pub struct MemoryNetwork {
    /// What a name leads to, one entry for each time that it is looked up; the last stays.
    names: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    servers: HashMap<SocketAddr, Answer>,
    connections: Mutex<Vec<SocketAddr>>,
}

impl std::fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryNetwork").field("servers", &self.servers.keys()).finish_non_exhaustive()
    }
}

impl MemoryNetwork {
    /// Without names and servers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With addresses for a name. Said again for the same name, the later ones hold from the next lookup on.
    #[must_use]
    pub fn with_name(self, name: &str, addresses: &[IpAddr]) -> Self {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(name.to_owned()).or_default().push(addresses.to_vec());
        drop(names);
        self
    }

    /// With a server. Also with TLS it is reached: who answers is certain here.
    #[must_use]
    pub fn with_server(
        mut self,
        address: SocketAddr,
        answer: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.servers.insert(address, Arc::new(answer));
        self
    }

    /// Every address that somebody connected to, or tried to.
    #[must_use]
    pub fn connections(&self) -> Vec<SocketAddr> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait::async_trait]
impl Network for MemoryNetwork {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = names.get_mut(name).ok_or_else(|| NetworkError::NameNotFound("no such fixture".into()))?;
        let next = if answers.len() > 1 { Some(answers.remove(0)) } else { answers.first().cloned() };
        next.filter(|found| !found.is_empty()).ok_or_else(|| NetworkError::NameNotFound("a fixture of none".into()))
    }

    async fn connect(&self, address: SocketAddr, _tls: Option<&Host<String>>) -> Result<BoxedStream, NetworkError> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        let answer = self.servers.get(&address).ok_or_else(|| NetworkError::Refused("no such fixture".into()))?;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let answer = Arc::clone(answer);
        // Ends with the connection.
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let answer = Arc::clone(&answer);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    Ok::<_, hyper::Error>(answer(&Request::from_parts(head, body)).map(Full::new))
                }
            });
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "an embedded connection ended early");
            }
        });
        Ok(Box::new(ours))
    }
}
