//! `/v1/dead-letters`: see why tasks failed for good, run them again, drop them.
//!
//! Each change runs in a task of its own, so that it is done to the end also where the client goes away meanwhile.

mod cursor;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use serde::Deserialize;

use self::cursor::{cursor, cursor_text};
use super::ApiState;
use super::extract::{DeadLetterPath, Params};
use super::paging::{ListRefused, PageQuery, named};
use super::problem::{Kind, Problem, ProblemDocument};
use super::view::{DeadLetterView, DroppedView, OpenedView, Page, RedriveView, RedrivenView};
use crate::catalog::{Actor, NewEvent};
use crate::dead_letters::{DeadLetters, DeadLettersError, Redriven, Selection};

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

/// Dead letters, the newest first.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    tag = "dead letters",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of dead letters", body = Page<DeadLetterView>),
        ListRefused,
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page<DeadLetterView>>, Problem> {
    let wanted = query.read(cursor)?;
    let letters = api.ports.dead_letters.list(wanted.agent.clone(), wanted.after.clone(), wanted.looked_for()).await?;
    Ok(Json(wanted.page(letters, cursor_text)))
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

/// The recording of a dead letter's last run, for `agent-sim replay`: one JSON document a line, without secrets.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}/recording",
    tag = "dead letters",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The recording", body = String, content_type = "application/x-ndjson"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown dead letter, or one without a recording", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The records are away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn recording(
    State(api): State<Arc<ApiState>>,
    DeadLetterPath(id): DeadLetterPath,
) -> Result<impl IntoResponse, Problem> {
    let found = api.ports.dead_letters.recording(&id).await?;
    let recording = found.ok_or_else(|| Problem::unknown_dead_letter(id.as_str()))?;
    let recording = recording.ok_or_else(|| Problem::no_recording(id.as_str()))?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], recording))
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
