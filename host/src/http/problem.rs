//! Every error answer of the API, in one place: RFC 9457 problem documents.
//!
//! Handlers return `Result<_, Problem>`; nothing else in this module's neighbourhood builds an error response. What a
//! driver said stays in the log: a client gets what happened and what to do.

use std::error::Error;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::agents::{ChangeError, DeployError};
use crate::catalog::{CatalogError, ChangeRefused};
use crate::dead_letters::DeadLettersError;
use crate::delivery::PublishError;
use crate::records::RecordsError;
use crate::secrets::SecretsError;
use crate::task::{AgentName, Failure, TaskId};

/// Media type of problem documents.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which a shed or refused request may be sent again: queues here drain in well under one.
const RETRY_AFTER_S: u64 = 1;

/// The kinds of error answers. Each has its own `type`, title and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    BadRequest,
    Unauthorized,
    Forbidden,
    UnknownRoute,
    UnknownAgent,
    UnknownTask,
    UnknownDeadLetter,
    NoRecording,
    UnknownSecret,
    NoSecretsKey,
    TooManySecrets,
    Unsendable,
    NoOutput,
    TaskEnded,
    MethodNotAllowed,
    TooLarge,
    HeadersTooLarge,
    KeyReused,
    TaskFailed,
    RevisionRefused,
    UnknownRevision,
    NothingToRollBack,
    QueueNotEmpty,
    ChangedMeanwhile,
    Busy,
    Unavailable,
    NotReady,
    Internal,
}

