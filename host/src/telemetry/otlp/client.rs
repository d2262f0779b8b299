//! The client of a collector: one request, tried again where that may help.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use url::{Host, Url};

use super::Target;

/// How long connecting may take; the whole request has the target's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait before a request is tried again for the first time; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// What a request is in, and its answer.
const PROTOBUF: &str = "application/x-protobuf";
/// The most of an answer that is read; those of collectors have a number and a sentence. A longer one is as good as empty.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// The most of what a collector says that is logged. Nothing depends on it.
const ANSWER_CHARS_MAX: usize = 200;
/// How often it is logged that a collector does not take what it is sent.
const LOGGED_EVERY: Duration = Duration::from_secs(60);

/// Why a collector did not take something.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// No client can be made, mostly for want of certificates.
    #[error("no client for the collector can be made")]
    Client(#[source] reqwest::Error),
    /// It cannot be reached, or breaks off.
    #[error("the collector cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It answers, and refuses.
    #[error("the collector answers {status}: {text}")]
    Refused {
        /// Its answer's status.
        status: StatusCode,
        /// Its answer, where there was one.
        text: String,
    },
    /// It takes a part.
    #[error("the collector leaves {left} of what it is sent: {text}")]
    Partly {
        /// How many spans, or points of metrics, it does not take.
        left: u64,
        /// Its reason, where it has one.
        text: String,
    },
    /// It takes too long.
    #[error("the collector did not take it within {} ms", .0.as_millis())]
    TooSlow(Duration),
    /// Sending ended before there was an answer, as it does where the process ends.
    #[error("sending was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
}

impl OtlpError {
    /// How many of so many sent ones are lost.
    pub(super) fn lost(&self, sent: u64) -> u64 {
        match self {
            Self::Partly { left, .. } => sent.min(*left),
            _ => sent,
        }
    }
}

/// What a collector says of a request that it takes.
pub(super) trait Answer: Message + Default {
    /// How many it does not take after all, and why.
    fn left(self) -> (i64, String);
}

impl Answer for ExportTraceServiceResponse {
    fn left(self) -> (i64, String) {
        let partial = self.partial_success.unwrap_or_default();
        (partial.rejected_spans, partial.error_message)
    }
}

impl Answer for ExportMetricsServiceResponse {
    fn left(self) -> (i64, String) {
        let partial = self.partial_success.unwrap_or_default();
        (partial.rejected_data_points, partial.error_message)
    }
}

/// Sends protobuf to one address.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    target: Target,
}

impl Client {
    pub(super) fn new(target: &Target) -> Result<Self, OtlpError> {
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // The headers are for this collector and nobody else.
            .redirect(reqwest::redirect::Policy::none());
        if target.url.scheme() == "http" {
            // The machine's certificates are not needed, and may not be there.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        if is_of_this_machine(&target.url) {
            // A proxy elsewhere could not reach it, and is not to see the headers.
            builder = builder.no_proxy();
        }
        Ok(Self { http: builder.build().map_err(OtlpError::Client)?, target: target.clone() })
    }

    /// Sends it, and again after a while where the collector is busy or away, within the target's timeout in all.
    pub(super) async fn post<A: Answer>(&self, message: &impl Message) -> Result<(), OtlpError> {
        let body = Bytes::from(message.encode_to_vec());
        let timeout = self.target.timeout;
        let until = Instant::now() + timeout;
        let trying = async {
            let mut pause = RETRY_FIRST;
            loop {
                let (error, after) = match self.once::<A>(body.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(failed) => failed,
                };
                // It may say any number of seconds, also one beyond all clocks.
                let left = until.saturating_duration_since(Instant::now());
                let wait = after.map(|after| after.max(pause)).filter(|wait| *wait < left);
                let Some(wait) = wait else { return Err(error) };
                tokio::time::sleep(wait).await;
                pause *= 2;
            }
        };
        tokio::time::timeout(timeout, trying).await.unwrap_or(Err(OtlpError::TooSlow(timeout)))
    }

