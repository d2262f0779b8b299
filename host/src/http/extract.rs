//! Path and query extractors whose rejections are problem documents.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use super::problem::{Problem, shortened};
use crate::task::{AgentName, TaskId};

/// `{agent}` of the path. A malformed name is an unknown one: `404`.
pub(crate) struct AgentPath(pub(crate) AgentName);

impl<S: Send + Sync> FromRequestParts<S> for AgentPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = segment(parts, state).await?;
        AgentName::parse(&name).map(Self).map_err(|_| Problem::unknown_agent(&name))
    }
}

/// `{id}` of the path. A malformed id is an unknown one: `404`.
pub(crate) struct TaskPath(pub(crate) TaskId);

impl<S: Send + Sync> FromRequestParts<S> for TaskPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = segment(parts, state).await?;
        TaskId::parse(&id).map(Self).map_err(|_| Problem::unknown_task(&id))
    }
}

/// `{id}` of a dead letter's path: its task's id. A malformed id is an unknown one: `404`.
pub(crate) struct DeadLetterPath(pub(crate) TaskId);

impl<S: Send + Sync> FromRequestParts<S> for DeadLetterPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = segment(parts, state).await?;
        TaskId::parse(&id).map(Self).map_err(|_| Problem::unknown_dead_letter(&id))
    }
}

/// `{agent}` and `{name}` of the path. A malformed name of an agent is an unknown one: `404`. That of a secret is the handler's
/// to judge.
pub(crate) struct SecretPath(pub(crate) AgentName, pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for SecretPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let segments = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((agent, name)) = segments.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let agent = AgentName::parse(&agent).map_err(|_| Problem::unknown_agent(&agent))?;
        Ok(Self(agent, name))
    }
}

async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    match Path::<String>::from_request_parts(parts, state).await {
        Ok(Path(text)) => Ok(text),
        Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
    }
}

/// The query string. Unknown parameters are refused, as the structs deny unknown fields.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

/// Largest JSON body of a request that is no task: they have a few numbers in them.
pub(crate) const JSON_BYTES_MAX: usize = 64 << 10;

/// A JSON body, where there is one. Where a content type is named it must be JSON: a browser sends other ones across origins
/// without asking.
pub(crate) async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<Option<T>, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    if let Some(other) =
        content_type.filter(|text| !text.trim_start().to_ascii_lowercase().starts_with("application/json"))
    {
        let other = shortened(other);
        return Err(Problem::bad_request(format!("Content-Type: {other:?}: expected application/json")));
    }
    let bytes = axum::body::to_bytes(body, JSON_BYTES_MAX).await.map_err(|error| {
        if error.into_inner().is::<LengthLimitError>() {
            return Problem::too_large("the body", JSON_BYTES_MAX as u64);
        }
        Problem::bad_request("the body broke off")
    })?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let read = serde_json::from_slice(&bytes);
    read.map(Some).map_err(|error| Problem::bad_request(format!("the body is not as expected: {error}")))
}