impl Kind {
    /// The last part of `type`, the title and the status.
    fn parts(self) -> (&'static str, &'static str, StatusCode) {
        match self {
            Self::BadRequest => ("bad-request", "The request is malformed", StatusCode::BAD_REQUEST),
            Self::Unauthorized => ("unauthorized", "A token is needed", StatusCode::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", "Not allowed", StatusCode::FORBIDDEN),
            Self::UnknownRoute => ("unknown-route", "No such route", StatusCode::NOT_FOUND),
            Self::UnknownAgent => ("unknown-agent", "No such agent", StatusCode::NOT_FOUND),
            Self::UnknownTask => ("unknown-task", "No such task", StatusCode::NOT_FOUND),
            Self::UnknownDeadLetter => ("unknown-dead-letter", "No such dead letter", StatusCode::NOT_FOUND),
            Self::NoRecording => ("no-recording", "The dead letter has no recording", StatusCode::NOT_FOUND),
            Self::UnknownSecret => ("unknown-secret", "No such secret", StatusCode::NOT_FOUND),
            Self::NoSecretsKey => ("no-secrets-key", "The host stores no secrets", StatusCode::CONFLICT),
            Self::TooManySecrets => ("too-many-secrets", "The agent has too many secrets", StatusCode::CONFLICT),
            Self::Unsendable => ("unsendable", "The task cannot be sent again", StatusCode::UNPROCESSABLE_ENTITY),
            Self::TaskEnded => ("task-ended", "The task has ended", StatusCode::CONFLICT),
            Self::NoOutput => ("no-output", "The task has no output", StatusCode::NOT_FOUND),
            Self::MethodNotAllowed => {
                ("method-not-allowed", "The route takes another method", StatusCode::METHOD_NOT_ALLOWED)
            }
            Self::TooLarge => ("too-large", "The request body is too large", StatusCode::PAYLOAD_TOO_LARGE),
            Self::HeadersTooLarge => {
                ("headers-too-large", "The task headers are too large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            Self::KeyReused => (
                "idempotency-key-reused",
                "The idempotency key stands for another body",
                StatusCode::UNPROCESSABLE_ENTITY,
            ),
            Self::TaskFailed => ("task-failed", "The task failed", StatusCode::UNPROCESSABLE_ENTITY),
            Self::RevisionRefused => {
                ("revision-refused", "The revision cannot be deployed", StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::UnknownRevision => ("unknown-revision", "No such revision", StatusCode::UNPROCESSABLE_ENTITY),
            Self::NothingToRollBack => ("nothing-to-roll-back", "No revision was active before", StatusCode::CONFLICT),
            Self::QueueNotEmpty => ("queue-not-empty", "Tasks wait for the agent", StatusCode::CONFLICT),
            Self::ChangedMeanwhile => ("changed-meanwhile", "The agent was changed meanwhile", StatusCode::CONFLICT),
            Self::Busy => ("busy", "The host is shedding load", StatusCode::TOO_MANY_REQUESTS),
            Self::Unavailable => {
                ("unavailable", "A service that the host needs is away", StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::NotReady => ("not-ready", "The host is not ready", StatusCode::SERVICE_UNAVAILABLE),
            Self::Internal => ("internal", "The host failed", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// An error answer in the making.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    failure: Option<Failure>,
    errors: Vec<String>,
    task: Option<TaskId>,
}

/// An RFC 9457 problem document, as it is sent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ProblemDocument {
    /// What kind of problem it is: `urn:problem-type:agent-host:<kind>`.
    #[serde(rename = "type")]
    kind: String,
    /// The kind, for people.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened and what to do.
    detail: String,
    /// Why the task failed, where `type` ends in `task-failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::view::FailureView>)]
    failure: Option<Failure>,
    /// Each mistake by itself, where there may be several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), failure: None, errors: Vec::new(), task: None }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadRequest, detail)
    }

    pub(crate) fn unknown_agent(name: &str) -> Self {
        Self::new(
            Kind::UnknownAgent,
            format!("no agent {:?} is deployed; GET /v1/agents lists those that are", shortened(name)),
        )
    }

    pub(crate) fn unknown_task(id: &str) -> Self {
        Self::new(
            Kind::UnknownTask,
            format!("no task {:?} is known; records are kept for a while after a task's end", shortened(id)),
        )
    }

    pub(crate) fn unknown_dead_letter(id: &str) -> Self {
        Self::new(
            Kind::UnknownDeadLetter,
            format!(
                "no dead letter of a task {:?} is listed; GET /v1/dead-letters lists those that there are",
                shortened(id)
            ),
        )
    }

    pub(crate) fn no_recording(id: &str) -> Self {
        Self::new(
            Kind::NoRecording,
            format!(
                "the last run of task {:?} was not recorded: the revision that ran it has no `on = \"failure\"` under [record] \
                 in its agent.toml, or it never came to a run",
                shortened(id)
            ),
        )
    }

    pub(crate) fn unknown_secret(agent: &str, name: &str) -> Self {
        let detail = format!(
            "no secret {:?} of agent {agent} is stored; one that a variable sets goes with that variable",
            shortened(name)
        );
        Self::new(Kind::UnknownSecret, detail)
    }

    pub(crate) fn too_large(what: &str, bytes_max: u64) -> Self {
        Self::new(Kind::TooLarge, format!("{what} is larger than {bytes_max} bytes, the most that this host takes"))
    }

    /// A waited-for task that ended in anything but success.
    pub(crate) fn task_failed(id: TaskId, agent: &AgentName, failure: Failure) -> Self {
        let detail = format!("agent {agent}: {}: {}", failure.kind, failure.message);
        Self { failure: Some(failure), task: Some(id), ..Self::new(Kind::TaskFailed, detail) }
    }

    /// An agent that was not changed.
    pub(crate) fn from_change(agent: &AgentName, error: ChangeError) -> Self {
        let detail = error.to_string();
        match error {
            ChangeError::Refused(ChangeRefused::NotDeployed) => Self::unknown_agent(agent.as_str()),
            ChangeError::Refused(ChangeRefused::UnknownRevision(_)) => Self::new(Kind::UnknownRevision, detail),
            ChangeError::Refused(ChangeRefused::NothingBefore) => Self::new(Kind::NothingToRollBack, detail),
            ChangeError::Refused(ChangeRefused::Overtaken) => Self::new(Kind::ChangedMeanwhile, detail),
            ChangeError::Revision { revision, source } => {
                let problem = Self::from(source);
                Self { detail: format!("revision {revision} cannot run here: {}", problem.detail), ..problem }
            }
            ChangeError::QueueNotEmpty { .. } => Self::new(
                Kind::QueueNotEmpty,
                format!(
                    "{detail}; wait until they have run, or remove the agent with ?force=true: they stay in the queue then, \
                     and run if it is deployed again"
                ),
            ),
            ChangeError::Broker(source) => {
                log("an agent's queue was not asked for", &source);
                Self::new(Kind::Unavailable, format!("{detail}; send the request again soon"))
            }
            ChangeError::Late(source) => {
                log("a change could not be followed at once", &source);
                Self::new(Kind::Unavailable, detail)
            }
            ChangeError::Catalog(source) => source.into(),
        }
    }

    pub(crate) fn broker_away() -> Self {
        Self::new(
            Kind::Unavailable,
            "the connection to the broker is down; the host is remaking it. Send the request again soon",
        )
    }

    /// Whether the same request may do a moment later.
    pub(crate) fn is_busy(&self) -> bool {
        self.kind == Kind::Busy
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.kind.parts().2
    }
}

/// The start of a value from the request, for a message that cannot grow with it.
pub(crate) fn shortened(value: &str) -> String {
    const CHARS_MAX: usize = 80;
    value.chars().take(CHARS_MAX).collect()
}

/// Logs an error with its causes, for problems whose cause is the host's own business.
fn log(what: &str, error: &(dyn Error + 'static)) {
    let mut chain = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        chain = format!("{chain}: {error}");
        cause = error.source();
    }
    tracing::warn!(error = chain, "{what}");
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        log("a submission was not published", &error);
        match error {
            PublishError::Unroutable { route } => Self::new(
                Kind::Unavailable,
                format!("the broker has no queue for {route}; deploy the agent again to have its queues declared"),
            ),
            PublishError::Refused(why) => Self::new(Kind::BadRequest, format!("the task cannot be sent: {why}")),
            PublishError::Unavailable(_) => Self::new(
                Kind::Unavailable,
                "the broker did not confirm the task, so it may or may not run. Send it again under an Idempotency-Key \
                 to have it run once",
            ),
        }
    }
}

impl From<RecordsError> for Problem {
    fn from(error: RecordsError) -> Self {
        log("the task records failed", &error);
        Self::new(Kind::Unavailable, format!("{error}; send the request again soon"))
    }
}

impl From<DeadLettersError> for Problem {
    fn from(error: DeadLettersError) -> Self {
        log("the dead letters failed", &error);
        match error {
            DeadLettersError::Records(_) => {
                Self::new(Kind::Unavailable, format!("{error}; send the request again soon"))
            }
            DeadLettersError::Unreadable { .. } => {
                Self::new(Kind::Internal, format!("{error}; ask a host of that version, or drop the dead letter"))
            }
            DeadLettersError::Unsendable { .. } => Self::new(
                Kind::Unsendable,
                format!("{error}; submit a smaller task in its stead, and drop the dead letter"),
            ),
        }
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        log("the catalog failed", &error);
        Self::new(Kind::Unavailable, format!("{error}; send the request again soon"))
    }
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Self {
        let detail = error.to_string();
        match error {
            DeployError::Manifest(problems) => Self { errors: problems.0, ..Self::new(Kind::RevisionRefused, detail) },
            DeployError::OtherAgent { .. }
            | DeployError::Unsigned(_)
            | DeployError::Module(_)
            | DeployError::Grant(_)
            | DeployError::Schema(_) => Self::new(Kind::RevisionRefused, detail),
            DeployError::Broker(source) => {
                log("an agent's queues were not declared", &source);
                Self::new(Kind::Unavailable, format!("{detail}: the broker is away; deploy again soon"))
            }
            DeployError::Database(_) => Self::new(Kind::Unavailable, format!("{detail}; deploy again soon")),
            DeployError::Host(_) => {
                log("a module was not compiled", &error);
                Self::new(Kind::Unavailable, format!("{detail}; deploy again soon, or to another host"))
            }
            DeployError::Catalog(source) => source.into(),
            DeployError::Secrets(source) => source.into(),
        }
    }
}

impl From<SecretsError> for Problem {
    fn from(error: SecretsError) -> Self {
        let detail = error.to_string();
        match error {
            SecretsError::NoKey => Self::new(Kind::NoSecretsKey, detail),
            SecretsError::TooMany(_) => Self::new(Kind::TooManySecrets, detail),
            SecretsError::Away { .. } | SecretsError::Unreadable(_) => {
                log("the secrets failed", &error);
                Self::new(Kind::Unavailable, format!("{detail}; send the request again soon"))
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (slug, title, status) = self.kind.parts();
        let document = ProblemDocument {
            kind: format!("urn:problem-type:agent-host:{slug}"),
            title,
            status: status.as_u16(),
            detail: self.detail,
            failure: self.failure,
            errors: self.errors,
        };
        // Strings and integers only: this cannot fail, and an empty body would still carry the status.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        let headers = response.headers_mut();
        match self.kind {
            Kind::Busy | Kind::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
            }
            Kind::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"agent-host\""));
            }
            _ => {}
        }
        if let Some(id) = self.task.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
            headers.insert(HeaderName::from_static("task-id"), id);
        }
        response
    }
}

/// What an unknown path answers.
pub(crate) async fn unknown_route(uri: axum::http::Uri) -> Problem {
    let path = shortened(uri.path());
    Problem::new(Kind::UnknownRoute, format!("{path:?} is not part of this API; /openapi.json lists what is"))
}

/// What a known path answers to another method. axum adds the `Allow` header.
pub(crate) async fn method_not_allowed(method: axum::http::Method) -> Problem {
    let method = shortened(method.as_str());
    Problem::new(
        Kind::MethodNotAllowed,
        format!("{method} is not for this path; the Allow header names the methods that are"),
    )
}
