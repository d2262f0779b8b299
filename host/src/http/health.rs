//! `/healthz`, `/readyz`, `/metrics`: for whoever operates the host. Open to all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::ApiState;
use super::problem::{Kind, Problem, ProblemDocument};
use crate::delivery::Connectivity;

/// Media type of Prometheus' text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The host is well.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct HealthView {
    /// `alive` or `ready`.
    status: &'static str,
}

/// Whether the process answers at all.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    responses((status = 200, description = "Alive", body = HealthView)),
)]
pub(crate) async fn alive() -> Json<HealthView> {
    Json(HealthView { status: "alive" })
}

/// Whether the host consumes: the broker is connected and every deployed agent has a live consumer.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "Ready", body = HealthView),
        (status = 503, description = "Not ready, and why", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn ready(State(api): State<Arc<ApiState>>) -> Result<Json<HealthView>, Problem> {
    let not_ready = |why: &str| Err(Problem::new(Kind::NotReady, why));
    if api.ports.draining.is_cancelled() {
        return not_ready("the host is draining: it takes no new tasks and will exit");
    }
    // A blocked broker only holds publishers back; deliveries go on.
    if *api.ports.connectivity.borrow() == Connectivity::Down {
        return not_ready("the broker is not connected");
    }
    if !api.ports.agents.all_consuming() {
        return not_ready("not every deployed agent has a live consumer yet");
    }
    Ok(Json(HealthView { status: "ready" }))
}

/// Metrics, in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain")),
)]
pub(crate) async fn metrics(State(api): State<Arc<ApiState>>) -> Response {
    ([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], (api.ports.metrics)()).into_response()
}
