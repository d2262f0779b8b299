//! How long the host waits for clients that are slow to say or to take something. What they hold meanwhile (a connection, a place
//! among the submissions or the streams, what they sent and were sent) comes free when they are let go.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What a connection waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long a client may take to send the head of a request, and so also how long a connection may be idle in between,
    /// and to agree on TLS. Clients that keep connections open for reuse see the end and open another one.
    pub(super) head: Duration,
    /// How long the host waits for a body that does not come, in all: less whatever was waited before, and more for what came.
    pub(super) body: Duration,
    /// How long a client may take nothing of an answer, or of an event stream, that has more than its connection holds.
    pub(super) answer: Duration,
}

/// Half a minute for each: what is slower than this is stuck, also on a poor line.
pub(super) const PATIENCE: Patience =
    Patience { head: Duration::from_secs(30), body: Duration::from_secs(30), answer: Duration::from_secs(30) };

/// Bytes of a body that buy a second of waiting. A client may be as slow as that for as long as it likes; one that sends a byte
/// now and then, to hold its place, may not.
const BODY_BYTES_PER_SECOND_MIN: u64 = 500;

/// A request's body, which has to come at a pace.
pub(super) struct Paced {
    body: Incoming,
    patience: Duration,
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// A body that did not come.
#[derive(Debug, thiserror::Error)]
#[error("it came too slowly: send at least {BODY_BYTES_PER_SECOND_MIN} bytes a second")]
struct TooSlow;

impl Paced {
    pub(super) fn new(body: Incoming, patience: Duration) -> Self {
        Self { body, patience, left: patience, waiting: None }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let left = self.left;
            let (_, end) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
            ready!(end.as_mut().poll(context));
            return Poll::Ready(Some(Err(TooSlow.into())));
        };
        // Only the client is timed: a host that has no time for the body now reads it later.
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        if let Some(Ok(Some(data))) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
            let bought = Duration::from_millis(data.len() as u64 * 1_000 / BODY_BYTES_PER_SECOND_MIN);
            self.left = self.left.saturating_add(bought).min(self.patience);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose writes may not stall.
pub(super) struct Taken<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    fn watched<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let patience = self.patience;
        ready!(self.stalled.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watched(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watched(context, polled)
    }
}
