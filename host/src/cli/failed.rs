//! How commands fail, and the exit status of each way (contract, section 5.6).

use super::client::ClientError;
use crate::config::ConfigErrors;
use crate::package::PackageError;

/// Exit statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Clean,
    /// A task that was waited for failed.
    TaskFailed,
    /// The command line, the configuration or the input is wrong (`EX_USAGE`).
    Usage,
    /// A needed service or address is unavailable (`EX_UNAVAILABLE`).
    Unavailable,
    /// A mistake of ours (`EX_SOFTWARE`).
    Internal,
}

impl Exit {
    /// The process's exit status.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::TaskFailed => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
        }
    }
}

/// Why a host did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Services or addresses that it needs are unavailable: all of them, each with what to do.
    #[error("{}", .0.join("\n"))]
    Unavailable(Vec<String>),
    /// Folders that the configuration names cannot be used.
    #[error("{}", [wrong.as_slice(), unavailable.as_slice()].concat().join("\n"))]
    Folders {
        /// Which, each with why.
        wrong: Vec<String>,
        /// The services and addresses that are unavailable beside that.
        unavailable: Vec<String>,
    },
    /// Anything else.
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

/// A command that failed: what to print, and how to end.
#[derive(Debug)]
pub struct Failed {
    /// How to end.
    pub exit: Exit,
    /// What to print; nothing where it is printed already.
    pub message: String,
}

impl Failed {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

/// An error with its causes, each on its own level.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(errors) => Self::usage(errors.to_string()),
            StartError::Folders { .. } => Self::usage(error.to_string()),
            StartError::Unavailable(_) => Self::new(Exit::Unavailable, error.to_string()),
            StartError::Internal(error) => Self::new(Exit::Internal, format!("{error:#}")),
        }
    }
}

impl From<PackageError> for Failed {
    fn from(error: PackageError) -> Self {
        Self::usage(chain(&error))
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Url(_) => Exit::Usage,
            ClientError::Unreachable { .. } => Exit::Unavailable,
            ClientError::Refused(refused) => match refused.status {
                429 | 503 => Exit::Unavailable,
                400..=499 => Exit::Usage,
                _ => Exit::Internal,
            },
            ClientError::Protocol { .. } => Exit::Internal,
        };
        Self::new(exit, chain(&error))
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Internal, format!("the result could not be written: {error}"))
    }
}
