//! `POST /v1/agents/{agent}/tasks`: one task in, and with `Prefer: wait` its result out.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::extract::{AgentPath, Params};
use super::intake::Reservation;
use super::problem::{Kind, Problem, ProblemDocument};
use super::submission::{Submission, SubmitQuery};
use super::view::AcceptedView;
use super::{ApiState, drain};
use crate::delivery::{Connectivity, PublishError};
use crate::records::{NewTask, Queued, Status, TaskRecord, body_sha256};
use crate::task::{AgentName, Failure, Task, TaskId};

/// Enqueues a task.
///
/// Each request header `Task-Header-<Name>` becomes a header of the task.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/tasks",
    tag = "tasks",
    params(
        ("agent" = String, Path, description = "The agent's name"),
        SubmitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key, agent and body are the same task"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for the result, at most 60"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context of the caller"),
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "The task's body, of any type"),
    responses(
        (status = 200, description = "It succeeded within the time that the caller was ready to wait: its output",
            body = String, content_type = "application/octet-stream",
            headers(("Task-Id" = String, description = "The task's id"))),
        (status = 202, description = "The broker has it", body = AcceptedView,
            headers(("Location" = String, description = "The task's path"))),
        (status = 400, description = "Malformed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "No good token", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 403, description = "Not allowed", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "Unknown agent", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "It failed, or the idempotency key stands for another body", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 429, description = "The host sheds load", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 431, description = "The task headers are too large", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 503, description = "The broker is away", body = ProblemDocument,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn submit(
    State(api): State<Arc<ApiState>>,
    AgentPath(agent): AgentPath,
    Params(query): Params<SubmitQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let submission = Submission::parse(&headers, &query)?;
    let (mut reservation, body) = api.admit(&agent, &headers, body).await?;
    let body = reservation.read(&headers, body, api.config.payload_bytes_max.0).await?;
    let mut task = submission.task(agent.clone(), body);
    if let Some(key) = &submission.idempotency_key {
        task.id = TaskId::from_idempotency_key(&agent, key);
    }
    let id = task.id.clone();
    let (keyed, delay) = (submission.idempotency_key.is_some(), submission.delay);
    // In a task of its own: a client that goes away must not leave a record behind whose task was never published.
    let accepting = {
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            let _until_published = reservation;
            if keyed { api.accept_once(task, delay).await } else { api.accept(task, delay).await }
        })
    };
    let status = accepting.await.map_err(|error| {
        tracing::error!(%error, "accepting a task broke off");
        Problem::new(Kind::Internal, "the host failed while it published the task, so it may or may not run")
    })??;
    if let Some(wait) = submission.wait
        && let Some(record) = api.terminal_record(&id, wait).await
    {
        let now = record.status;
        return match api.result(record) {
            // It has run: only its result waits until there is room for it.
            Err(problem) if problem.is_busy() => Ok(accepted(&id, &agent, now, submission.wait)),
            answer => answer,
        };
    }
    Ok(accepted(&id, &agent, status, submission.wait))
}

