//! A stream out of an agent of which every write is taken at once, into the log or into the answer. It makes nobody wait
//! and holds nothing; wasmtime-wasi's own adapters keep a queue, which grows without bound on empty writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};

/// What one write may bring.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Where the bytes go. Clones lead to the same place.
pub trait Sink: Clone + Send + Sync + Unpin + 'static {
    /// Takes all of them, or none.
    ///
    /// # Errors
    /// The task ends of it: no agent is to take for written what is not.
    fn take(&self, bytes: &[u8]) -> wasmtime::Result<()>;
}

/// The stream into a sink.
#[derive(Clone)]
pub struct Immediate<S>(pub S);

impl<S: Sink> IsTerminal for Immediate<S> {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl<S: Sink> StdoutStream for Immediate<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl<S: Sink> Pollable for Immediate<S> {
    async fn ready(&mut self) {}
}

impl<S: Sink> OutputStream for Immediate<S> {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.0.take(&bytes).map_err(StreamError::Trap)
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl<S: Sink> AsyncWrite for Immediate<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.take(bytes).map(|()| bytes.len()).map_err(|error| io::Error::other(error.to_string())))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
