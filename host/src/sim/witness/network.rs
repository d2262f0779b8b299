//! The network under a witness: a call is a connection, and its bytes are those on the line.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use url::Host;

use super::{Port, Witness};
use crate::capability::outbound_http::{BoxedStream, Network, NetworkError};

#[derive(Debug)]
pub(super) struct Witnessed {
    pub(super) witness: Arc<Witness>,
    pub(super) inner: Arc<dyn Network>,
}

#[async_trait::async_trait]
impl Network for Witnessed {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        self.inner.resolve(name).await
    }

    async fn connect(&self, address: SocketAddr, tls: Option<&Host<String>>) -> Result<BoxedStream, NetworkError> {
        let called = self.witness.call(Port::Http, 0).await;
        called.map_err(|injected| NetworkError::Refused(injected.into()))?;
        let inner = self.inner.connect(address, tls).await?;
        Ok(Box::new(Line { witness: Arc::clone(&self.witness), inner }))
    }
}

/// A connection whose bytes are counted.
struct Line {
    witness: Arc<Witness>,
    inner: BoxedStream,
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.witness.came_back(Port::Http, 0, buffer.filled().len().saturating_sub(before));
        poll
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &poll {
            self.witness.with(|state| state.tallies.entry(Port::Http).or_default().bytes_out += *written as u64);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
