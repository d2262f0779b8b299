//! One request, from the check of its addresses to the response's body.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use url::Host;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::body::{Fault, RequestBody, ResponseBody, Taken};
use super::limits::{ADDRESSES_TRIED_MAX, CONNECT_TIMEOUT, RESPONSE_FIELDS_MAX, RESPONSE_HEAD_BYTES_MAX};
use super::network::{BoxedStream, NetworkError};
use super::{Answer, Outbound, addresses};
use crate::capability::chain;
use crate::capability::log::{GuestLog, Level};
use crate::manifest::{Origin, OutboundGrant, Scheme};

/// Fields that are for one connection only; what concerns this one the host says itself.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// How long the parts of an exchange may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
    /// When the task is over, whatever else was asked for.
    ends_at: Instant,
}

impl Times {
    pub(super) fn new(options: Option<RequestOptions>, ends_at: Instant) -> Self {
        let options = options.unwrap_or_default();
        let left = ends_at.saturating_duration_since(Instant::now());
        Self {
            connect: options.connect_timeout.unwrap_or(CONNECT_TIMEOUT).min(left),
            first_byte: options.first_byte_timeout.unwrap_or(left).min(left),
            between_bytes: options.between_bytes_timeout.unwrap_or(left).min(left),
            ends_at,
        }
    }
}

/// A request that was admitted.
pub(super) struct Exchange {
    pub(super) origin: Origin,
    pub(super) times: Times,
    pub(super) taken: Arc<Taken>,
    pub(super) outbound: Arc<Outbound>,
    pub(super) log: Arc<GuestLog>,
    /// Held until the exchange is over.
    pub(super) place: OwnedSemaphorePermit,
}

impl Exchange {
    /// Sends it.
    pub(super) async fn send(
        self,
        request: Request<WasiBody>,
        grants: &[OutboundGrant],
        traceparent: Option<HeaderValue>,
    ) -> Result<Answer, Error> {
        let until = Instant::now() + self.times.connect;
        let connecting = timeout_at(until, self.connect(grants, until)).await;
        let (stream, slot) = connecting.map_err(|_elapsed| Error::ConnectionTimeout)??;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(RESPONSE_HEAD_BYTES_MAX)
            .max_headers(RESPONSE_FIELDS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| from_hyper(&error))?;
        let fault = Fault::default();
        let (mut head, body) = request.into_parts();
        self.rewrite(&mut head, traceparent)?;
        let body = RequestBody::new(body, Arc::clone(&self.taken), Arc::clone(&fault));
        // Boxed: it moves on into the task that goes on with it.
        let mut connection = Box::pin(connection);
        let mut is_over = false;
        let answered = async {
            let mut sent = pin!(sender.send_request(Request::from_parts(head, body)));
            loop {
                tokio::select! {
                    biased;
                    answered = &mut sent => return answered,
                    ended = &mut connection, if !is_over => {
                        is_over = true;
                        ended?;
                    }
                }
            }
        };
        let answered = timeout(self.times.first_byte, answered).await;
        let response = match answered {
            Ok(Ok(response)) => response,
            // What the guest did to the body says more than that it broke off.
            Ok(Err(error)) => {
                let fault = fault.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Err(fault.unwrap_or_else(|| from_hyper(&error)));
            }
            Err(_elapsed) => return Err(Error::HttpResponseTimeout),
        };
        let Self { times, taken, place, .. } = self;
        let response =
            response.map(|body| ResponseBody::new(body, taken, times.between_bytes, times.ends_at).boxed_unsync());
        let going_on = async move {
            let _held = (slot, place);
            if !is_over && let Err(error) = connection.await {
                // The body's reader sees it too, where it matters.
                tracing::debug!(%error, "an outbound connection ended early");
            }
            Ok(())
        };
        Ok((response, Box::new(going_on)))
    }

    /// Puts the request into the form that goes over a connection to its server.
    fn rewrite(&self, head: &mut http::request::Parts, traceparent: Option<HeaderValue>) -> Result<(), Error> {
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        // The origin form and no other: with an absolute URL here a server might act as a proxy.
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        head.uri = Uri::try_from(path).map_err(|_| Error::HttpRequestUriInvalid)?;
        for name in &HOP_BY_HOP {
            head.headers.remove(name);
        }
        let host = HeaderValue::try_from(self.origin.authority()).map_err(|_| Error::HttpRequestUriInvalid)?;
        head.headers.insert(header::HOST, host);
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some(traceparent) = traceparent
            && !head.headers.contains_key(TRACEPARENT)
        {
            head.headers.insert(TRACEPARENT, traceparent);
        }
        Ok(())
    }

