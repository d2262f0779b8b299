//! Outbound HTTP to the origins that the manifest's `allowed_outbound_hosts` names. An address that is not public,
//! `localhost` included, must be named as such. Redirects are responses like any other: whoever follows one sends a
//! request that is checked anew. A response is read whole, into the agent's memory.
//!
//! ```no_run
//! use agent_sdk::http::Request;
//!
//! # fn example() -> Result<(), agent_sdk::Failure> {
//! let response = Request::get("https://api.example.com/rates").header("accept", "application/json").send()?;
//! let rates: serde_json::Value = response.ok()?.json()?;
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types as raw;
use crate::bindings::wasi::io::streams::StreamError;

/// The largest part of a body that one `blocking-write-and-flush` takes, by the definition of wasi:io.
const WRITE_BYTES_MAX: usize = 4096;

/// How much of a response one call reads: a large part of a typical answer, small beside an agent's memory.
const READ_BYTES: u64 = 64 * 1024;

/// Why a request gave no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL, a header or the method is malformed.
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// The manifest does not allow this host.
    #[error("the request to `{0}` was denied: add it to `allowed_outbound_hosts` under `[grants]` in agent.toml")]
    Denied(String),
    /// The other side could not be reached, or did not answer in time.
    #[error("the request failed on its way: {0}")]
    Unavailable(String),
    /// The exchange broke a rule of the protocol or a limit.
    #[error("the request failed: {0}")]
    Protocol(String),
    /// [`Response::ok`]: the status is no success.
    #[error("the response has the status {0}")]
    Status(u16),
    /// [`Response::json`]: the body is not the expected JSON.
    #[error("the response is not the expected JSON: {0}")]
    Json(String),
}

impl Error {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// A request in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is sent before `send`"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

impl Request {
    /// A request with any method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// POST.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// PUT.
    pub fn put(url: impl Into<String>) -> Self {
        Self::new("PUT", url)
    }

    /// DELETE.
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new("DELETE", url)
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Waits this long at most for the connection, and as long for the first byte of the response. The task's own
    /// timeout holds besides.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the request and reads the whole response. Any status is a response; see [`Response::ok`].
    pub fn send(self) -> Result<Response, Error> {
        let url = Url::parse(&self.url)?;
        let fields: Vec<(String, Vec<u8>)> =
            self.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        let fields = raw::Fields::from_list(&fields).map_err(|error| Error::Malformed(error.to_string()))?;

        let request = raw::OutgoingRequest::new(fields);
        let malformed = |what: &'static str| move |()| Error::Malformed(format!("not a valid {what}"));
        request.set_method(&method(&self.method)).map_err(malformed("method"))?;
        let scheme = if url.is_tls { raw::Scheme::Https } else { raw::Scheme::Http };
        request.set_scheme(Some(&scheme)).map_err(malformed("scheme"))?;
        request.set_authority(Some(url.authority)).map_err(malformed("host"))?;
        request.set_path_with_query(Some(&url.path_with_query)).map_err(malformed("path"))?;

        let options = self.timeout.map(|timeout| {
            let options = raw::RequestOptions::new();
            let nanoseconds = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            // A host that does not support a timeout says so; the task's own timeout then holds alone.
            let _ = options.set_connect_timeout(Some(nanoseconds));
            let _ = options.set_first_byte_timeout(Some(nanoseconds));
            options
        });

        let body = request.body().map_err(|()| Error::Protocol("the body was taken already".into()))?;
        let denied = |code| from_code(code, url.authority);
        let future = outgoing_handler::handle(request, options).map_err(denied)?;
        // Whoever refuses the request, or answers early, does not read the body: what they say counts.
        let _ = write(body, &self.body);

        future.subscribe().block();
        let response = future
            .get()
            .and_then(Result::ok)
            .ok_or_else(|| Error::Protocol("the host gave no response".into()))?
            .map_err(denied)?;
        read(&response)
    }
}

/// A response, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Header names and values; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The response where its status is a success (2xx), an error otherwise. As a task's failure, the statuses that
    /// may pass (408, 425, 429 and 5xx) become a retry.
    pub fn ok(self) -> Result<Self, Error> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(Error::Status(self.status)) }
    }

    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Json(error.to_string()))
    }
}

