//! `GET /v1/tasks/{id}`, its raw output and its events; `DELETE` to cancel it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::watch;

use super::ApiState;
use super::extract::{Params, TaskPath};
use super::paging::{ListRefused, PageQuery, Wanted};
use super::problem::{Kind, Problem, ProblemDocument};
use super::view::{CancelledView, Page, RunLogView, TaskView};
use crate::records::{Cancelled, Status, TaskCursor, TaskFilter, TaskRecord};
use crate::task::{CONTENT_TYPE_DEFAULT, TaskId, unix_ms_now};

/// Quiet event streams send a comment this often: proxies cut connections off that are silent for 30 s or more.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Streams of tasks' events at the same time. Each holds a connection and a task's record, output included.
pub const TASK_STREAMS_MAX: usize = 1_000;

/// Query of the list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SearchQuery {
    /// Only of this agent.
    agent: Option<String>,
    /// Only where they stand so.
    status: Option<Status>,
    /// Items of a page: 1 to 1000, 50 by default.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Tasks, those that were recorded last in front, without their outputs. A page may have fewer than were asked for, and still
/// name a next one.
#[utoipa::path(
    get,
    path = "/v1/tasks",
    tag = "tasks",
    params(SearchQuery),
    responses(
        (status = 200, description = "A page of tasks", body = Page<TaskView>),
        ListRefused,
    ),
)]
pub(crate) async fn search(
    State(api): State<Arc<ApiState>>,
    Params(query): Params<SearchQuery>,
) -> Result<Json<Page<TaskView>>, Problem> {
    let SearchQuery { agent, status, limit, cursor: after } = query;
    let Wanted { agent, limit, after } = PageQuery::new(agent, limit, after).read(cursor)?;
    let page = api.ports.records.search(TaskFilter { agent, status }, after, limit).await?;
    let items = page.tasks.into_iter().map(TaskView::from).collect();
    Ok(Json(Page { items, next: page.next.as_ref().map(cursor_text) }))
}

/// A place in the list as clients carry it around.
fn cursor_text(cursor: &TaskCursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", cursor.at, cursor.id))
}

fn cursor(text: &str) -> Option<TaskCursor> {
    let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (at, id) = decoded.split_once(' ')?;
    Some(TaskCursor { at: at.parse().ok()?, id: TaskId::parse(id).ok()? })
}

/// What is known about a task.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}",
    tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The task", body = TaskView),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown task", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too much is held for slow clients", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The records are away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn show(State(api): State<Arc<ApiState>>, TaskPath(id): TaskPath) -> Result<Response, Problem> {
    api.outgoing.json(&TaskView::from(api.record(&id).await?))
}

/// Cancels a task, queued or running.
///
/// It never succeeds from then on. A running instance is stopped within a second, whichever host it is on, and its SQL is
/// rolled back; a message that still waits is discarded when it is delivered.
#[utoipa::path(
    delete,
    path = "/v1/tasks/{id}",
    tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 202, description = "It is cancelled", body = CancelledView),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown task", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "It had ended before", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The records are away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn cancel(
    State(api): State<Arc<ApiState>>,
    TaskPath(id): TaskPath,
) -> Result<(StatusCode, Json<CancelledView>), Problem> {
    match api.ports.records.cancel(&id, unix_ms_now()).await? {
        Cancelled::Now => {
            let view = CancelledView { id: id.to_string(), status: Status::Cancelled };
            Ok((StatusCode::ACCEPTED, Json(view)))
        }
        Cancelled::Finished(status) => Err(Problem::new(Kind::TaskEnded, how_it_ended(status))),
        Cancelled::Unknown => Err(Problem::unknown_task(id.as_str())),
    }
}

fn how_it_ended(status: Status) -> &'static str {
    match status {
        Status::Succeeded => "there is nothing to cancel: the task has succeeded",
        Status::Failed => "there is nothing to cancel: the task has failed, and is a dead letter if nobody dropped it",
        Status::Cancelled => "there is nothing to cancel: the task was cancelled before",
        Status::Queued | Status::Running | Status::Retrying => "there is nothing to cancel: the task has ended",
    }
}

