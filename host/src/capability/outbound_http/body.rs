//! Bodies that are counted while they stream. Nothing is kept: a body is read as fast as the other side reads it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::limits::{
    REQUEST_BODY_BYTES_MAX, RESPONSE_BODY_BYTES_MAX, TASK_CONCURRENCY_MAX, TASK_REQUEST_BYTES_MAX,
    TASK_RESPONSE_BYTES_MAX,
};

/// What the requests of one task have taken so far.
#[derive(Debug)]
pub(super) struct Taken {
    /// Requests that may be under way beside those that are.
    pub(super) places: Arc<Semaphore>,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
}

impl Default for Taken {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(TASK_CONCURRENCY_MAX)),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        }
    }
}

/// Counts the bytes of one body, and of all of its task's.
#[derive(Debug)]
struct Meter {
    left: u64,
    task_bytes_max: u64,
}

impl Meter {
    /// Counts a frame; `false` where it is too much.
    fn take(&mut self, frame: &Frame<Bytes>, task_bytes: &AtomicU64) -> bool {
        let bytes = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        let Some(left) = self.left.checked_sub(bytes) else { return false };
        self.left = left;
        task_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= self.task_bytes_max
    }
}

/// Why a request's body broke off; hyper only tells that it did.
pub(super) type Fault = Arc<Mutex<Option<Error>>>;

/// A request's body on its way out.
pub(super) struct RequestBody {
    inner: WasiBody,
    meter: Meter,
    taken: Arc<Taken>,
    fault: Fault,
}

impl RequestBody {
    pub(super) fn new(inner: WasiBody, taken: Arc<Taken>, fault: Fault) -> Self {
        let meter = Meter { left: REQUEST_BODY_BYTES_MAX, task_bytes_max: TASK_REQUEST_BYTES_MAX };
        Self { inner, meter, taken, fault }
    }
}

/// What hyper gets in place of a fault.
#[derive(Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub(super) struct BrokeOff;

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let fault = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Ok(frame)) if this.meter.take(&frame, &this.taken.request_bytes) => {
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Ok(_)) => Error::HttpRequestBodySize(Some(REQUEST_BODY_BYTES_MAX)),
            Some(Err(error)) => error,
        };
        *this.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        Poll::Ready(Some(Err(BrokeOff)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body on its way in.
pub(super) struct ResponseBody {
    inner: Incoming,
    meter: Meter,
    taken: Arc<Taken>,
    between_bytes: Duration,
    ends_at: Instant,
    /// The end of the wait for the next frame, while somebody waits for one: a guest that does something else meanwhile is
    /// not the other side's silence.
    silence: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl ResponseBody {
    /// A body whose bytes may be this far apart, and that ends with its task.
    pub(super) fn new(inner: Incoming, taken: Arc<Taken>, between_bytes: Duration, ends_at: Instant) -> Self {
        let meter = Meter { left: RESPONSE_BODY_BYTES_MAX, task_bytes_max: TASK_RESPONSE_BYTES_MAX };
        let silence = Box::pin(tokio::time::sleep_until(ends_at));
        Self { inner, meter, taken, between_bytes, ends_at, silence, is_waiting: false }
    }
}

fn limit(between_bytes: Duration, ends_at: Instant) -> Instant {
    Instant::now().checked_add(between_bytes).map_or(ends_at, |limit| limit.min(ends_at))
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if !this.meter.take(&frame, &this.taken.response_bytes) {
                    return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(RESPONSE_BODY_BYTES_MAX)))));
                }
                this.is_waiting = false;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(super::exchange::from_hyper(&error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                if !std::mem::replace(&mut this.is_waiting, true) {
                    this.silence.as_mut().reset(limit(this.between_bytes, this.ends_at));
                }
                ready!(this.silence.as_mut().poll(context));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
