//! Outbound HTTP: `wasi:http/outgoing-handler`, to the origins that `allowed_outbound_hosts` names and to nobody else.
//!
//! A request passes two checks. Its scheme, host and port are held against the grants before anything is looked up. Then the
//! name is resolved once, addresses that are not public are dropped unless a grant names them, and the connection goes to an
//! address of what is left: a resolver that answers differently a moment later changes nothing. Redirects are the guest's
//! to follow, with a request that is checked like any other. Each request has a connection of its own.
//!
//! [`Network`] is the outside, with a real and an embedded implementation side by side; `conformance` holds both to the same
//! rules. What this may take of the host is in [`limits`].

mod addresses;
mod body;
#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod exchange;
pub mod limits;
mod memory;
mod network;
mod tcp;
#[cfg(test)]
mod tests;

pub use memory::MemoryNetwork;
pub use network::{BoxedStream, Network, NetworkError, Stream};
pub use tcp::TcpNetwork;

use std::sync::Arc;

use http::{HeaderValue, Method};
use prometheus::HistogramVec;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks};

use self::body::Taken;
use self::exchange::{Exchange, Times};
use super::log::{GuestLog, Level};
use super::recording::Tape;
use super::{Calls, Session, SessionPlan};
use crate::manifest::{InvalidOrigin, Origin, Scheme};
use crate::memory::Held;
use crate::trace::{Kind, Span};

/// Something of an outgoing exchange, as `wasmtime-wasi-http` has it.
type Promise<T> = Box<dyn Future<Output = Result<T>> + Send>;
/// A response, and what keeps its connection going.
type Answer = (http::Response<WasiBody>, Promise<()>);

/// What all agents of a host send through.
#[derive(Debug)]
pub struct Outbound {
    network: Arc<dyn Network>,
    connections: Arc<Semaphore>,
    /// How long requests take, by `outcome`.
    duration_seconds: Option<HistogramVec>,
}

impl Outbound {
    /// Through this network.
    #[must_use]
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self { network, connections: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)), duration_seconds: None }
    }

    /// With a clock.
    pub(super) fn timed(self, duration_seconds: HistogramVec) -> Self {
        Self { duration_seconds: Some(duration_seconds), ..self }
    }
}

/// The HTTP state of one task.
pub struct OutboundHttp {
    ctx: WasiHttpCtx,
    gate: Gate,
}

impl OutboundHttp {
    /// For a task that has just begun.
    #[must_use]
    pub fn new(session: &Session, began: std::time::Instant) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(limits::FIELDS_BYTES_MAX);
        let plan = Arc::clone(session.plan());
        let ends_at = Instant::from_std(began) + plan.manifest().limits.timeout + limits::AFTER_TASK;
        // Copied only for agents that can use it: most have no grant.
        let may_call = !plan.manifest().grants.allowed_outbound_hosts.is_empty();
        let gate = Gate {
            log: Arc::clone(session.log()),
            traceparent: session.traceparent().filter(|_| may_call).cloned(),
            calls: session.calls().clone(),
            tape: session.tape().cloned(),
            plan,
            ends_at,
            requests: 0,
            taken: None,
            bodies: 0,
            held: session.holder().nothing(),
        };
        Self { ctx, gate }
    }

    /// Requests that the guest made, those that were refused included.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.gate.requests
    }

    /// What a host call works on.
    pub fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.gate, table, ctx: &mut self.ctx }
    }
}

/// Lets requests through, or says why not: in the task's log, since the guest's error code carries no words.
struct Gate {
    plan: Arc<SessionPlan>,
    log: Arc<GuestLog>,
    /// Of the task; it goes along where its calls have no spans of their own.
    traceparent: Option<String>,
    calls: Calls,
    tape: Option<Arc<Tape>>,
    ends_at: Instant,
    requests: u32,
    /// Made for the first request: most tasks have none.
    taken: Option<Arc<Taken>>,
    /// Bodies that the guest made, sent or not, and the account of what they hold.
    bodies: usize,
    held: Held,
}

impl Gate {
    /// Holds a request against the grants and what the task has left.
    fn admit(&mut self, request: &http::Request<WasiBody>, options: Option<RequestOptions>) -> Result<Exchange> {
        self.requests = self.requests.saturating_add(1);
        if self.requests > limits::TASK_REQUESTS_MAX {
            self.note(&format!("a task makes at most {} requests", limits::TASK_REQUESTS_MAX));
            return Err(Error::HttpRequestDenied);
        }
        // A tunnel is a connection to wherever the other side likes, and the trace of what was sent shows credentials.
        if [Method::CONNECT, Method::TRACE].contains(request.method()) {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let uri = request.uri();
        if uri.path_and_query().is_some_and(|path| path.as_str().len() > limits::PATH_BYTES_MAX) {
            return Err(Error::HttpRequestUriTooLong);
        }
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(Error::HttpProtocolError),
        };
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let origin = Origin::parse(scheme, authority).map_err(|error| {
            // Without the authority: it may hold a password.
            let named = if error == InvalidOrigin::UserInfo { "" } else { authority };
            self.note(&format!("a request to {named:?} was not sent: {error}"));
            Error::HttpRequestUriInvalid
        })?;
        if !self.plan.manifest().grants.allowed_outbound_hosts.iter().any(|grant| grant.allows(&origin)) {
            self.note(&format!(
                "the request to {origin} was denied: add \"{origin}\" to allowed_outbound_hosts under [grants] in agent.toml"
            ));
            return Err(Error::HttpRequestDenied);
        }
        let taken = Arc::clone(self.taken.get_or_insert_default());
        let place = Arc::clone(&taken.places).try_acquire_owned().map_err(|_| {
            self.note(&format!("a task has at most {} requests under way at once", limits::TASK_CONCURRENCY_MAX));
            Error::ConnectionLimitReached
        })?;
        let (outbound, log) = (Arc::clone(self.plan.outbound()), Arc::clone(&self.log));
        Ok(Exchange { origin, times: Times::new(options, self.ends_at), taken, outbound, log, place })
    }

