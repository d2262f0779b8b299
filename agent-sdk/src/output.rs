//! What a handler gives back.

use serde::Serialize;

use crate::{Failure, Json, bindings};

/// A result: a body, its media type, and headers of the result message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// The media type; without one it is `application/octet-stream`.
    pub content_type: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    /// Headers of the result message.
    pub headers: Vec<(String, String)>,
}

impl Output {
    /// A body of the given media type.
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { content_type: Some(content_type.into()), body: body.into(), headers: Vec::new() }
    }

    /// UTF-8 text.
    pub fn text(body: impl Into<String>) -> Self {
        Self::new("text/plain; charset=utf-8", body.into())
    }

    /// A value as JSON. Fails where the value has no JSON form (a map whose keys are not text).
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Failure> {
        serde_json::to_vec(value)
            .map(|body| Self::new("application/json", body))
            .map_err(|error| Failure::reject(format!("the output has no JSON form: {error}")))
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn lower(self) -> bindings::agent::runtime::types::Output {
        bindings::agent::runtime::types::Output {
            content_type: self.content_type,
            body: self.body,
            headers: self.headers,
        }
    }
}

/// What can be an output, or the body of a follow-up task.
pub trait IntoOutput {
    /// The output; `None` is an empty one.
    fn into_output(self) -> Result<Option<Output>, Failure>;
}

impl IntoOutput for Output {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        Ok(Some(self))
    }
}

impl IntoOutput for () {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        Ok(None)
    }
}

impl<T: IntoOutput> IntoOutput for Option<T> {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        self.map_or(Ok(None), T::into_output)
    }
}

impl<T: Serialize> IntoOutput for Json<T> {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        Output::json(&self.0).map(Some)
    }
}

impl IntoOutput for serde_json::Value {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        Output::json(&self).map(Some)
    }
}

impl IntoOutput for String {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        Ok(Some(Output::text(self)))
    }
}

impl IntoOutput for &str {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        Ok(Some(Output::text(self)))
    }
}

impl IntoOutput for Vec<u8> {
    fn into_output(self) -> Result<Option<Output>, Failure> {
        Ok(Some(Output { body: self, ..Output::default() }))
    }
}

/// What a handler may return: an output, or a `Result` of one.
pub trait IntoOutcome {
    /// The outcome.
    fn into_outcome(self) -> Result<Option<Output>, Failure>;
}

impl<T: IntoOutput> IntoOutcome for T {
    fn into_outcome(self) -> Result<Option<Output>, Failure> {
        self.into_output()
    }
}

impl<T: IntoOutput, E: Into<Failure>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Result<Option<Output>, Failure> {
        self.map_err(Into::into)?.into_output()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_kind_of_output_has_its_media_type() {
        let content_type = |output: Option<Output>| output.unwrap().content_type;
        assert_eq!(content_type("x".into_output().unwrap()).unwrap(), "text/plain; charset=utf-8");
        assert_eq!(content_type(Json(1).into_output().unwrap()).unwrap(), "application/json");
        assert_eq!(content_type(vec![1_u8].into_output().unwrap()), None);
        assert_eq!(().into_output(), Ok(None));
        assert_eq!(None::<String>.into_outcome(), Ok(None));
    }

    #[test]
    fn a_value_without_a_json_form_is_rejected() {
        let keys_are_lists = HashMap::from([(vec![1], 1)]);
        assert!(matches!(Json(keys_are_lists).into_output(), Err(Failure::Reject { .. })));
    }

    #[test]
    fn an_error_of_the_handler_becomes_the_failure() {
        let result: Result<(), Failure> = Err(Failure::retry("busy"));
        assert_eq!(result.into_outcome(), Err(Failure::retry("busy")));
    }
}
