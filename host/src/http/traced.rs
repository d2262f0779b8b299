//! Submissions as spans.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;

use super::ApiState;
use crate::trace::{Kind, TraceContext};

const TRACEPARENT: &str = "traceparent";

/// Tells of a submission, up to its answer. The handler finds the span's context where it looks for the client's.
pub(super) async fn submission(State(api): State<Arc<ApiState>>, mut request: Request, next: Next) -> Response {
    let client = request.headers().get(TRACEPARENT).and_then(|value| TraceContext::parse(value.to_str().ok()?));
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let mut span = api.ports.traces.start(client, Kind::Server, format_args!("POST {route}"));
    span.set("http.request.method", "POST");
    span.set("http.route", route);
    if let Some(context) = span.traceparent().and_then(|text| HeaderValue::try_from(text).ok()) {
        request.headers_mut().insert(TRACEPARENT, context);
    }
    let response = next.run(request).await;
    let status = response.status();
    span.set("http.response.status_code", status.as_u16());
    // What a client does wrong is no failure of the server's, say the conventions.
    if status.is_server_error() {
        span.fail(status.as_str().to_owned());
    }
    response
}
