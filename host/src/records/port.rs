//! The records as their users see them, one trait each: the API, the dispatch of tasks, the relay of messages, and whoever
//! looks after dead letters.
//!
//! They are kept together all the same ([`Records`]), because what one of them writes another reads, and much of it in one
//! commit: the end of a task with what leaves with it, a redrive with the message that it sends.

use bytes::Bytes;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Cancelled, DeadLetter, DeadLetterCursor, DeadLetterFilter, Ended, Ending, IdHolder, NewTask, Outgoing, Progress,
    Queued, RecordsError, Taken, TaskCursor, TaskFilter, TaskLog, TaskPage, TaskRecord, Update,
};
use crate::task::{AgentName, TaskId, UnixMs};

/// What whoever submits tasks and asks for them does with their records: the HTTP API.
#[async_trait::async_trait]
pub trait TaskRecords: Send + Sync + 'static {
    /// Records tasks as queued; durable when it returns. One answer per task, in order.
    async fn queued(&self, tasks: Vec<NewTask>) -> Result<Vec<Queued>, RecordsError>;

    /// Takes back `queued` records whose publication failed; anything past `Queued` stays.
    async fn withdraw(&self, ids: Vec<TaskId>) -> Result<(), RecordsError>;

    /// Ends a task that has not ended as cancelled; durable when it returns.
    async fn cancel(&self, id: &TaskId, at_ms: UnixMs) -> Result<Cancelled, RecordsError>;

    /// Reads a record.
    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, RecordsError>;

    /// What the runs of a task said, in the order in which they ended; nothing of a task that nobody knows.
    async fn logs(&self, id: &TaskId) -> Result<Vec<TaskLog>, RecordsError>;

    /// Looks through the tasks, from `after` on, for at most `limit` of them. A page may have fewer, and still name a next one.
    async fn search(&self, filter: TaskFilter, after: Option<TaskCursor>, limit: u32)
    -> Result<TaskPage, RecordsError>;

    /// Follows a record until it is terminal: the receiver holds the newest known state (`None` while unknown), also of
    /// tasks that run on other hosts (those within half a second).
    fn follow(&self, id: &TaskId) -> watch::Receiver<Option<TaskRecord>>;
}

/// What whoever is delivered tasks and runs them says and asks, so that each of them ends once: the dispatch.
#[async_trait::async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// Notes a change that nobody has to wait for (running, retrying). Written soon, in a batch, or not at all if a later
    /// change overtakes it.
    fn note(&self, update: Update);

    /// Notes a running task's progress, likewise.
    fn note_progress(&self, id: &TaskId, progress: Progress);

    /// Notes what a run said, likewise, where it is not recorded with an end: it is kept beside what other runs said.
    fn note_log(&self, log: TaskLog);

    /// Records the end of a task and what leaves with it; durable when it returns.
    async fn finished(&self, ending: &Ending) -> Result<Ended, RecordsError>;

    /// Tells of an end that is durable already, because it was committed with the task's own effects.
    fn was_finished(&self, update: &Update);

    /// Whether the task has ended in this generation or a later one: its record then. Asked before a task is run.
    async fn ended(&self, id: &TaskId, generation: u32) -> Result<Option<TaskRecord>, RecordsError>;

    /// Whose task has this id. Asked where an end was not written, and of malformed messages: both are rare.
    async fn holder(&self, id: &TaskId) -> Result<Option<IdHolder>, RecordsError>;

    /// Those of these tasks that are cancelled.
    async fn cancelled(&self, ids: Vec<TaskId>) -> Result<Vec<TaskId>, RecordsError>;

    /// Notes that a message that may be what kills hosts is about to be run, alone; durable when it returns. Answers how
    /// many such runs were begun before and never ended.
    async fn suspect_begins(&self, message: &str) -> Result<u32, RecordsError>;

    /// Notes that such a run has ended, however: its host is alive.
    async fn suspect_ends(&self, message: &str) -> Result<(), RecordsError>;
}

/// Messages that leave because a task ended or was redriven. They are kept from the commit that wrote them until whoever
/// sends them, the relay, says that they have left.
#[async_trait::async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Forgets messages that have left. Written soon, in a batch.
    fn sent(&self, ids: Vec<Uuid>);

    /// Some of the messages that should have left a while ago, because whoever wrote them died or could not send them. The
    /// caller has them for half a minute before anybody else gets them. Together they are no larger than
    /// [`UNSENT_BYTES_MAX`](super::UNSENT_BYTES_MAX), unless it is one alone; there may be more.
    async fn unsent(&self) -> Result<Vec<Outgoing>, RecordsError>;
}

/// The dead letters of a fleet, as a list: which there are and why, and taking them off it.
#[async_trait::async_trait]
pub trait DeadLetterList: Send + Sync + 'static {
    /// Dead letters, the newest first, from `after` on, at most `limit` of them; without their messages.
    async fn dead_letters(
        &self,
        filter: DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, RecordsError>;

    /// A dead letter with its message.
    async fn dead_letter(&self, id: &TaskId) -> Result<Option<DeadLetter>, RecordsError>;

    /// The recording of a dead letter's last run: nothing where there is no such letter, and nothing in there where it has
    /// none.
    async fn recording(&self, id: &TaskId) -> Result<Option<Option<Bytes>>, RecordsError>;

    /// Takes dead letters off the list, in one commit with the messages that redrive their tasks: those that were still
    /// on it, in that generation. A redriven task is `queued` again, in the next generation.
    async fn take_dead_letters(&self, taken: Vec<Taken>) -> Result<Vec<TaskId>, RecordsError>;

    /// Ids of letters of this agent that were taken off the list and may still lie in the broker's queue.
    async fn taken_dead_letters(&self, agent: &AgentName) -> Result<Vec<(TaskId, u32)>, RecordsError>;

    /// Agents of which letters may still lie in the broker's queue though they were taken off the list.
    async fn agents_with_taken(&self) -> Result<Vec<AgentName>, RecordsError>;

    /// Forgets that these letters were taken: they lie in no queue any more.
    async fn forget_taken(&self, letters: Vec<(TaskId, u32)>) -> Result<(), RecordsError>;
}

/// The records of all tasks of a fleet: in PostgreSQL, or in process where there is none.
#[async_trait::async_trait]
pub trait Records: TaskRecords + Inbox + Outbox + DeadLetterList {
    /// Writes everything noted so far and stops the writer.
    async fn close(&self);
}
