//! `/v1/agents/{agent}/secrets`: set, see and remove an agent's secrets. Nothing here answers with a value.
//!
//! Each change runs in a task of its own, so that it is done to the end also where the client goes away meanwhile.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use http_body_util::LengthLimitError;

use super::ApiState;
use super::extract::{AgentPath, SecretPath};
use super::problem::{Kind, Problem, ProblemDocument};
use super::view::{Page, SecretSetView, SecretView};
use crate::catalog::{Actor, NewEvent};
use crate::secrets::{Secret, SecretAdmin, SecretName, SecretsError, VALUE_BYTES_MAX};
use crate::task::AgentName;

/// Why a request about secrets may fail. For the description alone: what is sent is a [`Problem`].
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive")]
enum Refused {
    /// Malformed: a name that is none, or a value that is empty or no UTF-8
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemDocument),
    /// No good token
    #[response(status = 401, content_type = "application/problem+json")]
    NoGoodToken(ProblemDocument),
    /// Not allowed
    #[response(status = 403, content_type = "application/problem+json")]
    NotAllowed(ProblemDocument),
    /// Unknown agent or secret
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(ProblemDocument),
    /// The store of secrets is away
    #[response(status = 503, content_type = "application/problem+json")]
    Away(ProblemDocument),
}

/// Why a secret may not be set, beside that.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive")]
enum NotSet {
    /// The host has no key to store it with, or the agent has 100 secrets
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemDocument),
    /// The value is larger than 64 KiB
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDocument),
}

/// The secrets of an agent: those that are stored, and those that its active revision requires. Without their values.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/secrets",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name")),
    responses((status = 200, description = "All of them, in name order", body = Page<SecretView>), Refused),
)]
pub(crate) async fn list(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
) -> Result<Json<Page<SecretView>>, Problem> {
    let deployed = api.ports.agents.get(&agent).await?;
    let required = deployed.as_ref().map(|info| info.manifest.secrets.required.as_slice()).unwrap_or_default();
    let secrets = api.ports.secrets.list(&agent, required).await?;
    if deployed.is_none() && secrets.is_empty() {
        return Err(Problem::unknown_agent(agent.as_str()));
    }
    Ok(Json(Page { items: secrets.into_iter().map(SecretView::from).collect(), next: None }))
}

/// Sets a secret of an agent, for the next tasks of all hosts.
///
/// The body is the value as it is, 1 byte to 64 KiB of UTF-8. The agent need not be deployed yet.
#[utoipa::path(
    put,
    path = "/v1/agents/{agent}/secrets/{name}",
    tag = "agents",
    params(
        ("agent" = String, Path, description = "The agent's name"),
        ("name" = String, Path, description = "The secret's name, as the manifest requires it"),
    ),
    request_body(content = String, content_type = "text/plain", description = "The value"),
    responses((status = 200, description = "It is set", body = SecretSetView), Refused, NotSet),
)]
pub(crate) async fn set(
    State(api): State<Arc<ApiState>>,
    SecretPath(agent, name): SecretPath,
    Extension(who): Extension<Actor>,
    body: Body,
) -> Result<Json<SecretSetView>, Problem> {
    let name = SecretName::parse(&name).map_err(|error| Problem::bad_request(format!("the secret's name: {error}")))?;
    let value = value(body).await?;
    let event = api.secret_event(who, "secret-set", &agent, &name);
    let (of, named) = (agent.clone(), name.clone());
    let set = api.to_the_end_of(|secrets| async move { secrets.set(&of, &named, value, event).await }).await?;
    Ok(Json(SecretSetView {
        agent: agent.to_string(),
        name: name.to_string(),
        status: if set.replaced { "replaced" } else { "set" },
        deployed: api.ports.agents.is_deployed(&agent),
        hidden_by: set.hidden_by,
    }))
}

/// Removes a stored secret of an agent. Its next tasks do not get it any more.
#[utoipa::path(
    delete,
    path = "/v1/agents/{agent}/secrets/{name}",
    tag = "agents",
    params(
        ("agent" = String, Path, description = "The agent's name"),
        ("name" = String, Path, description = "The secret's name"),
    ),
    responses((status = 204, description = "It is removed"), Refused),
)]
pub(crate) async fn remove(
    State(api): State<Arc<ApiState>>,
    SecretPath(agent, name): SecretPath,
    Extension(who): Extension<Actor>,
) -> Result<StatusCode, Problem> {
    let unknown = || Problem::unknown_secret(agent.as_str(), &name);
    let known = SecretName::parse(&name).map_err(|_| unknown())?;
    let event = api.secret_event(who, "secret-removed", &agent, &known);
    let of = agent.clone();
    let removed = api.to_the_end_of(|secrets| async move { secrets.remove(&of, &known, event).await }).await?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(unknown()) }
}

/// The value that a request brings.
async fn value(body: Body) -> Result<Secret, Problem> {
    let bytes = axum::body::to_bytes(body, VALUE_BYTES_MAX).await.map_err(|error| {
        if error.into_inner().is::<LengthLimitError>() {
            return Problem::too_large("the value", VALUE_BYTES_MAX as u64);
        }
        Problem::bad_request("the body broke off")
    })?;
    if bytes.is_empty() {
        return Err(Problem::bad_request("the value is empty: send it as the body; DELETE removes a secret"));
    }
    let text = String::from_utf8(bytes.into());
    text.map(Secret::new).map_err(|_| Problem::bad_request("the value is no UTF-8: encode it, as base64 say"))
}

impl ApiState {
    /// Tells which secret, and nothing of its value.
    fn secret_event(&self, actor: Actor, action: &'static str, agent: &AgentName, name: &SecretName) -> NewEvent {
        let (host, agent) = (self.ports.host.to_string(), Some(agent.clone()));
        NewEvent { actor, host, action, agent, detail: name.to_string() }
    }

    async fn to_the_end_of<C, T>(&self, change: impl FnOnce(Arc<dyn SecretAdmin>) -> C) -> Result<T, Problem>
    where
        C: Future<Output = Result<T, SecretsError>> + Send + 'static,
        T: Send + 'static,
    {
        let changed = tokio::spawn(change(Arc::clone(&self.ports.secrets))).await.map_err(|error| {
            tracing::error!(%error, "a change of a secret broke off");
            Problem::new(Kind::Internal, "the host failed on the way; GET of the agent's secrets shows what is set")
        })?;
        Ok(changed?)
    }
}
