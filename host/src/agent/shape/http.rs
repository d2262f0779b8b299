//! The http shape: `wasi:http/incoming-handler`, what `wasmtime serve` and others run. A task is a `POST /`, and the status
//! of the response says how it went.

mod fields;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::MapErr;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

pub(super) use self::fields::about;
use super::{Answer, Gathered, started};
use crate::agent::load::Revision;
use crate::agent::state::InstanceState;
use crate::capability::stdout::Sink as _;
use crate::task::{Output, Task};

/// What an agent set as its response, where it set one.
type Responded = oneshot::Receiver<Result<Response<HyperOutgoingBody>, ErrorCode>>;

/// Bytes of a failed response's body that its message quotes.
const QUOTED_BYTES_MAX: usize = 1 << 10;

const NO_RESPONSE: &str = "the handler returned without a response";
const UNFINISHED: &str = "the handler returned before its response's body was finished";
const BROKEN_OFF: &str = "the response's body broke off";

pub(super) async fn call(
    pre: &ProxyPre<InstanceState>,
    store: &mut Store<InstanceState>,
    revision: &Revision,
    task: &Task,
) -> wasmtime::Result<Answer> {
    let began = Instant::now();
    let agent = pre.instantiate_async(&mut *store).await?;
    started(store, revision, began);
    let (respond, responded) = oneshot::channel();
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request(task)?)?;
    let outparam = store.data_mut().http().new_response_outparam(respond)?;
    let Some(gathered) = store.data().gathered.clone() else {
        return Ok(Answer::Broken { message: NO_RESPONSE });
    };

    // A body is taken as it is written: the agent waits where nobody does.
    let has_responded = AtomicBool::new(false);
    let mut answered = std::pin::pin!(answered(responded, &has_responded, &gathered));
    let mut called = std::pin::pin!(agent.wasi_http_incoming_handler().call_handle(store, request, outparam));
    tokio::select! {
        biased;
        returned = &mut called => returned?,
        answer = &mut answered => {
            // What is over a limit ends at once; otherwise the rest of the run counts too.
            let answer = answer?;
            called.await?;
            return Ok(answer);
        }
    }
    // Nobody writes any more: what is not there by now will not come. Not held to the runtime's fair share, at whose end
    // what is there would look as if it were not.
    let rest = tokio::task::unconstrained(async {
        tokio::select! {
            biased;
            answer = answered => answer,
            () = std::future::ready(()) => {
                let message = if has_responded.load(Ordering::Relaxed) { UNFINISHED } else { NO_RESPONSE };
                Ok(Answer::Broken { message })
            }
        }
    });
    rest.await
}

fn request(task: &Task) -> wasmtime::Result<Request<MapErr<Full<Bytes>, NeverFails>>> {
    let mut request = Request::new(Full::new(task.body.clone()).map_err(never_fails as NeverFails));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("http://{}/", task.agent).parse().map_err(wasmtime::Error::new)?;
    *request.headers_mut() = fields::of_request(task);
    Ok(request)
}

type NeverFails = fn(Infallible) -> wasmtime_wasi_http::Error;

fn never_fails(never: Infallible) -> wasmtime_wasi_http::Error {
    match never {}
}

/// Waits for the response and all of its body.
async fn answered(responded: Responded, has_responded: &AtomicBool, gathered: &Gathered) -> wasmtime::Result<Answer> {
    let response = match responded.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let message = format!("the handler responded with the error {error}");
            return Ok(Answer::Retry { message, after_ms: None });
        }
        Err(_) => return Ok(Answer::Broken { message: NO_RESPONSE }),
    };
    has_responded.store(true, Ordering::Relaxed);
    let (head, mut body) = response.into_parts();
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let Ok(frame) = frame else { return Ok(Answer::Broken { message: BROKEN_OFF }) };
        // Trailers have no place in a result.
        if let Some(bytes) = frame.data_ref() {
            gathered.take(bytes)?;
        }
    }
    // One that is not as long as it says has broken off: wasi:http sees to that.
    Ok(judged(head.status, &head.headers, gathered.answer()))
}

/// What a response says about the task.
fn judged(status: StatusCode, headers: &HeaderMap, body: Bytes) -> Answer {
    if status.is_success() {
        let (content_type, headers) = fields::of_response(headers);
        return Answer::Succeeded(Some(Output { content_type, headers, body }));
    }
    let message = told(status, &body);
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Answer::Retry { message, after_ms: fields::retry_after_ms(headers, SystemTime::now()) };
    }
    Answer::Rejected { message }
}

/// The status, and what the agent says about it.
fn told(status: StatusCode, body: &[u8]) -> String {
    let quoted = String::from_utf8_lossy(body.get(..QUOTED_BYTES_MAX).unwrap_or(body));
    let quoted = quoted.trim();
    if quoted.is_empty() { format!("status {status}") } else { format!("status {status}: {quoted}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_decides() {
        let outcome = |status: u16| match judged(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), Bytes::new())
        {
            Answer::Succeeded(_) => "succeeded",
            Answer::Retry { .. } => "retry",
            Answer::Rejected { .. } => "rejected",
            other => panic!("{other:?}"),
        };
        for (status, expected) in [
            (100, "rejected"),
            (200, "succeeded"),
            (204, "succeeded"),
            (299, "succeeded"),
            (301, "rejected"),
            (304, "rejected"),
            (400, "rejected"),
            (404, "rejected"),
            (408, "rejected"),
            (422, "rejected"),
            (429, "retry"),
            (500, "retry"),
            (503, "retry"),
            (599, "retry"),
            (600, "rejected"),
        ] {
            assert_eq!(outcome(status), expected, "{status}");
        }
    }

    #[test]
    fn a_failure_quotes_the_response() {
        let body = Bytes::from("no such user\n".repeat(1_000));
        let Answer::Rejected { message } = judged(StatusCode::NOT_FOUND, &HeaderMap::new(), body) else {
            panic!("rejected");
        };
        assert!(message.starts_with("status 404 Not Found: no such user\n"), "{message}");
        assert!(message.len() < QUOTED_BYTES_MAX + 30, "{}", message.len());
        assert_eq!(told(StatusCode::BAD_GATEWAY, b" \n"), "status 502 Bad Gateway");
    }
}