fn accepted(id: &TaskId, agent: &AgentName, status: Status, waited: Option<Duration>) -> Response {
    let view = AcceptedView { id: id.to_string(), agent: agent.to_string(), status };
    let location = format!("/v1/tasks/{id}");
    let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response();
    if let Some(applied) = waited.and_then(|wait| HeaderValue::from_str(&format!("wait={}", wait.as_secs())).ok()) {
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

pub(crate) fn new_task(task: &Task) -> NewTask {
    NewTask {
        id: task.id.clone(),
        agent: task.agent.clone(),
        body_sha256: body_sha256(&task.body),
        enqueued_at_ms: task.enqueued_at_ms,
    }
}

pub(crate) fn key_reused() -> Problem {
    Problem::new(
        Kind::KeyReused,
        "this Idempotency-Key was used for another body; send the same body to get the same task, or choose a new key",
    )
}

impl ApiState {
    /// Takes a place for a submission, or says why there is none just now.
    pub(crate) async fn admit(
        &self,
        agent: &AgentName,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<(Reservation, Body), Problem> {
        match self.can_take(agent).await.and_then(|()| self.intake.admit(agent)) {
            Ok(reservation) => Ok((reservation, body)),
            Err(problem) => {
                drain::small_body(headers, body).await;
                Err(problem)
            }
        }
    }

    /// What a client that waited gets.
    fn result(&self, record: TaskRecord) -> Result<Response, Problem> {
        if record.status == Status::Succeeded {
            return self.raw_output(record);
        }
        let failure = record.failure.unwrap_or_else(|| match record.status {
            Status::Cancelled => Failure { kind: "cancelled".to_owned(), message: "cancelled on request".to_owned() },
            _ => Failure { kind: "host-error".to_owned(), message: "no reason was recorded".to_owned() },
        });
        Err(Problem::task_failed(record.id, &record.agent, failure))
    }

    /// Whether a task for this agent can be taken just now.
    async fn can_take(&self, agent: &AgentName) -> Result<(), Problem> {
        if self.ports.draining.is_cancelled() {
            let detail = "the host is draining and takes no new tasks; send the request to another host, or again soon";
            return Err(Problem::new(Kind::Unavailable, detail));
        }
        if !self.ports.agents.is_deployed(agent) {
            if self.ports.agents.may_be_deployed(agent) {
                let detail = "the host has not loaded its agents yet; send the request again soon";
                return Err(Problem::new(Kind::Unavailable, detail));
            }
            // The fleet has a queue for it before the catalog names it.
            if !self.ports.agents.is_elsewhere(agent).await? {
                return Err(Problem::unknown_agent(agent.as_str()));
            }
        }
        match *self.ports.connectivity.borrow() {
            Connectivity::Up => Ok(()),
            Connectivity::Down => Err(Problem::broker_away()),
            Connectivity::Blocked => Err(Problem::new(
                Kind::Unavailable,
                "the broker holds publishers back (memory or disk alarm); send the request again soon",
            )),
        }
    }

    /// Takes a task with an id of its own. The record comes first: published without one, a task could run whose sender
    /// was told that it is not taken, and a record costs a share of a batch's commit.
    async fn accept(&self, task: Task, delay: Option<Duration>) -> Result<Status, Problem> {
        let _waiting = self.intake.wait(&task.agent);
        let id = task.id.clone();
        self.ports.records.queued(vec![new_task(&task)]).await?;
        if let Err(error) = self.ports.submit.submit(task, delay).await {
            self.withdraw(vec![id]).await;
            return Err(error.into());
        }
        Ok(Status::Queued)
    }

    /// Takes a task whose id stands for an idempotency key: the record knows whether there is anything to publish.
    ///
    /// A record that is still `queued` is published again: the host that wrote it may have died before the confirm, and a
    /// second message under the same id changes nothing. For the same reason a failed publication withdraws nothing here:
    /// another request under this key may have answered `202` for it.
    async fn accept_once(&self, task: Task, delay: Option<Duration>) -> Result<Status, Problem> {
        let _waiting = self.intake.wait(&task.agent);
        let known = self.ports.records.queued(vec![new_task(&task)]).await?;
        match known.first() {
            Some(Queued::Conflict) => Err(key_reused()),
            Some(Queued::Known(status)) if *status != Status::Queued => Ok(*status),
            Some(Queued::Known(_) | Queued::New) | None => {
                self.ports.submit.submit(task, delay).await?;
                Ok(Status::Queued)
            }
        }
    }

    /// Publishes one task of a batch. Each of them waits for itself: a large batch takes its time, and is no sign of a
    /// slow broker.
    pub(crate) async fn publish(&self, task: Task, delay: Option<Duration>) -> Result<(), PublishError> {
        let _waiting = self.intake.wait(&task.agent);
        self.ports.submit.submit(task, delay).await
    }

    /// Takes records back whose tasks were not published. A failure only leaves records that nobody knows the id of.
    pub(crate) async fn withdraw(&self, ids: Vec<TaskId>) {
        if let Err(error) = self.ports.records.withdraw(ids).await {
            tracing::warn!(%error, "records of unpublished tasks were not withdrawn");
        }
    }

    /// The task's record once it has ended; nothing after `wait`, or when the host drains.
    async fn terminal_record(&self, id: &TaskId, wait: Duration) -> Option<TaskRecord> {
        let mut record = self.ports.records.follow(id);
        let ended = record.wait_for(|record| record.as_ref().is_some_and(|record| record.status.is_terminal()));
        tokio::select! {
            biased;
            ended = ended => ended.ok().and_then(|record| record.clone()),
            () = tokio::time::sleep(wait) => None,
            () = self.ports.draining.cancelled() => None,
        }
    }
}
