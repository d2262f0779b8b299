//! Doubles of the API's ports: a broker, records, dead letters and agents that do as they are told.

mod agents;
mod dead_letters;
mod secrets;

pub(crate) use agents::agent_info;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::agents::{Activation, AgentInfo, Agents, ChangeError, DeployError, Deployed, Difference, Plan, Upload};
use crate::catalog::{Actor, AgentEntry, CatalogError, Change, ChangeRefused, Event, Events, NewEvent, Tally};
use crate::dead_letters::{DeadLetters, DeadLettersError, Opened, Redriven, Selection};
use crate::delivery::{BrokerError, Connectivity, Message, PublishError, Submitter};
use crate::http::{self, Config, Ports};
use crate::records::{
    Cancelled, DeadLetter, DeadLetterCursor, NewTask, Queued, RecordsError, Status, TaskCursor, TaskFilter, TaskLog,
    TaskPage, TaskRecord, TaskRecords,
};
use crate::task::{AgentName, Failure, Output, Task, TaskId, UnixMs, Usage};

struct Record {
    body_sha256: [u8; 32],
    state: watch::Sender<Option<TaskRecord>>,
}

/// What the doubles have seen, and what they are to do.
pub(crate) struct State {
    records: HashMap<TaskId, Record>,
    pub(crate) publish_fails: bool,
    pub(crate) records_fail: bool,
    pub(crate) all_consuming: bool,
    pub(crate) agents_loaded: bool,
    pub(crate) agents: Vec<AgentInfo>,
    /// What other hosts have deployed.
    pub(crate) agents_elsewhere: Vec<AgentName>,
    pub(crate) deploys: Vec<(AgentName, Upload, Activation)>,
    pub(crate) deploy_result: Option<Result<Deployed, DeployError>>,
    /// Changes of agents that were made, by whom.
    pub(crate) changes: Vec<(AgentName, Change, bool, Actor)>,
    pub(crate) change_result: Option<ChangeError>,
    /// The oldest first.
    pub(crate) events: Vec<NewEvent>,
    pub(crate) secrets: secrets::Secrets,
    /// What runs said.
    pub(crate) logs: Vec<TaskLog>,
    /// The dead letters, in any order.
    pub(crate) letters: Vec<Opened>,
    /// Ids of those that cannot be redriven.
    pub(crate) unsendable: Vec<String>,
    /// Tasks that were redriven, in order.
    pub(crate) redriven: Vec<TaskId>,
}

/// The doubles and their levers.
#[derive(Clone)]
pub(crate) struct Doubles {
    pub(crate) state: Arc<Mutex<State>>,
    /// A publication takes a permit; there are plenty unless a test takes them away.
    pub(crate) publishing: Arc<Semaphore>,
    pub(crate) connectivity: watch::Sender<Connectivity>,
    pub(crate) draining: CancellationToken,
    pub(crate) live: watch::Sender<Arc<http::Snapshot>>,
    published: mpsc::UnboundedSender<(Task, Option<Duration>)>,
}

/// What was published, in order.
pub(crate) type Published = mpsc::UnboundedReceiver<(Task, Option<Duration>)>;

/// A dead letter of an agent, whose body is JSON.
pub(crate) fn dead_letter(id: &str, agent: &str, failed_at_ms: UnixMs) -> Opened {
    let letter = DeadLetter {
        id: TaskId::parse(id).unwrap(),
        agent: AgentName::parse(agent).unwrap(),
        generation: 0,
        failed_at_ms,
        error_type: "trapped".to_owned(),
        error_message: "unreachable".to_owned(),
        attempts: 5,
        revision: Some(2),
        digest: Some("sha256:2".to_owned()),
        host: "h:8080".to_owned(),
        message: Bytes::new(),
        recording: None,
    };
    let message = Message {
        message_id: Some(id.to_owned()),
        content_type: Some("application/json".to_owned()),
        headers: BTreeMap::from([("color".to_owned(), "red".into()), ("x-attempts".to_owned(), 5_u64.into())]),
        body: Bytes::from_static(b"{\"n\":1}"),
        ..Message::default()
    };
    Opened { letter, message }
}

