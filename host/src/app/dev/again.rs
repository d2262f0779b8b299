//! The last task once more, on what was just deployed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Host;
use crate::delivery::{PublishError, Submitter};
use crate::records::{NewTask, Records, Status, TaskRecord, body_sha256};
use crate::sim;
use crate::task::{AgentName, CONTENT_TYPE_DEFAULT, Output, Task, TaskId, unix_ms_now};
use crate::text::escaped;

/// Most bytes of an output that are shown: some lines of a terminal.
const SHOWN_BYTES: usize = 2_000;

/// The last task that each agent was sent over HTTP, its body included: one for each agent under development.
#[derive(Debug, Default)]
pub(crate) struct LastTasks(Mutex<HashMap<AgentName, Task>>);

impl LastTasks {
    fn tasks(&self) -> MutexGuard<'_, HashMap<AgentName, Task>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last one of this agent, as a new task.
    pub(super) fn of(&self, agent: &AgentName) -> Option<Task> {
        let last = self.tasks().get(agent).cloned()?;
        Some(Task { id: TaskId::generate(), enqueued_at_ms: unix_ms_now(), traceparent: None, ..last })
    }
}

/// Keeps the last of what it hands on.
pub(crate) struct Remembering {
    pub(crate) inner: Arc<dyn Submitter>,
    pub(crate) sent: Arc<LastTasks>,
}

#[async_trait::async_trait]
impl Submitter for Remembering {
    async fn submit(&self, task: Task, delay: Option<Duration>) -> Result<(), PublishError> {
        let sent = task.clone();
        self.inner.submit(task, delay).await?;
        self.sent.tasks().insert(sent.agent.clone(), sent);
        Ok(())
    }
}

/// What was sent again, by agent.
#[derive(Default)]
pub(super) struct Again(HashMap<AgentName, Sent>);

/// A task on its way, and who tells how it ends.
struct Sent {
    id: TaskId,
    telling: JoinHandle<()>,
}

impl Again {
    /// Sends an agent's last task again; where none was sent yet, the first task of its scenarios that needs nothing but the
    /// agent. How it ends is told when it does. What was sent before and has not ended is cancelled: it was of other code.
    pub(super) async fn run(&mut self, host: &Host, agent: &AgentName, folder: &Path) {
        self.give_up(host, agent).await;
        let last = host.sent.of(agent).map(|task| ("its last task".to_owned(), task));
        let Some((what, task)) = last.or_else(|| sim::sample_task(folder, agent)) else { return };
        let id = task.id.clone();
        if let Err(error) = send(host, task).await {
            return tracing::error!("{agent}: {what} could not be sent again: {error}");
        }
        let telling = tokio::spawn(tell(Arc::clone(&host.records), id.clone(), format!("{agent}: {what}")));
        self.0.insert(agent.clone(), Sent { id, telling });
    }

    async fn give_up(&mut self, host: &Host, agent: &AgentName) {
        let Some(Sent { id, telling }) = self.0.remove(agent) else { return };
        if telling.is_finished() {
            return;
        }
        telling.abort();
        if let Err(error) = host.records.cancel(&id, unix_ms_now()).await {
            tracing::warn!("{agent}: task {id} goes on: {error}");
        }
    }
}

async fn send(host: &Host, task: Task) -> anyhow::Result<()> {
    let new = NewTask {
        id: task.id.clone(),
        agent: task.agent.clone(),
        body_sha256: body_sha256(&task.body),
        enqueued_at_ms: task.enqueued_at_ms,
    };
    host.records.queued(vec![new]).await?;
    Ok(host.submit.submit(task, None).await?)
}

/// Tells of each attempt that failed, and of the end.
async fn tell(records: Arc<dyn Records>, id: TaskId, what: String) {
    let mut following = records.follow(&id);
    let mut told = 0;
    loop {
        let seen = following.borrow_and_update().clone();
        if let Some(record) = seen {
            match record.status {
                Status::Succeeded => {
                    return tracing::info!("{what}: succeeded{}{}", used(&record), shown(record.output.as_ref()));
                }
                Status::Failed => return tracing::error!("{what}: {}{}", failure(&record), used(&record)),
                Status::Cancelled => return tracing::info!("{what}: cancelled"),
                Status::Retrying if record.attempt != told => {
                    told = record.attempt;
                    tracing::warn!("{what}: attempt {told} failed, and is tried again: {}", failure(&record));
                }
                Status::Queued | Status::Running | Status::Retrying => {}
            }
        }
        if following.changed().await.is_err() {
            return;
        }
    }
}

fn failure(record: &TaskRecord) -> String {
    let Some(failure) = &record.failure else { return "failed".to_owned() };
    format!("{}: {}", failure.kind, escaped(&failure.message, SHOWN_BYTES))
}

fn used(record: &TaskRecord) -> String {
    let wall = record.usage.map(|usage| Duration::from_micros(usage.wall_us));
    wall.map(|wall| format!(" in {:.1} ms", wall.as_secs_f64() * 1e3)).unwrap_or_default()
}

fn shown(output: Option<&Output>) -> String {
    let Some(output) = output else { return String::new() };
    match std::str::from_utf8(&output.body) {
        Ok(text) => format!(": {}", escaped(text, SHOWN_BYTES)),
        Err(_) => {
            let content_type = output.content_type.as_deref().unwrap_or(CONTENT_TYPE_DEFAULT);
            format!(": {} bytes of {content_type}", output.body.len())
        }
    }
}