    /// A connection to an address that was checked, and a slot of the process for it.
    async fn connect(
        &self,
        grants: &[OutboundGrant],
        until: Instant,
    ) -> Result<(BoxedStream, OwnedSemaphorePermit), Error> {
        let slots = Arc::clone(&self.outbound.connections);
        let slot = timeout_at(until, slots.acquire_owned()).await;
        let slot = slot.ok().and_then(Result::ok).ok_or(Error::ConnectionLimitReached)?;
        let mut permitted = self.permitted(self.resolve().await?, grants)?;
        permitted.truncate(ADDRESSES_TRIED_MAX);
        let tls = (self.origin.scheme == Scheme::Https).then_some(&self.origin.host);
        let mut last = Error::DestinationUnavailable;
        for (tried, address) in permitted.iter().enumerate() {
            // An address that does not answer leaves time for the others.
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(permitted.len().saturating_sub(tried)).unwrap_or(1).max(1);
            let address = SocketAddr::new(*address, self.origin.port);
            match timeout(share, self.outbound.network.connect(address, tls)).await {
                Ok(Ok(stream)) => return Ok((stream, slot)),
                Ok(Err(error)) => {
                    self.note(&format!("connecting to {}: {}", self.origin, chain(&error)));
                    last = from_network(&error);
                }
                Err(_elapsed) => last = Error::ConnectionTimeout,
            }
        }
        Err(last)
    }

    async fn resolve(&self) -> Result<Vec<IpAddr>, Error> {
        match &self.origin.host {
            Host::Ipv4(address) => Ok(vec![IpAddr::V4(*address)]),
            Host::Ipv6(address) => Ok(vec![IpAddr::V6(*address)]),
            Host::Domain(_) if self.origin.is_localhost() => {
                Ok(vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()])
            }
            Host::Domain(name) => self.outbound.network.resolve(name).await.map_err(|error| {
                self.note(&format!("looking up {name}: {}", chain(&error)));
                from_network(&error)
            }),
        }
    }

    /// Of the addresses, those that may be connected to. They are the ones that are connected to: nothing is looked up again.
    fn permitted(&self, found: Vec<IpAddr>, grants: &[OutboundGrant]) -> Result<Vec<IpAddr>, Error> {
        let mut refused = None;
        let mut permitted = Vec::new();
        for address in found.into_iter().map(|address| address.to_canonical()) {
            match addresses::special(address) {
                Some(what) if !grants.iter().any(|grant| grant.names_address(&self.origin, address)) => {
                    refused = Some((address, what));
                }
                _ => permitted.push(address),
            }
        }
        match refused {
            Some((address, what)) if permitted.is_empty() => {
                let line = SocketAddr::new(address, self.origin.port);
                let scheme = self.origin.scheme.as_str();
                self.note(&format!(
                    "the request to {} was denied: {address} is {what} address; to allow it, add \"{scheme}://{line}\" to \
                     allowed_outbound_hosts under [grants] in agent.toml",
                    self.origin
                ));
                Err(Error::DestinationIpProhibited)
            }
            _ => Ok(permitted),
        }
    }

    /// Says in the task's log what the guest's error code cannot.
    fn note(&self, message: &str) {
        self.log.line(Level::Warn, "wasi:http", message);
    }
}

/// The trace that a request belongs to.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

fn from_network(error: &NetworkError) -> Error {
    match error {
        NetworkError::NameNotFound(_) => Error::DnsError { rcode: None, info_code: None },
        NetworkError::Refused(_) => Error::ConnectionRefused,
        NetworkError::Unreachable(_) => Error::DestinationUnavailable,
        NetworkError::Certificate(_) => Error::TlsCertificateError,
        NetworkError::Tls(_) => Error::TlsProtocolError,
    }
}

/// hyper's error as one of wasi:http's.
pub(super) fn from_hyper(error: &hyper::Error) -> Error {
    if error.is_timeout() {
        Error::HttpResponseTimeout
    } else if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(u32::try_from(RESPONSE_HEAD_BYTES_MAX).ok())
    } else if error.is_incomplete_message() || is_io(error, Some(std::io::ErrorKind::UnexpectedEof)) {
        Error::HttpResponseIncomplete
    } else if error.is_closed() || error.is_canceled() || error.is_body_write_aborted() || is_io(error, None) {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

/// Whether it comes of the stream, and of this kind of failure.
fn is_io(error: &hyper::Error, kind: Option<std::io::ErrorKind>) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| kind.is_none_or(|kind| cause.kind() == kind))
}

/// The result of an exchange without its response.
pub(super) fn outcome(result: &Result<Answer, Error>) -> &'static str {
    match result {
        Ok((response, _)) => match response_class(response) {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        },
        Err(Error::HttpRequestDenied | Error::DestinationIpProhibited) => "denied",
        Err(_) => "failed",
    }
}

fn response_class(response: &Response<WasiBody>) -> u16 {
    response.status().as_u16() / 100
}
