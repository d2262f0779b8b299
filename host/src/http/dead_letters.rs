//! `/v1/dead-letters`: see why tasks failed for good, run them again, drop them.
//!
//! Each change runs in a task of its own, so that it is done to the end also where the client goes away meanwhile.

mod cursor;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;

use self::cursor::{cursor, cursor_text};
use super::ApiState;
use super::extract::{DeadLetterPath, Params};
use super::problem::{Kind, Problem, ProblemDocument};
use super::view::{DeadLetterView, DroppedView, OpenedView, Page, RedriveView, RedrivenView};
use crate::catalog::{Actor, NewEvent};
use crate::dead_letters::{DeadLetters, DeadLettersError, Redriven, Selection};
use crate::task::AgentName;

/// Items of a page where the client names no limit.
const PAGE_ITEMS_DEFAULT: u32 = 50;
/// Most items of a page: some 5 MB of reasons in the worst case.
const PAGE_ITEMS_MAX: u32 = 1_000;

/// Query of the list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only of this agent.
    agent: Option<String>,
    /// Items of a page: 1 to 1000, 50 by default.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Query of what is done with all dead letters of an agent.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AllQuery {
    /// The agent's name. Required, so that to forget it does not mean every agent.
    agent: String,
}

/// Why a request about one dead letter may fail. For the description alone: what is sent is a [`Problem`].
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive")]
enum OneRefused {
    /// No good token
    #[response(status = 401, content_type = "application/problem+json")]
    NoGoodToken(ProblemDocument),
    /// Not allowed
    #[response(status = 403, content_type = "application/problem+json")]
    NotAllowed(ProblemDocument),
    /// Unknown dead letter
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(ProblemDocument),
    /// The records are away
    #[response(status = 503, content_type = "application/problem+json")]
    Away(ProblemDocument),
}

/// The same of a request about all dead letters of an agent.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "read by the derive")]
enum AllRefused {
    /// No agent is named
    #[response(status = 400, content_type = "application/problem+json")]
    NoAgent(ProblemDocument),
    /// No good token
    #[response(status = 401, content_type = "application/problem+json")]
    NoGoodToken(ProblemDocument),
    /// Not allowed
    #[response(status = 403, content_type = "application/problem+json")]
    NotAllowed(ProblemDocument),
    /// A malformed agent name
    #[response(status = 404, content_type = "application/problem+json")]
    MalformedName(ProblemDocument),
    /// The records are away; sent again, the rest is done
    #[response(status = 503, content_type = "application/problem+json")]
    Away(ProblemDocument),
}

fn named(agent: &str) -> Result<AgentName, Problem> {
    AgentName::parse(agent).map_err(|_| Problem::unknown_agent(agent))
}

/// Dead letters, the newest first.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    tag = "dead letters",
    params(ListQuery),
    responses(
        (status = 200, description = "A page of dead letters", body = Page<DeadLetterView>),
        (status = 400, description = "Malformed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "A malformed agent name", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The records are away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page<DeadLetterView>>, Problem> {
    let limit = query.limit.unwrap_or(PAGE_ITEMS_DEFAULT);
    if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit={limit}: expected 1 to {PAGE_ITEMS_MAX}")));
    }
    let agent = query.agent.as_deref().map(named).transpose()?;
    let malformed = || Problem::bad_request("cursor: expected the `next` of the page before, as it was");
    let after = query.cursor.as_deref().map(|text| cursor(text).ok_or_else(malformed)).transpose()?;
    // One more than is shown tells whether there is a next page.
    let mut letters = api.ports.dead_letters.list(agent, after, limit + 1).await?;
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let is_last = letters.len() <= shown;
    letters.truncate(shown);
    let next = if is_last { None } else { letters.last().map(cursor_text) };
    Ok(Json(Page { items: letters.into_iter().map(DeadLetterView::from).collect(), next }))
}

