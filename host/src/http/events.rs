//! `GET /v1/events`: who changed what, and when.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::ApiState;
use super::extract::Params;
use super::problem::{Problem, ProblemDocument};
use super::view::{EventView, Page};
use crate::task::AgentName;

/// Items of a page where the client names no limit, and at most.
const PAGE_ITEMS_DEFAULT: u32 = 50;
const PAGE_ITEMS_MAX: u32 = 1_000;

/// Query of the log.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only of this agent.
    agent: Option<String>,
    /// Items of a page: 1 to 1000, 50 by default.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// What was changed, the newest first. Kept for a year.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "operation",
    params(EventsQuery),
    responses(
        (status = 200, description = "A page of events", body = Page<EventView>),
        (status = 400, description = "Malformed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "A malformed agent name", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The catalog is away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<EventsQuery>,
) -> Result<Json<Page<EventView>>, Problem> {
    let limit = query.limit.unwrap_or(PAGE_ITEMS_DEFAULT);
    if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit={limit}: expected 1 to {PAGE_ITEMS_MAX}")));
    }
    let named = |agent: &str| AgentName::parse(agent).map_err(|_| Problem::unknown_agent(agent));
    let agent = query.agent.as_deref().map(named).transpose()?;
    let malformed = || Problem::bad_request("cursor: expected the `next` of the page before, as it was");
    let before = query.cursor.as_deref().map(|text| text.parse::<u64>().map_err(|_| malformed())).transpose()?;
    // One more than is shown tells whether there is a next page.
    let mut events = api.ports.events.events(agent.as_ref(), before, limit + 1).await?;
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_last = events.len() <= shown;
    events.truncate(shown);
    let next = if is_last { None } else { events.last().map(|event| event.id.to_string()) };
    Ok(Json(Page { items: events.into_iter().map(EventView::from).collect(), next }))
}