/// A task's output as the agent wrote it.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/output",
    tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The output, with the content type that the agent gave it", body = String,
            content_type = "application/octet-stream",
            headers(("Task-Id" = String, description = "The task's id"))),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown task, or one that has not succeeded", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 429, description = "Too much is held for slow clients", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The records are away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn output(State(api): State<Arc<ApiState>>, TaskPath(id): TaskPath) -> Result<Response, Problem> {
    let record = api.record(&id).await?;
    match record.status {
        Status::Succeeded => api.raw_output(record),
        Status::Queued | Status::Running | Status::Retrying => {
            Err(Problem::new(Kind::NoOutput, "the task has not ended yet; /events tells when it does"))
        }
        Status::Failed | Status::Cancelled => {
            Err(Problem::new(Kind::NoOutput, "the task did not succeed; its failure is in GET /v1/tasks/{id}"))
        }
    }
}

/// What the runs of a task said: `wasi:logging`, standard output and standard error, of every level.
///
/// The lines of a run are there when it has ended, those of the last 20 runs, for as long as the task is shown. Of a run
/// there are as many as its `limits.log` allows, and 256 KiB at most.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/logs",
    tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The runs that said something, in their order, on one page", body = Page<RunLogView>),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown task", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too much is held for slow clients", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The records are away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn logs(State(api): State<Arc<ApiState>>, TaskPath(id): TaskPath) -> Result<Response, Problem> {
    api.record(&id).await?;
    let items: Vec<_> = api.ports.records.logs(&id).await?.iter().map(RunLogView::from).collect();
    api.outgoing.json(&Page { items, next: None })
}

/// Server-Sent Events until the task ends. Each is the task as `GET /v1/tasks/{id}` would show it.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/events",
    tag = "tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "One event for each change that was seen, the end included", body = TaskView,
            content_type = "text/event-stream"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown task", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many streams", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The records are away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn events(State(api): State<Arc<ApiState>>, TaskPath(id): TaskPath) -> Result<Response, Problem> {
    let Ok(place) = Arc::clone(&api.task_streams).try_acquire_owned() else {
        return Err(Problem::new(
            Kind::Busy,
            format!(
                "{TASK_STREAMS_MAX} tasks are followed, the most that this host serves; ask for the task now and then"
            ),
        ));
    };
    let now = api.record(&id).await?;
    let changes = changes(now, api.ports.records.follow(&id));
    let draining = api.ports.draining.clone();
    let events = changes.take_until(draining.cancelled_owned()).map(move |record| {
        // Held for as long as the stream is.
        let _place = &place;
        Ok::<_, Infallible>(event(record))
    });
    let streamed = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(api.outgoing.stream(streamed.into_response()))
}

/// The states of a task from `now` on, the terminal one last. What changes back within one poll is not seen.
fn changes(now: TaskRecord, newest: watch::Receiver<Option<TaskRecord>>) -> impl Stream<Item = TaskRecord> {
    stream::unfold((Some(now), None::<TaskRecord>, newest), |(first, shown, mut newest)| async move {
        if let Some(first) = first {
            return Some((first.clone(), (None, Some(first), newest)));
        }
        if shown.as_ref().is_some_and(|record| record.status.is_terminal()) {
            return None;
        }
        let is_news = |record: &Option<TaskRecord>| record.is_some() && *record != shown;
        let next = newest.wait_for(is_news).await.ok().and_then(|record| record.clone())?;
        Some((next.clone(), (None, Some(next), newest)))
    })
}

fn event(record: TaskRecord) -> Event {
    let json = serde_json::to_string(&TaskView::from(record)).unwrap_or_default();
    // An output may be JSON over several lines; outside of strings, where they are escaped, line ends are mere space.
    Event::default().data(json.replace(['\r', '\n'], " "))
}

impl ApiState {
    /// A succeeded task's output as a response body.
    pub(crate) fn raw_output(&self, record: TaskRecord) -> Result<Response, Problem> {
        let output = record.output.unwrap_or_default();
        // The agent's own words: what is no header value is left out.
        let content_type = output.content_type.and_then(|text| HeaderValue::try_from(text).ok());
        let content_type = content_type.unwrap_or(HeaderValue::from_static(CONTENT_TYPE_DEFAULT));
        let body = Body::from(self.outgoing.hold(output.body)?);
        let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
        if let Ok(id) = HeaderValue::from_str(record.id.as_str()) {
            response.headers_mut().insert("task-id", id);
        }
        Ok(response)
    }

    async fn record(&self, id: &TaskId) -> Result<TaskRecord, Problem> {
        self.ports.records.get(id).await?.ok_or_else(|| Problem::unknown_task(id.as_str()))
    }
}
