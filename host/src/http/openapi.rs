//! `/openapi.json`, generated from the handlers.

use std::sync::Arc;

use axum::Extension;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::Modify;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

/// What stands around the routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "agent-host", description = "Enqueue tasks, read their results, deploy agents."),
    modifiers(&Tokens),
    security((), ("token" = [])),
    tags(
        (name = "tasks", description = "Submit tasks, follow and cancel them"),
        (name = "agents", description = "Deploy agents and see how they are"),
        (name = "dead letters", description = "See why tasks failed for good, run them again, drop them"),
        (name = "operation", description = "Health and metrics"),
    ),
)]
pub(crate) struct Description;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The submit, read or admin token, where the host has one."))
            .build();
        document.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The document's text.
#[derive(Clone)]
pub(crate) struct Document(pub(crate) Arc<str>);

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value)),
)]
pub(crate) async fn document(Extension(Document(text)): Extension<Document>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response()
}
