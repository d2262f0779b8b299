//! `POST /v1/agents/{agent}/tasks:batch`: many tasks in one request.

mod lines;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, stream};

use self::lines::lines;
use super::extract::{AgentPath, Params};
use super::problem::{Kind, Problem, ProblemDocument};
use super::submission::{Submission, SubmitQuery};
use super::submit::{key_reused, new_task};
use super::view::BatchView;
use super::{ApiState, BATCH_BYTES_MAX};
use crate::records::{NewTask, Queued, Status};
use crate::task::{Task, TaskId};

/// Tasks of one batch that are published at the same time: enough to fill the confirm window of one channel, while
/// leaving it to single submissions too.
const PUBLISHES_CONCURRENT: usize = 256;
/// Content type of each line's task.
const LINE_CONTENT_TYPE: &str = "application/json";

/// Enqueues many tasks: one JSON body a line.
///
/// Each request header `Task-Header-<Name>` becomes a header of every task.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/tasks:batch",
    tag = "tasks",
    params(
        ("agent" = String, Path, description = "The agent's name"),
        SubmitQuery,
        ("Idempotency-Key" = Option<String>, Header,
            description = "Sending the batch again under the same key completes it without doubles"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context of the caller"),
    ),
    request_body(content = String, content_type = "application/x-ndjson",
        description = "One JSON body a line, at most 10,000 lines and 64 MiB; empty lines are skipped"),
    responses(
        (status = 202, description = "The broker has all of them", body = BatchView),
        (status = 400, description = "Malformed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown agent", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too many lines, or too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "The idempotency key stands for other bodies", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 429, description = "The host sheds load", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 431, description = "The task headers are too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The broker is away; nothing is promised", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn submit_batch(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Params(query): Params<SubmitQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut submission = Submission::parse(&headers, &query)?;
    submission.content_type = Some(LINE_CONTENT_TYPE.to_owned());
    let (mut reservation, body) = api.admit(&agent, &headers, body).await?;
    let body = reservation.read(&headers, body, BATCH_BYTES_MAX.0).await?;
    let tasks: Vec<Task> = lines(&body, api.config.payload_bytes_max.0)?
        .into_iter()
        .enumerate()
        .map(|(index, line)| {
            let mut task = submission.task(agent.clone(), line);
            if let Some(key) = &submission.idempotency_key {
                // No header value holds a NUL, so no other key can name one of these ids.
                task.id = TaskId::from_idempotency_key(&agent, &format!("{key}\0{index}"));
            }
            task
        })
        .collect();
    let ids = tasks.iter().map(|task| task.id.to_string()).collect();
    let accepting = tokio::spawn(async move {
        let _until_published = reservation;
        api.accept_all(tasks, &submission).await
    });
    accepting.await.map_err(|error| {
        tracing::error!(%error, "accepting a batch broke off");
        Problem::new(Kind::Internal, "the host failed while it published the batch; any part of it may run")
    })??;
    Ok((StatusCode::ACCEPTED, Json(BatchView { ids })).into_response())
}

impl ApiState {
    async fn accept_all(&self, tasks: Vec<Task>, submission: &Submission) -> Result<(), Problem> {
        let keyed = submission.idempotency_key.is_some();
        let known = self.ports.records.queued(tasks.iter().map(new_task).collect::<Vec<NewTask>>()).await?;
        if known.contains(&Queued::Conflict) {
            let new = tasks.into_iter().zip(known).filter(|(_, known)| *known == Queued::New);
            self.withdraw(new.map(|(task, _)| task.id).collect()).await;
            return Err(key_reused());
        }
        let open = tasks.into_iter().zip(known).filter(|(_, known)| match known {
            Queued::New => true,
            // Again, because the request that recorded it may have failed before it was published.
            Queued::Known(status) => *status == Status::Queued,
            Queued::Conflict => false,
        });
        let publishing = open.map(|(task, _)| async {
            let id = task.id.clone();
            self.publish(task, submission.delay).await.map_err(|error| (id, error))
        });
        let mut published = stream::iter(publishing).buffer_unordered(PUBLISHES_CONCURRENT);
        let mut failed = Vec::new();
        let mut first_error = None;
        while let Some(result) = published.next().await {
            if let Err((id, error)) = result {
                failed.push(id);
                first_error.get_or_insert(error);
            }
        }
        let Some(error) = first_error else {
            return Ok(());
        };
        if !keyed {
            self.withdraw(failed).await;
        }
        Err(error.into())
    }
}
