//! Requests over HTTP, which the test answers.

use super::with;
use crate::http::{Error, Response};

/// A request that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its method, such as `GET`.
    pub method: String,
    /// Where it went.
    pub url: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

/// Asks the test, which may look at its world meanwhile.
#[expect(clippy::panic, reason = "the test lacks something, and is to say so")]
pub(crate) fn send(request: &Sent) -> Result<Response, Error> {
    let Some(mut answer) = with(|state| state.http.take()) else {
        panic!("nothing answers {} {}; give the test's World an answer_http", request.method, request.url);
    };
    let answered = answer(request);
    with(|state| {
        state.http.get_or_insert(answer);
    });
    answered
}
