//! What stops a run before its time.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::task::Outcome;

/// How long a run that is to be cancelled may go on, to see it and stop tidily: a part of the second within which it is
/// to be gone.
const TIDY_STOP_MAX: Duration = Duration::from_millis(500);

/// What may stop a run.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    /// To hand the task back: it ends as [`Outcome::Interrupted`].
    pub interrupt: CancellationToken,
    /// For good: it ends as [`Outcome::Cancelled`].
    pub cancel: CancellationToken,
}

impl Stops {
    /// Waits for either.
    pub(super) async fn stopped(&self) -> Outcome {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Outcome::Cancelled,
            () = self.interrupt.cancelled() => Outcome::Interrupted,
        }
    }

    /// The same for a guest that runs: one that is cancelled has a moment to see it.
    pub(super) async fn stopped_running(&self) -> Outcome {
        let stopped = self.stopped().await;
        if stopped == Outcome::Cancelled {
            tokio::time::sleep(TIDY_STOP_MAX).await;
        }
        stopped
    }
}
