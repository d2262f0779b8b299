//! Answers of the broker on a connection that is busy with deliveries.
//!
//! What the broker says on a connection comes in one stream: its answer to a question is behind every body that it was
//! sending when it was asked. With large bodies on a slow line those are seconds. Whoever took that for silence and remade
//! the channel would have all of them sent once more, behind those that are still on their way, and wait for ever.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::declare::{self, ANSWER_TIMEOUT};

/// Longest wait for an answer where deliveries come: 100 MB, more than bodies may take of the default budget, come in that
/// time over a line of 14 Mbit/s.
const BUSY_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// When something was last delivered over a connection.
pub(super) struct Traffic {
    start: Instant,
    /// Milliseconds since then.
    last_ms: AtomicU64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { start: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Traffic {
    /// A delivery came.
    pub(super) fn came(&self) {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether one has come within the last so long.
    fn came_within(&self, time: Duration) -> bool {
        let last_ms = self.last_ms.load(Ordering::Relaxed);
        last_ms > 0 && self.start.elapsed() <= Duration::from_millis(last_ms).saturating_add(time)
    }

    /// An answer, or an error when none comes: at once where the line was silent all the while, later where it was not.
    pub(super) async fn answered<T>(&self, asked: impl Future<Output = lapin::Result<T>>) -> lapin::Result<T> {
        let mut asked = std::pin::pin!(asked);
        if let Ok(answer) = timeout(ANSWER_TIMEOUT, asked.as_mut()).await {
            return answer;
        }
        // Counted from before the question: a large body may have been on its way for long.
        if !self.came_within(2 * ANSWER_TIMEOUT) {
            return Err(declare::no_answer(ANSWER_TIMEOUT));
        }
        let left = BUSY_ANSWER_TIMEOUT.saturating_sub(ANSWER_TIMEOUT);
        timeout(left, asked).await.unwrap_or_else(|_| Err(declare::no_answer(BUSY_ANSWER_TIMEOUT)))
    }
}
