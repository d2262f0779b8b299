//! Outbound HTTP on a tape: what the agent asked for and was given, not what went over the line.
//!
//! Requests overlap, so that each has its own order: its head, the parts of its body, the head of the answer, the parts of its
//! body. Fields that carry credentials are left out of what is written down, and so are not compared.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use serde::{Deserialize, Serialize};
use wasmtime_wasi_http::{Error, WasiBody};

use super::Tape;
use super::forms::blob::{Blob, Lent};
use super::tape::Side;
use crate::capability::secrets::HIDDEN;

const SEND: &str = "http.send";
const ANSWER: &str = "http.answer";
const SENT: &str = "http.sent";
const BODY: &str = "http.body";

/// Fields of requests that carry credentials and nothing else.
const CREDENTIALS: [HeaderName; 5] = [
    AUTHORIZATION,
    COOKIE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-auth-token"),
];

type Answer = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// The head of a response.
#[derive(Serialize, Deserialize)]
struct Head {
    status: u16,
    headers: Vec<(String, Blob)>,
    /// Whether there is no body.
    is_empty: bool,
}

/// A part of a response's body.
#[derive(Serialize, Deserialize)]
struct Part {
    kind: Kind,
    /// Whether it is known to be the last.
    is_last: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Data(Blob),
    Trailers(Vec<(String, Blob)>),
    End,
    Failed(String),
}

fn fields(headers: &HeaderMap) -> Vec<(&str, Lent<'_>)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = if CREDENTIALS.contains(name) { HIDDEN.as_bytes() } else { value.as_bytes() };
            (name.as_str(), Lent(value))
        })
        .collect()
}

fn owned(headers: &HeaderMap) -> Vec<(String, Blob)> {
    headers.iter().map(|(name, value)| (name.to_string(), Blob(value.as_bytes().to_vec()))).collect()
}

fn map(fields: Vec<(String, Blob)>) -> HeaderMap {
    let field = |(name, Blob(value)): (String, Blob)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::from_bytes(&value).ok()?))
    };
    fields.into_iter().filter_map(field).collect()
}

impl Tape {
    /// The number of one more request.
    pub(in crate::capability) fn next_exchange(&self) -> u64 {
        match &self.side {
            Side::Writes(writer) => writer.next_exchange(),
            Side::Plays(player) => player.next_exchange(),
        }
    }

    /// A request, sent by `send`, or answered by the tape.
    pub(in crate::capability) async fn exchange<F, S>(
        self: Arc<Self>,
        number: u64,
        request: Request<WasiBody>,
        send: F,
    ) -> Result<Answer, Error>
    where
        F: FnOnce(Request<WasiBody>) -> S + Send + 'static,
        S: Future<Output = Result<Answer, Error>> + Send,
    {
        let uri = request.uri().to_string();
        let asked = (number, request.method().as_str(), uri, fields(request.headers()));
        match &self.side {
            Side::Writes(writer) => {
                // Apart from its answer, which the agent may not wait for.
                writer.note(SEND, &asked, &());
                drop(asked);
                let tape = Arc::clone(&self);
                let answer = send(request.map(|body| SentBody { tape, number, inner: body }.boxed_unsync())).await;
                let written = match &answer {
                    Ok((response, _)) => Ok(Head {
                        status: response.status().as_u16(),
                        headers: owned(response.headers()),
                        is_empty: response.body().is_end_stream(),
                    }),
                    Err(error) => Err(code(error)),
                };
                writer.note(ANSWER, &(number,), &written);
                let tape = Arc::clone(&self);
                answer.map(|(response, going_on)| {
                    (response.map(|body| WrittenBody { tape, number, inner: body }.boxed_unsync()), going_on)
                })
            }
            Side::Plays(player) => {
                let is_same: Option<()> =
                    player.answer_of_exchange(number, SEND, &asked).and_then(super::player::Answer::read);
                drop(asked);
                if is_same.is_none() {
                    return std::future::pending().await;
                }
                let answer: Option<Result<Head, String>> =
                    player.next_part(number, ANSWER).and_then(super::player::Answer::read);
                let Head { status, headers, is_empty } = match answer {
                    Some(Ok(head)) => head,
                    Some(Err(code)) => return Err(error(&code)),
                    None => {
                        player.unanswered(number, SEND);
                        std::future::pending().await
                    }
                };
                let tape = Arc::clone(&self);
                let mut response = Response::new(PlayedBody { tape, number, is_end: is_empty }.boxed_unsync());
                *response.status_mut() = http::StatusCode::from_u16(status).map_err(|_| Error::HttpProtocolError)?;
                *response.headers_mut() = map(headers);
                let tape = Arc::clone(&self);
                let going_on = async move {
                    // With it the request's place among those of the task.
                    let _send = send;
                    if let Ok(body) = request.into_body().collect().await
                        && let Side::Plays(player) = &tape.side
                    {
                        player.carried(number, SENT, &body.to_bytes());
                    }
                    Ok(())
                };
                Ok((response, Box::new(going_on)))
            }
        }
    }
}

