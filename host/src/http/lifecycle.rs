//! What operators do with a deployed agent: roll back, split traffic, pause, resume, remove.
//!
//! Each change runs in a task of its own, so that it is done to the end also where the client goes away meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::Deserialize;

use super::ApiState;
use super::extract::{AgentPath, Params, json};
use super::problem::{Kind, Problem, ProblemDocument};
use super::view::AgentView;
use crate::agents::Agents;
use crate::catalog::{Actor, Change, Traffic};
use crate::task::AgentName;

/// Why a change may fail. For the description alone: what is sent is a [`Problem`].
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive")]
enum Refused {
    /// Malformed
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemDocument),
    /// No good token
    #[response(status = 401, content_type = "application/problem+json")]
    NoGoodToken(ProblemDocument),
    /// Not allowed
    #[response(status = 403, content_type = "application/problem+json")]
    NotAllowed(ProblemDocument),
    /// Unknown agent
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(ProblemDocument),
    /// It cannot be done as the agent is
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemDocument),
    /// The body is larger than any that makes sense
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDocument),
    /// There is no such revision, or it cannot run here; nothing is changed
    #[response(status = 422, content_type = "application/problem+json")]
    NoSuchRevision(ProblemDocument),
    /// The broker or the catalog is away
    #[response(status = 503, content_type = "application/problem+json")]
    Away(ProblemDocument),
}

/// Where to roll back to.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollbackRequest {
    /// The revision that new tasks go to; the one that was active before where it is left out.
    revision: Option<u64>,
}

/// Query of a removal.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// `true` removes the agent also where tasks wait for it. They stay in its queue, and run if it is deployed again.
    force: Option<bool>,
}

/// Directs new tasks to the revision that was active before, or to the one that is named.
///
/// While traffic is split, `{}` ends the split: new tasks go to the active revision alone.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/rollback",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name")),
    request_body(content = RollbackRequest, description = "`{}`, or nothing, means the revision that was active before"),
    responses((status = 200, description = "The agent from then on", body = AgentView), Refused),
)]
pub(crate) async fn rollback(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Extension(who): Extension<Actor>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AgentView>, Problem> {
    let wanted: Option<RollbackRequest> = json(&headers, body).await?;
    let change = wanted.unwrap_or_default().revision.map_or(Change::RollBack, Change::Activate);
    api.change_agent(agent, change, who).await
}

/// Splits new tasks between two revisions, by the task's id.
///
/// The newer one is on trial: where it fails clearly more often than the older one, the split ends by itself.
#[utoipa::path(
    put,
    path = "/v1/agents/{agent}/traffic",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name")),
    request_body(
        content = BTreeMap<String, u32>,
        description = "Percent of new tasks by revision, such as `{\"3\":90,\"4\":10}`; together 100"
    ),
    responses((status = 200, description = "The agent from then on", body = AgentView), Refused),
)]
pub(crate) async fn traffic(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Extension(who): Extension<Actor>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AgentView>, Problem> {
    let weights: Option<BTreeMap<String, u32>> = json(&headers, body).await?;
    let weights = weights.unwrap_or_default();
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| Problem::bad_request(format!("{text:?}: expected a revision's number")))
    };
    let weights: Vec<(u64, u32)> =
        weights.iter().map(|(revision, percent)| Ok((number(revision)?, *percent))).collect::<Result<_, Problem>>()?;
    let traffic = Traffic::by_weights(&weights).map_err(|error| Problem::bad_request(error.to_string()))?;
    let change = if traffic.canary.is_none() { Change::Activate(traffic.active) } else { Change::Split(traffic) };
    api.change_agent(agent, change, who).await
}

/// Stops consuming an agent's queue, on all hosts. Running tasks finish; new ones wait.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/pause",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name")),
    responses((status = 200, description = "The agent from then on", body = AgentView), Refused),
)]
pub(crate) async fn pause(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Extension(who): Extension<Actor>,
) -> Result<Json<AgentView>, Problem> {
    api.change_agent(agent, Change::Pause, who).await
}

/// Consumes a paused agent's queue again.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/resume",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name")),
    responses((status = 200, description = "The agent from then on", body = AgentView), Refused),
)]
pub(crate) async fn resume(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Extension(who): Extension<Actor>,
) -> Result<Json<AgentView>, Problem> {
    api.change_agent(agent, Change::Resume, who).await
}

/// Removes an agent from all hosts. Its revisions stay known: deployed again, their numbers go on.
#[utoipa::path(
    delete,
    path = "/v1/agents/{agent}",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name"), RemoveQuery),
    responses((status = 204, description = "It is removed"), Refused),
)]
pub(crate) async fn remove(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Params(query): Params<RemoveQuery>,
    Extension(who): Extension<Actor>,
) -> Result<StatusCode, Problem> {
    api.changed_to_the_end(agent, Change::Remove, query.force.unwrap_or(false), who).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl ApiState {
    async fn change_agent(&self, agent: AgentName, change: Change, who: Actor) -> Result<Json<AgentView>, Problem> {
        self.changed_to_the_end(agent.clone(), change, false, who).await?;
        let info = self.ports.agents.get(&agent).await?;
        info.map(|info| Json(info.into())).ok_or_else(|| Problem::unknown_agent(agent.as_str()))
    }

    async fn changed_to_the_end(
        &self,
        agent: AgentName,
        change: Change,
        force: bool,
        who: Actor,
    ) -> Result<(), Problem> {
        let agents: Arc<dyn Agents> = Arc::clone(&self.ports.agents);
        let name = agent.clone();
        let changed = tokio::spawn(async move { agents.change(&agent, change, force, who).await }).await;
        let changed = changed.map_err(|error| {
            tracing::error!(%error, "a change of an agent broke off");
            Problem::new(Kind::Internal, "the host failed on the way; GET /v1/agents shows how the agent is")
        })?;
        changed.map_err(|error| Problem::from_change(&name, error))
    }
}
