//! What the parsers' files name and the fuzzer needs nothing of: the errors that they make, and the settings that they fill.

/// `crate::http`, and `axum::http`, which is the crate `http`.
pub(crate) mod http {
    use std::time::Duration;

    pub(crate) use ::http::{HeaderMap, HeaderValue, header};

    use crate::units::ByteSize;

    pub(crate) const BATCH_TASKS_MAX: usize = 10_000;
    pub(crate) const PREFER_WAIT_MAX: Duration = Duration::from_secs(60);
    pub(crate) const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    pub(crate) mod problem {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind {
            BadRequest,
            TooLarge,
            HeadersTooLarge,
        }

        #[derive(Debug)]
        pub(crate) struct Problem {
            pub(crate) kind: Kind,
            pub(crate) detail: String,
        }

        impl Problem {
            pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
                Self { kind, detail: detail.into() }
            }

            pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
                Self::new(Kind::BadRequest, detail)
            }

            pub(crate) fn too_large(what: &str, bytes_max: u64) -> Self {
                Self::new(Kind::TooLarge, format!("{what}: {bytes_max}"))
            }
        }
    }

    #[derive(Clone, Debug)]
    pub(crate) struct Token(#[allow(dead_code, reason = "what a token is worth shows elsewhere")] ());

    impl Token {
        pub(crate) fn new(_text: &str) -> Self {
            Self(())
        }
    }

    #[derive(Clone, Debug)]
    pub(crate) struct Auth {
        pub(crate) admin: Option<Token>,
        pub(crate) read: Option<Token>,
        pub(crate) submit: Option<Token>,
    }

    #[derive(Clone, Debug)]
    pub(crate) struct Config {
        pub(crate) auth: Auth,
        pub(crate) payload_bytes_max: ByteSize,
        pub(crate) intake_bytes_max: ByteSize,
        pub(crate) intake_requests_max: u32,
        pub(crate) intake_wait_max: Duration,
    }
}

pub(crate) mod secrets {
    #[derive(Clone, Debug)]
    pub(crate) struct SecretsKey(#[allow(dead_code, reason = "what a key is worth shows elsewhere")] ());

    impl SecretsKey {
        pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
            if text.trim().len() == 64 { Ok(Self(())) } else { Err("expected 32 random bytes as base64 or hex") }
        }
    }

    #[derive(Clone, Debug)]
    pub(crate) struct Keyring {
        pub(crate) current: Option<SecretsKey>,
        pub(crate) previous: Option<SecretsKey>,
    }
}

pub(crate) mod records {
    use crate::task::{TaskId, UnixMs};

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct DeadLetterCursor {
        pub(crate) failed_at_ms: UnixMs,
        pub(crate) id: TaskId,
    }

    /// A letter, as far as its place in the list depends on it.
    pub(crate) type DeadLetter = DeadLetterCursor;
}

pub(crate) mod telemetry {
    pub(crate) use crate::otlp::{OtlpSettings, collector};

    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) enum LogFormat {
        #[default]
        Text,
        Json,
    }
}