/// A request's body that is written down as it goes.
struct SentBody {
    tape: Arc<Tape>,
    number: u64,
    inner: WasiBody,
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Side::Writes(writer)) = (&polled, &self.tape.side)
            && let Some(data) = frame.data_ref()
        {
            writer.note(SENT, &(self.number, Lent(data)), &());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body that is written down as it comes.
struct WrittenBody {
    tape: Arc<Tape>,
    number: u64,
    inner: WasiBody,
}

impl Body for WrittenBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let (Poll::Ready(ready), Side::Writes(writer)) = (&polled, &self.tape.side) {
            let kind = match ready {
                None => Kind::End,
                Some(Err(error)) => Kind::Failed(code(error)),
                Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                    (Some(data), _) => Kind::Data(Blob(data.to_vec())),
                    (None, Some(trailers)) => Kind::Trailers(owned(trailers)),
                    (None, None) => return polled,
                },
            };
            writer.note(BODY, &(self.number,), &Part { kind, is_last: self.inner.is_end_stream() });
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body from a recording.
struct PlayedBody {
    tape: Arc<Tape>,
    number: u64,
    is_end: bool,
}

impl Body for PlayedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Side::Plays(player) = &self.tape.side else { return Poll::Ready(None) };
        // The recorded run waited for no more than there is.
        let part: Option<Part> = player.next_part(self.number, BODY).and_then(super::player::Answer::read);
        let Some(part) = part else { return Poll::Pending };
        self.is_end = part.is_last;
        Poll::Ready(match part.kind {
            Kind::Data(Blob(data)) => Some(Ok(Frame::data(data.into()))),
            Kind::Trailers(trailers) => Some(Ok(Frame::trailers(map(trailers)))),
            Kind::End => None,
            Kind::Failed(code) => Some(Err(error(&code))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_end
    }
}

/// Errors by name, those that a request can end with here; what is none of them is an internal error.
macro_rules! codes {
    ($($name:ident),* $(,)?) => {
        fn code(error: &Error) -> String {
            match error {
                $(Error::$name => stringify!($name),)*
                Error::DnsError { .. } => "DnsError",
                Error::HttpRequestBodySize(_) => "HttpRequestBodySize",
                Error::HttpResponseBodySize(_) => "HttpResponseBodySize",
                Error::HttpResponseHeaderSectionSize(_) => "HttpResponseHeaderSectionSize",
                _ => "InternalError",
            }
            .to_owned()
        }

        fn error(code: &str) -> Error {
            use crate::capability::outbound_http::limits;
            match code {
                $(stringify!($name) => Error::$name,)*
                "DnsError" => Error::DnsError { rcode: None, info_code: None },
                "HttpRequestBodySize" => Error::HttpRequestBodySize(Some(limits::REQUEST_BODY_BYTES_MAX)),
                "HttpResponseBodySize" => Error::HttpResponseBodySize(Some(limits::RESPONSE_BODY_BYTES_MAX)),
                "HttpResponseHeaderSectionSize" => {
                    Error::HttpResponseHeaderSectionSize(u32::try_from(limits::RESPONSE_HEAD_BYTES_MAX).ok())
                }
                _ => Error::InternalError(None),
            }
        }
    };
}

codes!(
    DestinationUnavailable,
    DestinationIpProhibited,
    ConnectionRefused,
    ConnectionTerminated,
    ConnectionTimeout,
    ConnectionReadTimeout,
    ConnectionLimitReached,
    TlsProtocolError,
    TlsCertificateError,
    HttpRequestDenied,
    HttpRequestUriInvalid,
    HttpResponseIncomplete,
    HttpResponseTimeout,
    HttpProtocolError,
);
