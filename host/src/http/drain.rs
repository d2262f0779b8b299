//! Reads the rest of a request whose answer is ready early.
//!
//! A server that answers `401` or `413` and closes the connection while the client is still writing makes the client see a
//! reset, and not the answer that says what to do. So what is left of a refused body is read and thrown away, within bounds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt as _;
use futures::stream::poll_fn;

/// Bodies up to this size fit the buffers between client and host, and are written before the answer is waited for.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Most that is thrown away, a module of the largest size; whoever sends more sees the connection close.
const DISCARD_BYTES_MAX: u64 = super::MODULE_BYTES_MAX.0;
/// Longest time that is spent on it.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(10);

/// The middleware; it has to stand outside of everything that may refuse a request.
pub(crate) async fn refused_bodies(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if is_small(&parts.headers) {
        return next.run(Request::from_parts(parts, body)).await;
    }
    // A client that asks first sends nothing when it is refused, unless the handler began to read.
    let asks_first = parts.headers.contains_key(header::EXPECT);
    let rest = Arc::new(Mutex::new(Rest { chunks: body.into_data_stream(), begun: false, ended: false }));
    let shared = Arc::clone(&rest);
    let body = Body::from_stream(poll_fn(move |context| lock(&shared).poll_next(context)));
    let response = next.run(Request::from_parts(parts, body)).await;
    let refused = response.status().is_client_error() || response.status().is_server_error();
    if refused && (lock(&rest).begun || !asks_first) {
        // Within the time or not, the answer is the same.
        let _ = tokio::time::timeout(DISCARD_TIME_MAX, discard(&rest)).await;
    }
    response
}

/// Reads and drops a body of a few bytes whose request is refused, where it comes.
///
/// The client has its answer anyway; but hyper closes a connection whose request was not read to its end, and the next
/// request that the client had ready for it would be lost. Requests are refused for being too many just when that hurts.
pub(crate) async fn small_body(headers: &HeaderMap, body: Body) {
    // Whoever asks first has sent nothing, and need not.
    if !is_small(headers) || headers.contains_key(header::EXPECT) {
        return;
    }
    let rest = Mutex::new(Rest { chunks: body.into_data_stream(), begun: false, ended: false });
    // Within the time or not, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, discard(&rest)).await;
}

fn is_small(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return false;
    }
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    declared.unwrap_or(0) <= SMALL_BYTES_MAX
}

/// What has not been read of a request's body.
struct Rest {
    chunks: BodyDataStream,
    begun: bool,
    ended: bool,
}

type Chunk = Option<Result<bytes::Bytes, axum::Error>>;

impl Rest {
    fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Chunk> {
        if self.ended {
            return std::task::Poll::Ready(None);
        }
        self.begun = true;
        let polled = self.chunks.poll_next_unpin(context);
        self.ended = matches!(polled, std::task::Poll::Ready(None | Some(Err(_))));
        polled
    }
}

/// The lock is held for one poll at a time, and nothing in there panics.
fn lock(rest: &Mutex<Rest>) -> std::sync::MutexGuard<'_, Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn discard(rest: &Mutex<Rest>) {
    let mut bytes = 0u64;
    while let Some(Ok(chunk)) = poll_fn(|context| lock(rest).poll_next(context)).next().await {
        bytes += chunk.len() as u64;
        if bytes > DISCARD_BYTES_MAX {
            return;
        }
    }
}