impl Doubles {
    /// Doubles with the agent `echo`.
    pub(crate) fn new() -> (Self, Published) {
        let (published, seen) = mpsc::unbounded_channel();
        let state = State {
            records: HashMap::new(),
            publish_fails: false,
            records_fail: false,
            all_consuming: true,
            agents_loaded: true,
            agents: vec![agent_info("echo")],
            agents_elsewhere: Vec::new(),
            deploys: Vec::new(),
            deploy_result: None,
            changes: Vec::new(),
            change_result: None,
            events: Vec::new(),
            secrets: secrets::Secrets::default(),
            logs: Vec::new(),
            letters: Vec::new(),
            redriven: Vec::new(),
            unsendable: Vec::new(),
        };
        let doubles = Self {
            state: Arc::new(Mutex::new(state)),
            publishing: Arc::new(Semaphore::new(1_000_000)),
            connectivity: watch::Sender::new(Connectivity::Up),
            draining: CancellationToken::new(),
            live: watch::Sender::default(),
            published,
        };
        (doubles, seen)
    }

    pub(crate) fn router(&self, config: Config) -> Router {
        http::router(
            config,
            Ports {
                memory: crate::memory::MemoryLedger::new(500_000_000, 1_000),
                submit: Arc::new(self.clone()),
                connectivity: self.connectivity.subscribe(),
                records: Arc::new(self.clone()),
                agents: Arc::new(self.clone()),
                dead_letters: Arc::new(self.clone()),
                secrets: Arc::new(self.clone()),
                events: Arc::new(self.clone()),
                host: "here:8080".into(),
                live: self.live.subscribe(),
                metrics: Arc::new(|| "agent_queue_depth 0\n".to_owned()),
                draining: self.draining.clone(),
                traces: crate::trace::Traces::default(),
            },
        )
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn status_of(&self, id: &TaskId) -> Option<Status> {
        self.lock().records.get(id)?.state.borrow().as_ref().map(|record| record.status)
    }

    /// How many tasks have a record.
    pub(crate) fn recorded(&self) -> usize {
        self.lock().records.len()
    }

    /// Changes a task's record, as a host does that runs it.
    pub(crate) fn change(&self, id: &TaskId, change: impl FnOnce(&mut TaskRecord)) {
        let state = self.lock();
        state.records.get(id).expect("a recorded task").state.send_modify(|record| {
            if let Some(record) = record {
                change(record);
            }
        });
    }

    /// Waits until somebody follows the task, or nobody does.
    pub(crate) async fn until_followed(&self, id: &TaskId, is_followed: bool) {
        let is = || self.lock().records.get(id).is_some_and(|record| record.state.receiver_count() > 0);
        while is() != is_followed {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn succeed(&self, id: &TaskId, content_type: Option<&str>, body: &'static [u8]) {
        self.change(id, |record| {
            record.status = Status::Succeeded;
            record.revision = Some(2);
            record.usage = Some(Usage { memory_bytes_peak: 1, cpu_us: 2, wall_us: 3, host_calls: 4 });
            record.output =
                Some(Output { content_type: content_type.map(str::to_owned), headers: Vec::new(), body: body.into() });
            record.finished_at_ms = Some(9);
        });
    }

    pub(crate) fn fail(&self, id: &TaskId, kind: &str, message: &str) {
        self.change(id, |record| {
            record.status = Status::Failed;
            record.failure = Some(Failure { kind: kind.to_owned(), message: message.to_owned() });
        });
    }
}

fn away() -> Box<dyn std::error::Error + Send + Sync> {
    "postgres://admin:hunter2@db is away".into()
}

#[async_trait::async_trait]
impl Submitter for Doubles {
    async fn submit(&self, task: Task, delay: Option<Duration>) -> Result<(), PublishError> {
        let _permit = self.publishing.acquire().await.unwrap();
        if self.lock().publish_fails {
            return Err(PublishError::Unavailable(BrokerError("amqp://guest:hunter2@rabbit is away".to_owned())));
        }
        self.published.send((task, delay)).unwrap();
        Ok(())
    }
}

#[async_trait::async_trait]
impl TaskRecords for Doubles {
    async fn queued(&self, tasks: Vec<NewTask>) -> Result<Vec<Queued>, RecordsError> {
        let mut state = self.lock();
        if state.records_fail {
            return Err(RecordsError { action: "written", is_passing: true, source: away() });
        }
        let mut queued = |task: NewTask| {
            if let Some(known) = state.records.get(&task.id).filter(|known| known.state.borrow().is_some()) {
                let status = known.state.borrow().as_ref().map(|record| record.status).unwrap();
                return if known.body_sha256 == task.body_sha256 { Queued::Known(status) } else { Queued::Conflict };
            }
            let record = TaskRecord {
                id: task.id.clone(),
                agent: task.agent,
                revision: None,
                status: Status::Queued,
                attempt: 1,
                generation: 0,
                output: None,
                failure: None,
                progress: None,
                usage: None,
                enqueued_at_ms: task.enqueued_at_ms,
                started_at_ms: None,
                finished_at_ms: None,
            };
            let known = Record { body_sha256: task.body_sha256, state: watch::Sender::new(Some(record)) };
            state.records.insert(task.id, known);
            Queued::New
        };
        Ok(tasks.into_iter().map(&mut queued).collect())
    }

    async fn withdraw(&self, ids: Vec<TaskId>) -> Result<(), RecordsError> {
        let mut state = self.lock();
        for id in ids {
            state.records.remove(&id);
        }
        Ok(())
    }

    async fn cancel(&self, id: &TaskId, at_ms: UnixMs) -> Result<Cancelled, RecordsError> {
        let state = self.lock();
        if state.records_fail {
            return Err(RecordsError { action: "written", is_passing: true, source: away() });
        }
        let mut cancelled = Cancelled::Unknown;
        if let Some(known) = state.records.get(id) {
            known.state.send_modify(|record| match record {
                Some(record) if record.status.is_terminal() => cancelled = Cancelled::Finished(record.status),
                Some(record) => {
                    (record.status, record.finished_at_ms) = (Status::Cancelled, Some(at_ms));
                    cancelled = Cancelled::Now;
                }
                None => {}
            });
        }
        Ok(cancelled)
    }

    async fn get(&self, id: &TaskId) -> Result<Option<TaskRecord>, RecordsError> {
        let state = self.lock();
        if state.records_fail {
            return Err(RecordsError { action: "read", is_passing: true, source: away() });
        }
        Ok(state.records.get(id).and_then(|record| record.state.borrow().clone()))
    }

    async fn logs(&self, id: &TaskId) -> Result<Vec<TaskLog>, RecordsError> {
        Ok(self.lock().logs.iter().filter(|log| log.task == *id).cloned().collect())
    }

    async fn search(
        &self,
        filter: TaskFilter,
        after: Option<TaskCursor>,
        limit: u32,
    ) -> Result<TaskPage, RecordsError> {
        let state = self.lock();
        if state.records_fail {
            return Err(RecordsError { action: "read", is_passing: true, source: away() });
        }
        let mut tasks: Vec<_> = state.records.values().filter_map(|record| record.state.borrow().clone()).collect();
        tasks.retain(|task| {
            filter.agent.as_ref().is_none_or(|agent| task.agent == *agent)
                && filter.status.is_none_or(|status| task.status == status)
                && after.as_ref().is_none_or(|after| task.id < after.id)
        });
        tasks.sort_by(|a, b| b.id.cmp(&a.id));
        let limit = usize::try_from(limit).unwrap();
        let more = tasks.len() > limit;
        tasks.truncate(limit);
        let next = tasks.last().filter(|_| more).map(|last| TaskCursor { at: 0, id: last.id.clone() });
        Ok(TaskPage { tasks, next })
    }

    fn follow(&self, id: &TaskId) -> watch::Receiver<Option<TaskRecord>> {
        let mut state = self.lock();
        let unknown = || Record { body_sha256: [0; 32], state: watch::Sender::new(None) };
        state.records.entry(id.clone()).or_insert_with(unknown).state.subscribe()
    }
}
