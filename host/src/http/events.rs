//! `GET /v1/events`: who changed what, and when.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::extract::Params;
use super::paging::{ListRefused, PageQuery};
use super::problem::Problem;
use super::view::{EventView, Page};

/// What was changed, the newest first. Kept for a year.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "operation",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of events", body = Page<EventView>),
        ListRefused,
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page<EventView>>, Problem> {
    let wanted = query.read(|text| text.parse::<u64>().ok())?;
    let events = api.ports.events.events(wanted.agent.as_ref(), wanted.after, wanted.looked_for()).await?;
    Ok(Json(wanted.page(events, |event| event.id.to_string())))
}
