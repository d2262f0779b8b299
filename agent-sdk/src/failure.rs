//! How a task fails, and how other errors become such a failure.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::{bindings, cache, config, http, kv, secrets, sql, tasks};

/// Why a task did not succeed, and what the host does next.
///
/// It deliberately is no [`Error`] itself: that lets `?` turn every error into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It may work later: the host tries again after the manifest's backoff, until the attempts are used up.
    Retry {
        /// What went wrong.
        message: String,
    },
    /// As [`Failure::Retry`], but not before a delay has passed.
    RetryAfter {
        /// The least time to wait.
        delay: Duration,
        /// What went wrong.
        message: String,
    },
    /// It will never work: the task goes to the dead letters at once.
    Reject {
        /// Why.
        message: String,
    },
}

impl Failure {
    /// Try again later, after the manifest's backoff.
    pub fn retry(message: impl Into<String>) -> Self {
        Self::Retry { message: message.into() }
    }

    /// Try again, but not before `delay` has passed.
    pub fn retry_after(delay: Duration, message: impl Into<String>) -> Self {
        Self::RetryAfter { delay, message: message.into() }
    }

    /// Never try again.
    pub fn reject(message: impl Into<String>) -> Self {
        Self::Reject { message: message.into() }
    }

    /// What went wrong, in words.
    pub fn message(&self) -> &str {
        match self {
            Self::Retry { message } | Self::RetryAfter { message, .. } | Self::Reject { message } => message,
        }
    }

    pub(crate) fn lower(self) -> bindings::agent::runtime::types::Failure {
        use bindings::agent::runtime::types::Failure as Raw;
        match self {
            Self::Retry { message } => Raw::Retry(message),
            Self::RetryAfter { delay, message } => {
                Raw::RetryAfter((u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), message))
            }
            Self::Reject { message } => Raw::Reject(message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

/// Any error fails the task: with a retry where it, or an error that caused it, is one of this crate's that may pass;
/// with a rejection otherwise, since running the same code on the same body again would end the same way.
impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut transient = is_transient(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a String cannot fail.
            let _ = write!(message, ": {cause}");
            transient |= is_transient(cause);
            source = cause.source();
        }
        if transient { Self::Retry { message } } else { Self::Reject { message } }
    }
}

/// Whether an error is one of this crate's that may be gone on the next attempt.
fn is_transient(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref().is_some_and(sql::Error::is_transient)
        || error.downcast_ref().is_some_and(cache::Error::is_transient)
        || error.downcast_ref().is_some_and(kv::Error::is_transient)
        || error.downcast_ref().is_some_and(tasks::Error::is_transient)
        || error.downcast_ref().is_some_and(secrets::Error::is_transient)
        || error.downcast_ref().is_some_and(config::Error::is_transient)
        || error.downcast_ref().is_some_and(http::Error::is_transient)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails<E: Error + 'static>(error: E) -> Failure {
        fn inner<E: Error + 'static>(error: E) -> Result<(), Failure> {
            Err(error)?;
            Ok(())
        }
        inner(error).unwrap_err()
    }

    #[test]
    fn an_error_of_the_agents_own_rejects() {
        let failure = fails("x".parse::<u32>().unwrap_err());
        assert_eq!(failure, Failure::reject("invalid digit found in string"));
    }

    #[test]
    fn a_lost_connection_retries_also_when_it_is_only_the_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not count the votes")]
        struct Counting(#[source] sql::Error);

        assert_eq!(
            fails(Counting(sql::Error::ConnectionFailed("reset by peer".into()))),
            Failure::retry("could not count the votes: no connection to the database: reset by peer")
        );
        assert!(matches!(fails(Counting(sql::Error::NoRow)), Failure::Reject { .. }));
    }

    #[test]
    fn a_delay_past_64_bits_of_milliseconds_is_capped() {
        use bindings::agent::runtime::types::Failure as Raw;
        let failure = Failure::retry_after(Duration::MAX, "later");
        assert_eq!(failure.lower(), Raw::RetryAfter((u64::MAX, "later".into())));
    }
}
