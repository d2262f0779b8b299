//! Messages that may be what kills hosts.
//!
//! The broker counts how often it delivered a message, which says little: when a host dies, everything that it had in hand
//! is delivered again. So a message is only *suspected* for it. A suspect is run alone, with a note of it in the records
//! that goes when the run ends. A note that is still there means that a host died while it ran this and nothing else; after
//! [`DEATHS_MAX`] of those the task ends as `host-killer`. Where a suspect does not come to run alone, it runs beside the
//! others and nothing is noted.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::delivery::{HeaderValue, Message, envelope};
use crate::task::Task;

/// Deliveries of a message from which on it is suspected. A host's death delivers hundreds of innocent messages again, and
/// what is handed back is delivered again too; five times in a row are rare, and cost an innocent one no more than being
/// run alone.
const DELIVERIES_SUSPICIOUS: u64 = 5;
/// Host deaths during a run alone after which a task ends as `host-killer`: one may be anybody's doing.
pub(super) const DEATHS_MAX: u32 = 2;
/// How long a suspect waits for the host's other tasks to end before it is run beside them.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long other tasks wait for a suspect before they run beside it: what kills a host does so soon after it begins.
const HELD_UP_MAX: Duration = Duration::from_secs(5);

/// Lets ordinary runs go side by side, and a suspect's run alone.
#[derive(Debug, Default)]
pub struct Quarantine {
    runs: RwLock<()>,
}

impl Quarantine {
    /// The permission to run beside others where nobody is alone, or is about to be.
    pub(super) fn try_ordinary(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.runs.try_read().ok()
    }

    /// The permission to run beside others, or beside a suspect that takes too long: then there is nothing to hold.
    pub(super) async fn ordinary(&self) -> Option<RwLockReadGuard<'_, ()>> {
        tokio::time::timeout(HELD_UP_MAX, self.runs.read()).await.ok()
    }

    /// The permission to run alone; none where others take too long to end.
    pub(super) async fn alone(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        tokio::time::timeout(QUIET_WAIT_MAX, self.runs.write()).await.ok()
    }
}

/// The name under which a suspected message is noted; nothing for an ordinary one.
///
/// Not the task's id alone: a message that its sender did not name gets a new one at each delivery.
pub(super) fn suspect(task: &Task, message: &Message) -> Option<String> {
    let agent = &task.agent;
    let deliveries = message.headers.get(envelope::headers::DELIVERY_COUNT).and_then(HeaderValue::as_count)?;
    (deliveries >= DELIVERIES_SUSPICIOUS).then(|| {
        if envelope::names_its_task(message) {
            return format!("{agent} {}", task.id);
        }
        let digest = Sha256::digest(&message.body);
        digest.iter().fold(format!("{agent} sha256:"), |name, byte| name + &format!("{byte:02x}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::AgentName;

    #[test]
    fn only_what_was_delivered_again_and_again_is_suspected() {
        let task = || Task::new(AgentName::parse("echo").unwrap(), "body");
        let message = |count: u64| Message {
            headers: [("x-delivery-count".to_owned(), count.into())].into(),
            body: "body".into(),
            ..Message::default()
        };
        assert_eq!(suspect(&task(), &Message::default()), None);
        assert_eq!(suspect(&task(), &message(DELIVERIES_SUSPICIOUS - 1)), None);
        let unnamed = || suspect(&task(), &message(DELIVERIES_SUSPICIOUS)).unwrap();
        assert_eq!(unnamed(), unnamed(), "a new id each time, and the same body");
        let one = task();
        let named = Message { message_id: Some(one.id.to_string()), ..message(9) };
        assert!(suspect(&one, &named).unwrap().contains(one.id.as_str()));
    }

    #[tokio::test]
    async fn a_suspect_runs_alone() {
        let quarantine = Quarantine::default();
        let beside = (quarantine.ordinary().await, quarantine.ordinary().await);
        let alone = quarantine.alone();
        tokio::pin!(alone);
        assert!(futures::poll!(alone.as_mut()).is_pending());
        let later = quarantine.ordinary();
        tokio::pin!(later);
        assert!(futures::poll!(later.as_mut()).is_pending(), "it gets its turn");
        drop(beside);
        let alone = alone.await;
        assert!(alone.is_some());
        assert!(futures::poll!(later.as_mut()).is_pending());
        drop(alone);
        later.await;
    }
}