/// One dead letter, with its message.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}",
    tag = "dead letters",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The dead letter", body = OpenedView),
        OneRefused,
        (status = 500, description = "It was written by another version of the host", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn show(
    State(api): State<Arc<ApiState>>,
    DeadLetterPath(id): DeadLetterPath,
) -> Result<Json<OpenedView>, Problem> {
    let opened = api.ports.dead_letters.show(&id).await?;
    opened.map(|opened| Json(opened.into())).ok_or_else(|| Problem::unknown_dead_letter(id.as_str()))
}

/// Has the task run again under its id, from the first attempt.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/redrive",
    tag = "dead letters",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 202, description = "It will run; `GET /v1/tasks/{id}` follows it", body = RedriveView),
        OneRefused,
        (status = 422, description = "Its message is too large to be sent", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 500, description = "It was written by another version of the host", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn redrive_one(
    State(api): State<Arc<ApiState>>,
    DeadLetterPath(id): DeadLetterPath,
    Extension(who): Extension<Actor>,
) -> Result<(StatusCode, Json<RedriveView>), Problem> {
    match api.redrive(Selection::One(id.clone()), who).await?.redriven {
        0 => Err(Problem::unknown_dead_letter(id.as_str())),
        _ => Ok((StatusCode::ACCEPTED, Json(RedriveView { id: id.to_string() }))),
    }
}

/// Forgets a dead letter; its task stays failed.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters/{id}",
    tag = "dead letters",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 204, description = "It is dropped"),
        OneRefused,
    ),
)]
pub(crate) async fn drop_one(
    State(api): State<Arc<ApiState>>,
    DeadLetterPath(id): DeadLetterPath,
    Extension(who): Extension<Actor>,
) -> Result<StatusCode, Problem> {
    match api.drop_letters(Selection::One(id.clone()), who).await? {
        0 => Err(Problem::unknown_dead_letter(id.as_str())),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// Has all failed tasks of an agent run again, those whose dead letters are listed now.
#[utoipa::path(
    post,
    path = "/v1/dead-letters:redrive",
    tag = "dead letters",
    params(AllQuery),
    responses(
        (status = 200, description = "They will run, but for those that are left", body = RedrivenView),
        AllRefused,
    ),
)]
pub(crate) async fn redrive_all(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<AllQuery>,
    Extension(who): Extension<Actor>,
) -> Result<Json<RedrivenView>, Problem> {
    Ok(Json(api.redrive(Selection::AllOf(named(&query.agent)?), who).await?.into()))
}

/// Forgets all dead letters of an agent that are listed now; their tasks stay failed.
#[utoipa::path(
    post,
    path = "/v1/dead-letters:drop",
    tag = "dead letters",
    params(AllQuery),
    responses(
        (status = 200, description = "They are dropped", body = DroppedView),
        AllRefused,
    ),
)]
pub(crate) async fn drop_all(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<AllQuery>,
    Extension(who): Extension<Actor>,
) -> Result<Json<DroppedView>, Problem> {
    Ok(Json(DroppedView { dropped: api.drop_letters(Selection::AllOf(named(&query.agent)?), who).await? }))
}

impl ApiState {
    async fn redrive(&self, selection: Selection, who: Actor) -> Result<Redriven, Problem> {
        let of = selection.clone();
        let redriven = self.to_the_end(|letters| async move { letters.redrive(selection).await }).await?;
        self.log_letters(who, "redriven", &of, redriven.redriven).await;
        Ok(redriven)
    }

    async fn drop_letters(&self, selection: Selection, who: Actor) -> Result<u64, Problem> {
        let of = selection.clone();
        // By its full name: a plain `.drop` would mean the pointer's own.
        let dropped =
            self.to_the_end(|letters| async move { DeadLetters::drop(letters.as_ref(), selection).await }).await?;
        self.log_letters(who, "dropped", &of, dropped).await;
        Ok(dropped)
    }

    /// Logs what was done with dead letters. It is done: where the log cannot be written, the answer stays.
    async fn log_letters(&self, actor: Actor, action: &'static str, of: &Selection, letters: u64) {
        if letters == 0 {
            return;
        }
        let (agent, detail) = match of {
            Selection::One(id) => (None, format!("the dead letter of task {id}")),
            Selection::AllOf(agent) => (Some(agent.clone()), format!("{letters} dead letters")),
        };
        let event = NewEvent { actor, host: self.ports.host.to_string(), action, agent, detail };
        if let Err(error) = self.ports.events.log(event).await {
            tracing::warn!(action, error = &error as &dyn std::error::Error, "an event is not logged");
        }
    }

    async fn to_the_end<C, T>(&self, change: impl FnOnce(Arc<dyn DeadLetters>) -> C) -> Result<T, Problem>
    where
        C: Future<Output = Result<T, DeadLettersError>> + Send + 'static,
        T: Send + 'static,
    {
        let changed = tokio::spawn(change(Arc::clone(&self.ports.dead_letters))).await.map_err(|error| {
            tracing::error!(%error, "a change of dead letters broke off");
            Problem::new(Kind::Internal, "the host failed on the way; GET /v1/dead-letters shows what is left to do")
        })?;
        Ok(changed?)
    }
}
