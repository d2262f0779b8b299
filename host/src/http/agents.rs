//! `GET /v1/agents` and `GET /v1/agents/{agent}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::ApiState;
use super::extract::{AgentPath, Params};
use super::problem::{Kind, Problem, ProblemDocument};
use super::view::{AgentView, Page};

/// Items of a page where the client names no limit.
const PAGE_ITEMS_DEFAULT: usize = 100;
/// Most items of a page.
const PAGE_ITEMS_MAX: usize = 1_000;

/// Query of a list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Items of a page: 1 to 1000, 100 by default.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The deployed agents, in name order.
#[utoipa::path(
    get,
    path = "/v1/agents",
    tag = "agents",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of agents", body = Page<AgentView>),
        (status = 400, description = "Malformed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The catalog is away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page<AgentView>>, Problem> {
    let limit = query.limit.unwrap_or(PAGE_ITEMS_DEFAULT);
    if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit={limit}: expected 1 to {PAGE_ITEMS_MAX}")));
    }
    let agents = api.ports.agents.list().await?;
    let after_cursor = |name: &str| query.cursor.as_deref().is_none_or(|cursor| name > cursor);
    let mut rest = agents.into_iter().filter(|agent| after_cursor(agent.name.as_str())).peekable();
    let items: Vec<_> = rest.by_ref().take(limit).collect();
    // The cursor is the last name shown: agents that come and go in between shift nothing.
    let next = rest.peek().and_then(|_| items.last()).map(|last| last.name.to_string());
    Ok(Json(Page { items: items.into_iter().map(AgentView::from).collect(), next }))
}

/// One deployed agent.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}",
    tag = "agents",
    params(("agent" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "The agent", body = AgentView),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown agent", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The catalog is away, or this host has not loaded the agent yet", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn show(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
) -> Result<Json<AgentView>, Problem> {
    let info = api.ports.agents.get(&agent).await?;
    match info {
        Some(info) => Ok(Json(info.into())),
        None if api.ports.agents.is_elsewhere(&agent).await? => {
            let detail = format!(
                "another host has deployed {agent}, and this one has not loaded it; send the request again soon"
            );
            Err(Problem::new(Kind::Unavailable, detail))
        }
        None => Err(Problem::unknown_agent(agent.as_str())),
    }
}