fn method(name: &str) -> raw::Method {
    match name {
        "GET" => raw::Method::Get,
        "HEAD" => raw::Method::Head,
        "POST" => raw::Method::Post,
        "PUT" => raw::Method::Put,
        "DELETE" => raw::Method::Delete,
        "OPTIONS" => raw::Method::Options,
        "PATCH" => raw::Method::Patch,
        other => raw::Method::Other(other.to_owned()),
    }
}

fn write(body: raw::OutgoingBody, bytes: &[u8]) -> Result<(), Error> {
    if !bytes.is_empty() {
        let stream = body.write().map_err(|()| Error::Protocol("the body was taken already".into()))?;
        for part in bytes.chunks(WRITE_BYTES_MAX) {
            match stream.blocking_write_and_flush(part) {
                Ok(()) => {}
                // The other side has stopped reading; its response says why.
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(Error::Unavailable(error.to_debug_string()));
                }
            }
        }
    }
    raw::OutgoingBody::finish(body, None).map_err(|code| Error::Protocol(code.to_string()))
}

fn read(response: &raw::IncomingResponse) -> Result<Response, Error> {
    let headers = response
        .headers()
        .entries()
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let consumed = |()| Error::Protocol("the response was taken already".into());
    let incoming = response.consume().map_err(consumed)?;
    let stream = incoming.stream().map_err(consumed)?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(part) => body.extend(part),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(Error::Unavailable(error.to_debug_string()));
            }
        }
    }
    Ok(Response { status: response.status(), headers, body })
}

/// Sorts the many codes of wasi:http by what a caller can do about them.
fn from_code(code: raw::ErrorCode, authority: &str) -> Error {
    use raw::ErrorCode as Code;
    match code {
        Code::HttpRequestDenied | Code::DestinationIpProhibited => Error::Denied(authority.to_owned()),
        Code::HttpRequestUriInvalid | Code::HttpRequestMethodInvalid => Error::Malformed(code.to_string()),
        Code::DnsTimeout
        | Code::DnsError(_)
        | Code::DestinationNotFound
        | Code::DestinationUnavailable
        | Code::DestinationIpUnroutable
        | Code::ConnectionRefused
        | Code::ConnectionTerminated
        | Code::ConnectionTimeout
        | Code::ConnectionReadTimeout
        | Code::ConnectionWriteTimeout
        | Code::ConnectionLimitReached
        | Code::HttpResponseIncomplete
        | Code::HttpResponseTimeout => Error::Unavailable(code.to_string()),
        code => Error::Protocol(code.to_string()),
    }
}

/// The parts of a URL that wasi:http takes one by one.
#[derive(Debug, PartialEq, Eq)]
struct Url<'url> {
    is_tls: bool,
    authority: &'url str,
    path_with_query: String,
}

impl<'url> Url<'url> {
    fn parse(url: &'url str) -> Result<Self, Error> {
        let (is_tls, rest) = if let Some(rest) = url.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = url.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err(Error::Malformed(format!("`{url}` does not start with http:// or https://")));
        };
        // A fragment is for the caller, never for the server.
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() {
            return Err(Error::Malformed(format!("`{url}` names no host")));
        }
        let path_with_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { is_tls, authority, path_with_query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn a_url_is_taken_apart() {
        let parts = |url| Url::parse(url).map(|url| (url.is_tls, url.authority.to_owned(), url.path_with_query));
        assert_eq!(parts("https://a.example:444/b?c=d#e"), Ok((true, "a.example:444".into(), "/b?c=d".into())));
        assert_eq!(parts("http://a.example"), Ok((false, "a.example".into(), "/".into())));
        assert_eq!(parts("http://a.example?b"), Ok((false, "a.example".into(), "/?b".into())));
        assert!(matches!(parts("ftp://a.example"), Err(Error::Malformed(_))));
        assert!(matches!(parts("https:///b"), Err(Error::Malformed(_))));
    }

    #[test]
    fn a_busy_server_is_tried_again_and_a_refusal_is_not() {
        let response = |status| Response { status, headers: Vec::new(), body: Vec::new() };
        assert!(response(204).ok().is_ok());
        assert!(matches!(Failure::from(response(503).ok().unwrap_err()), Failure::Retry { .. }));
        assert!(matches!(Failure::from(response(404).ok().unwrap_err()), Failure::Reject { .. }));
        let denied = from_code(raw::ErrorCode::HttpRequestDenied, "a.example");
        assert!(matches!(Failure::from(denied), Failure::Reject { .. }));
    }
}
