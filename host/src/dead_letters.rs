//! The port of whoever looks after dead letters: see why tasks failed, run them again, or drop them.
//!
//! The broker's queue `agent.<name>.dead` holds the letters for whoever reads it; the records list them. A letter that is
//! redriven or dropped leaves the list at once and for all hosts, and the queue soon after.

use bytes::Bytes;

use crate::delivery::Message;
use crate::records::{DeadLetter, DeadLetterCursor, RecordsError};
use crate::task::{AgentName, TaskId};

/// A letter and the message that it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Opened {
    /// Who failed and why.
    pub letter: DeadLetter,
    /// The message as it lies in the queue.
    pub message: Message,
}

/// Which letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// One.
    One(TaskId),
    /// All of an agent that are listed when it is asked for.
    AllOf(AgentName),
}

/// What came of a redrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Tasks that run again.
    pub redriven: u64,
    /// Letters that stay, because their messages cannot be sent: they are too large.
    pub unsendable: u64,
    /// Letters that stay, because this host does not understand them: another version wrote them.
    pub unreadable: u64,
}

/// Why something could not be done with dead letters.
#[derive(Debug, thiserror::Error)]
pub enum DeadLettersError {
    /// The list cannot be reached.
    #[error("the dead letters cannot be reached")]
    Records(#[from] RecordsError),
    /// The letter was written by a version of the host that this one does not understand.
    #[error("the dead letter of task {id} cannot be read: it was written by another version of agent-host")]
    Unreadable {
        /// The task.
        id: TaskId,
    },
    /// The letter's message cannot be sent to its agent, now or ever.
    #[error("task {id} cannot be sent again: {why}")]
    Unsendable {
        /// The task.
        id: TaskId,
        /// What is wrong with the message, and what was expected.
        why: String,
    },
}

/// What can be done with dead letters.
#[async_trait::async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// A page of the list, the newest first, at most `limit` of them, behind `after`; without their messages.
    async fn list(
        &self,
        agent: Option<AgentName>,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, DeadLettersError>;

    /// One letter with its message.
    async fn show(&self, id: &TaskId) -> Result<Option<Opened>, DeadLettersError>;

    /// The recording of the task's last run: nothing where there is no such letter, and nothing in there where it was not
    /// recorded.
    async fn recording(&self, id: &TaskId) -> Result<Option<Option<Bytes>>, DeadLettersError>;

    /// Has the tasks run again under their ids, from the first attempt: durable when it returns, whether or not the broker
    /// is there just now. Of many, those that cannot run again stay and are counted; one alone is an error.
    async fn redrive(&self, selection: Selection) -> Result<Redriven, DeadLettersError>;

    /// Forgets the letters; the tasks stay failed. Answers how many that were.
    async fn drop(&self, selection: Selection) -> Result<u64, DeadLettersError>;
}
