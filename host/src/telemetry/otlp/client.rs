//! The client of a collector: one request, tried again where that may help.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use prost::Message;

use super::Target;

/// How long connecting may take; the whole request has the target's own timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait before a request is tried again for the first time; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The most of what a collector says to that is read. Nothing depends on it.
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
    /// It takes too long.
    #[error("the collector did not take it within {} ms", .0.as_millis())]
    TooSlow(Duration),
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
        Ok(Self { http: builder.build().map_err(OtlpError::Client)?, target: target.clone() })
    }

    /// Sends it, and again after a while where the collector is busy or away, within the target's timeout in all.
    pub(super) async fn post(&self, message: &impl Message) -> Result<(), OtlpError> {
        let body = Bytes::from(message.encode_to_vec());
        let timeout = self.target.timeout;
        let until = Instant::now() + timeout;
        let trying = async {
            let mut pause = RETRY_FIRST;
            loop {
                let (error, after) = match self.once(body.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(failed) => failed,
                };
                let wait = after.map(|after| after.max(pause)).filter(|wait| Instant::now() + *wait < until);
                let Some(wait) = wait else { return Err(error) };
                tokio::time::sleep(wait).await;
                pause *= 2;
            }
        };
        tokio::time::timeout(timeout, trying).await.unwrap_or(Err(OtlpError::TooSlow(timeout)))
    }

    /// Sends it once. With the error comes how long to wait at least before another try, where one may help.
    async fn once(&self, body: Bytes) -> Result<(), (OtlpError, Option<Duration>)> {
        let request = self.http.post(self.target.url.clone()).headers(self.target.headers.clone());
        let sent = request.header(CONTENT_TYPE, "application/x-protobuf").body(body).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Err((OtlpError::Unreachable(error.without_url()), Some(Duration::ZERO))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        // Those four, says the specification of OTLP.
        let may_help = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let after = may_help.then(|| Duration::from_secs(seconds.unwrap_or(0)));
        let text = start_of(response).await;
        Err((OtlpError::Refused { status, text }, after))
    }
}

/// The start of an answer that is text. It is somebody else's, and goes into a log line.
async fn start_of(mut response: reqwest::Response) -> String {
    let chunk = response.chunk().await.ok().flatten().unwrap_or_default();
    let text: String = String::from_utf8_lossy(&chunk).chars().take(ANSWER_CHARS_MAX).collect();
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
    /// When it was last said.
    said: Option<Instant>,
    /// Spans that were lost since.
    lost: u64,
}

impl Health {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, state: Mutex::default() }
    }

    /// Notes how a request went, and how many spans are lost with it.
    pub(super) fn note(&self, error: Option<&OtlpError>, lost: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lost = state.lost.saturating_add(lost);
        let Some(error) = error else {
            if state.said.take().is_some() {
                tracing::info!(lost = std::mem::take(&mut state.lost), "the collector takes {} again", self.what);
            }
            return;
        };
        if state.said.is_some_and(|said| said.elapsed() < LOGGED_EVERY) {
            return;
        }
        state.said = Some(Instant::now());
        let lost = std::mem::take(&mut state.lost);
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, lost, "{} do not reach the collector", self.what);
    }
}
