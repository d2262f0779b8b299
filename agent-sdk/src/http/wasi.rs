//! A request by way of `wasi:http`.

use std::time::Duration;

use super::{Error, Response, Url};
use crate::bindings::wasi::http::outgoing_handler;
pub(super) use crate::bindings::wasi::http::types as raw;
use crate::bindings::wasi::io::streams::StreamError;

/// The largest part of a body that one `blocking-write-and-flush` takes, by the definition of wasi:io.
const WRITE_BYTES_MAX: usize = 4096;

/// How much of a response one call reads: a large part of a typical answer, small beside an agent's memory.
const READ_BYTES: u64 = 64 * 1024;

/// Sends a request and reads the whole response.
pub(super) fn send(
    url: &Url<'_>,
    method: String,
    headers: Vec<(String, String)>,
    body_bytes: &[u8],
    timeout: Option<Duration>,
) -> Result<Response, Error> {
    let fields: Vec<(String, Vec<u8>)> = headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
    let fields = raw::Fields::from_list(&fields).map_err(|error| Error::Malformed(error.to_string()))?;

    let request = raw::OutgoingRequest::new(fields);
    let malformed = |what: &'static str| move |()| Error::Malformed(format!("not a valid {what}"));
    request.set_method(&method_of(&method)).map_err(malformed("method"))?;
    let scheme = if url.is_tls { raw::Scheme::Https } else { raw::Scheme::Http };
    request.set_scheme(Some(&scheme)).map_err(malformed("scheme"))?;
    request.set_authority(Some(url.authority)).map_err(malformed("host"))?;
    request.set_path_with_query(Some(&url.path_with_query)).map_err(malformed("path"))?;

    let options = timeout.map(|timeout| {
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
    let _ = write(body, body_bytes);

    future.subscribe().block();
    let response = future
        .get()
        .and_then(Result::ok)
        .ok_or_else(|| Error::Protocol("the host gave no response".into()))?
        .map_err(denied)?;
    read(&response)
}

fn method_of(name: &str) -> raw::Method {
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
pub(super) fn from_code(code: raw::ErrorCode, authority: &str) -> Error {
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
