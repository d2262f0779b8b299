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

#[cfg(any(test, target_family = "wasm"))]
#[cfg_attr(not(target_family = "wasm"), expect(dead_code, reason = "of it the tests look at the codes alone"))]
mod wasi;

use std::time::Duration;

use serde::de::DeserializeOwned;

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
        #[cfg(target_family = "wasm")]
        return wasi::send(&url, self.method, self.headers, &self.body, self.timeout);
        #[cfg(not(target_family = "wasm"))]
        {
            let _ = url;
            let Self { method, url, headers, body, timeout: _ } = self;
            crate::testing::http::send(&crate::testing::Sent { method, url, headers, body })
        }
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
        let denied = wasi::from_code(wasi::raw::ErrorCode::HttpRequestDenied, "a.example");
        assert!(matches!(Failure::from(denied), Failure::Reject { .. }));
    }
}