    /// The span of a request that is sent: to whom, and no more. Paths and queries may be the agent's secrets.
    fn span(&self, request: &http::Request<WasiBody>, admitted: &Result<Exchange>) -> Span {
        let Ok(exchange) = admitted else { return Span::default() };
        let method = known_method(request.method());
        let mut span = self.calls.begin(Kind::Client, format_args!("{method}"));
        span.set("http.request.method", method);
        span.set("server.port", exchange.origin.port);
        span.set("url.scheme", exchange.origin.scheme.as_str());
        span.set_with("server.address", || exchange.origin.host.to_string());
        span
    }

    fn note(&self, message: &str) {
        self.log.line(Level::Warn, "wasi:http", message);
    }
}

/// The method as a trace has it: one that an agent made up would make a name of its own.
fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// Times a request up to its response's head, also where its task is stopped before.
struct Clock {
    outbound: Arc<Outbound>,
    began: Instant,
    outcome: &'static str,
    span: Span,
}

impl Clock {
    /// Notes the answer.
    fn answered(&mut self, answer: &Result<Answer>) {
        self.outcome = exchange::outcome(answer);
        match answer {
            Ok((response, _)) => {
                let status = response.status();
                self.span.set("http.response.status_code", status.as_u16());
                // A client's errors are what the server made of its request.
                if status.is_client_error() || status.is_server_error() {
                    self.span.fail(status.as_str().to_owned());
                }
            }
            Err(_) => self.span.fail(self.outcome),
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Some(duration_seconds) = &self.outbound.duration_seconds {
            duration_seconds.with_label_values(&[self.outcome]).observe(self.began.elapsed().as_secs_f64());
        }
    }
}

impl WasiHttpHooks for Gate {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Promise<()>,
    ) -> Promise<Answer> {
        let admitted = self.admit(&request, options);
        let (outbound, plan) = (Arc::clone(self.plan.outbound()), Arc::clone(&self.plan));
        let span = self.span(&request, &admitted);
        let own = span.traceparent().or_else(|| self.calls.traceparent());
        let traceparent = own.or_else(|| self.traceparent.clone()).and_then(|text| HeaderValue::try_from(text).ok());
        // Here, where requests have an order.
        let tape = self.tape.clone().filter(|_| admitted.is_ok()).map(|tape| (tape.next_exchange(), tape));
        Box::new(async move {
            let mut clock = Clock { outbound, began: Instant::now(), outcome: "stopped", span };
            let answer = match admitted {
                Ok(exchange) => {
                    let send = async move |request| {
                        exchange.send(request, &plan.manifest().grants.allowed_outbound_hosts, traceparent).await
                    };
                    match tape {
                        None => send(request).await,
                        Some((number, tape)) => tape.exchange(number, request, send).await,
                    }
                }
                Err(error) => Err(error),
            };
            clock.answered(&answer);
            answer
        })
    }

    /// Asked once for each body that the guest makes.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        const MAX: usize = limits::TASK_CONCURRENCY_MAX;
        let unsent = self.bodies.saturating_sub(usize::try_from(self.requests).unwrap_or(usize::MAX));
        self.bodies = self.bodies.saturating_add(1);
        // So many wait to be sent, and as many are under way. One beyond that, or without room, gets on slowly.
        let bytes = self.bodies.min(2 * MAX) * limits::BODY_CHUNKS_MAX * limits::BODY_CHUNK_BYTES_MAX;
        if unsent < MAX && self.held.resize(bytes).is_ok() {
            limits::BODY_CHUNK_BYTES_MAX
        } else {
            limits::BODY_CHUNK_BYTES_MIN
        }
    }

    // The library's own versions of these log a warning for whatever a server does to an agent.

    fn p2_error_from_hyper(&mut self, _error: &hyper::Error) -> p2::ErrorCode {
        p2::ErrorCode::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, _error: &std::io::Error) -> p2::ErrorCode {
        p2::ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, _error: &std::io::Error) -> p2::ErrorCode {
        p2::ErrorCode::TlsProtocolError
    }
}
