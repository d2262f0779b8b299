//! Tasks: follow-ups that an agent submits, whether it is cancelled, and how far it is.
//!
//! A follow-up is kept with the session and leaves with it: [`Session::finish`](super::Session::finish) gives them out, to
//! be published before the task is acknowledged.

mod host;

use std::time::Duration;

use crate::memory::{Held, NoRoom};
use crate::records::Progress;
use crate::task::{AgentName, FollowUp};

/// Most follow-ups of one run. A run that wants more submits a task that submits the rest.
pub const FOLLOW_UPS_MAX: usize = 1000;
/// Most bytes of the bodies and headers of all follow-ups of one run: they wait in the host's memory until it ends.
pub const FOLLOW_UPS_BYTES_MAX: usize = 16 << 20;
/// Largest body of one follow-up: the default of `payload_bytes_max`, over which hosts refuse a task.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Longest delay: that of the broker's largest bucket chain (contract, section 3).
pub const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// Most headers of one follow-up, and their bytes: RabbitMQ takes a message's properties in one frame of 128 KiB.
pub const HEADERS_MAX: usize = 64;
/// Most bytes of the names and values of one follow-up's headers.
pub const HEADERS_BYTES_MAX: usize = 16 << 10;
/// Longest progress note, in bytes; a longer one is cut.
pub const NOTE_BYTES_MAX: usize = 512;

/// Which agents there are.
pub trait Directory: Send + Sync + 'static {
    /// Whether tasks can be sent to this agent.
    fn is_deployed(&self, agent: &AgentName) -> bool;
}

impl<F: Fn(&AgentName) -> bool + Send + Sync + 'static> Directory for F {
    fn is_deployed(&self, agent: &AgentName) -> bool {
        self(agent)
    }
}

/// Where a running task's progress goes. Called in the guest's time: it only notes.
pub trait ProgressSink: Send + Sync + 'static {
    /// Notes how far the task is; the latest counts.
    fn note(&self, progress: Progress);
}

impl<F: Fn(Progress) + Send + Sync + 'static> ProgressSink for F {
    fn note(&self, progress: Progress) {
        self(progress);
    }
}

/// The follow-ups of one run so far.
#[derive(Debug, Default)]
pub(super) struct FollowUps {
    tasks: Vec<FollowUp>,
    bytes: usize,
    /// The account of those bytes.
    pub(super) held: Held,
    /// Calls that named no key, each of which gets one from its position.
    unnamed: u32,
}

/// Why a follow-up is not kept.
#[derive(Debug)]
enum Refused {
    /// It is over a limit; the text names it.
    OverLimit(String),
    /// There is no memory for it now.
    NoRoom(NoRoom),
}

impl FollowUps {
    fn push(&mut self, follow_up: FollowUp) -> Result<(), Refused> {
        if self.tasks.len() >= FOLLOW_UPS_MAX {
            return Err(Refused::OverLimit(format!("one run submits at most {FOLLOW_UPS_MAX} tasks")));
        }
        let headers = follow_up.task.headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let bytes = headers.fold(follow_up.task.body.len(), usize::saturating_add);
        let total = self.bytes.saturating_add(bytes);
        if total > FOLLOW_UPS_BYTES_MAX {
            return Err(Refused::OverLimit(format!("the tasks of one run take at most {FOLLOW_UPS_BYTES_MAX} bytes")));
        }
        self.held.resize(total).map_err(Refused::NoRoom)?;
        self.bytes = total;
        self.tasks.push(follow_up);
        Ok(())
    }

    pub(super) fn into_vec(self) -> Vec<FollowUp> {
        self.tasks
    }
}
