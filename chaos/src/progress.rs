//! How far the run is, and whether it still moves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::book::Book;
use crate::database::Database;

/// How long nothing may be accepted and nothing end before the run counts as stuck: more than the three minutes after which
/// RabbitMQ moves a message on again whose way out of a delay queue its own end cut off (its
/// `dead_letter_worker_publisher_confirm_timeout`, 180 s by default).
const HANG_LIMIT: Duration = Duration::from_secs(300);
/// How often the database is asked, at most and at least.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// In between, it is asked so rarely that asking takes only this part of its time.
const POLL_SHARE: u32 = 20;

/// Where the run is.
#[derive(Clone, Copy, Debug)]
struct State {
    ended: u64,
    changed: Instant,
}

/// Follows the run.
#[derive(Clone)]
pub(crate) struct Progress {
    state: watch::Receiver<State>,
    book: Arc<Book>,
}

impl Progress {
    /// Begins to follow it.
    pub(crate) fn start(database: Database, book: Arc<Book>) -> Self {
        let (sender, state) = watch::channel(State { ended: 0, changed: Instant::now() });
        tokio::spawn(follow(database, Arc::clone(&book), sender));
        Self { state, book }
    }

    /// How many tasks have ended.
    pub(crate) fn ended(&self) -> u64 {
        self.state.borrow().ended
    }

    /// How many tasks that were accepted have yet to end. Tasks that run although nobody was told that they are accepted
    /// make it too small by as many.
    pub(crate) fn backlog(&self) -> u64 {
        self.book.counts().ends.saturating_sub(self.ended())
    }

    /// Waits until this many tasks have ended.
    pub(crate) async fn reach(&self, ended: u64) {
        self.wait_for(|progress| progress.ended() >= ended).await;
    }

    /// Waits until at most this many accepted tasks have yet to end.
    pub(crate) async fn shrink_to(&self, backlog: u64) {
        self.wait_for(|progress| progress.backlog() <= backlog).await;
    }

    async fn wait_for(&self, reached: impl Fn(&Self) -> bool) {
        let mut state = self.state.clone();
        while !reached(self) {
            // The sender lives as long as the runtime.
            let _ = state.changed().await;
        }
    }

    /// Waits until the run is stuck, which a sound one never is, and says so.
    pub(crate) async fn stuck(&self) -> String {
        while self.state.borrow().changed.elapsed() <= HANG_LIMIT {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        format!("stuck: for {} s nothing was accepted and no task ended", HANG_LIMIT.as_secs())
    }
}

async fn follow(database: Database, book: Arc<Book>, state: watch::Sender<State>) {
    let mut accepted = 0;
    loop {
        let begun = Instant::now();
        // A database that is being restarted is asked again.
        let ended = database.ended().await.unwrap_or(0);
        let now_accepted = book.counts().accepted;
        state.send_if_modified(|state| {
            let moved = ended > state.ended || now_accepted > accepted;
            if moved {
                *state = State { ended: ended.max(state.ended), changed: Instant::now() };
            }
            moved
        });
        accepted = now_accepted;
        tokio::time::sleep((begun.elapsed() * POLL_SHARE).clamp(POLL_INTERVAL, POLL_INTERVAL_MAX)).await;
    }
}