    /// Sends it once. With the error comes how long to wait at least before another try, where one may help.
    async fn once<A: Answer>(&self, body: Bytes) -> Result<(), (OtlpError, Option<Duration>)> {
        let request = self.http.post(self.target.url.clone()).headers(self.target.headers.clone());
        let sent = request.header(CONTENT_TYPE, PROTOBUF).body(body).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Err((OtlpError::Unreachable(error.without_url()), Some(Duration::ZERO))),
        };
        let status = response.status();
        if status.is_success() {
            // Sent again it would be there twice, says the specification.
            return taken::<A>(response).await.map_err(|error| (error, None));
        }
        // Those four, says the specification of OTLP.
        let may_help = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let after = may_help.then(|| Duration::from_secs(seconds.unwrap_or(0)));
        let text = start_of(response).await;
        Err((OtlpError::Refused { status, text }, after))
    }
}

/// Whether an address is this machine's own.
fn is_of_this_machine(url: &Url) -> bool {
    url.host().is_some_and(|host| match host {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    })
}

/// What a collector that takes a request left of it. An answer that is none says nothing.
async fn taken<A: Answer>(mut response: reqwest::Response) -> Result<(), OtlpError> {
    if response.headers().get(CONTENT_TYPE).is_none_or(|of| !of.as_bytes().starts_with(PROTOBUF.as_bytes())) {
        return Ok(());
    }
    let mut body = BytesMut::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
            return Ok(());
        }
        body.extend_from_slice(&chunk);
    }
    let (left, text) = A::decode(body).unwrap_or_default().left();
    match u64::try_from(left) {
        Ok(left @ 1..) => Err(OtlpError::Partly { left, text: shown(&text) }),
        _ => Ok(()),
    }
}

/// The start of an answer that is text.
async fn start_of(mut response: reqwest::Response) -> String {
    shown(&String::from_utf8_lossy(&response.chunk().await.ok().flatten().unwrap_or_default()))
}

/// What a collector says, as it may go into a log line: it is somebody else's.
fn shown(text: &str) -> String {
    let text: String = text.chars().take(ANSWER_CHARS_MAX).collect();
    crate::text::escaped(&text, 4 * ANSWER_CHARS_MAX)
}

/// Says now and then in the log how sending goes.
#[derive(Debug)]
pub(super) struct Health {
    what: &'static str,
    state: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Whether it has been said, and not yet that it is over.
    is_known: bool,
    /// When it was last said.
    said: Option<Instant>,
    /// Spans that were lost since.
    lost: u64,
}

/// What there is to say, with the spans that were lost since something was said.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Failing(u64),
    Over(u64),
}

impl Trouble {
    /// Notes how a request went. A collector that takes every other request is said to fail, and not to, once a minute.
    fn note(&mut self, now: Instant, failed: bool, lost: u64) -> Option<News> {
        self.lost = self.lost.saturating_add(lost);
        if !failed {
            return std::mem::take(&mut self.is_known).then(|| News::Over(std::mem::take(&mut self.lost)));
        }
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < LOGGED_EVERY) {
            return None;
        }
        (self.is_known, self.said) = (true, Some(now));
        Some(News::Failing(std::mem::take(&mut self.lost)))
    }
}

impl Health {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, state: Mutex::default() }
    }

    /// Notes how a request went, and how many spans are lost with it.
    pub(super) fn note(&self, error: Option<&OtlpError>, lost: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let news = state.note(Instant::now(), error.is_some(), lost);
        drop(state);
        let error = error.map(|error| error as &dyn std::error::Error);
        match news {
            Some(News::Failing(lost)) => tracing::warn!(error, lost, "{} do not reach the collector", self.what),
            Some(News::Over(lost)) => tracing::info!(lost, "the collector takes {} again", self.what),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
