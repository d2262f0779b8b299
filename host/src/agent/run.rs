//! One run: reserve, instantiate, call, classify, settle the run's effects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtxBuilder;

use super::engine::Engine;
use super::limits::{CpuMeter, MemoryMeter, Stopped};
use super::load::{LoadError, Revision};
use super::memory::{MemoryLease, MemoryLedger};
use super::state::InstanceState;
use crate::capability::log::Stdio;
use crate::capability::sql::{CommitError, Committed};
use crate::capability::tasks::ProgressSink;
use crate::capability::{Capabilities, Session, Trouble};
use crate::records::{Ended, Ending};
use crate::task::{Completion, FollowUp, Limit, Outcome, Output, Task, UnixMs, Usage, unix_ms_now};
use crate::units::format_duration;
use crate::wit::native::exports::agent::runtime::handler as wit;

/// Settings of the runner.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Most instances alive at once: the slots of the engine's pool.
    pub instances_max: u32,
    /// Bytes that may be lifted from a guest or lowered into it in one call; the largest body and output must fit.
    pub hostcall_bytes_max: usize,
}

/// Component resources that one instance may hold. wasmtime's default is 100,000, charged to no memory limit.
const HANDLES_MAX: usize = 1_000;
/// Random bytes of one call; wasmtime-wasi's default is 64 MiB.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// How often a task is run again at once because another transaction was in its way; then it is retried like any other.
const CONFLICT_RERUNS_MAX: u32 = 5;
/// The longest pause before the first of those runs; before the n-th it is n times as long.
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// Frames of a trap that go into its message.
const TRAP_FRAMES_MAX: usize = 5;

/// An attempt at a task, as whoever dispatches it knows it.
pub trait Run: ProgressSink {
    /// The task.
    fn task(&self) -> &Task;
    /// What runs it.
    fn revision(&self) -> &Arc<Revision>;
    /// The end that the task comes to with this answer.
    fn ending(&self, completion: &Completion) -> Ending;
}

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
    async fn stopped(&self) -> Outcome {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Outcome::Cancelled,
            () = self.interrupt.cancelled() => Outcome::Interrupted,
        }
    }
}

/// Whether the task's end was committed together with its effects.
#[derive(Debug)]
pub enum Recorded {
    /// There were no effects to commit it with: it is still to be recorded.
    No,
    /// It was.
    Now(Box<Ending>),
    /// The task had ended before; this run's effects were rolled back.
    Before,
}

/// Runs tasks on the guests' own threads, so that a busy guest never holds up the broker's heartbeats or a health probe.
#[derive(Clone)]
pub struct Runner {
    // One count to raise per task; the parts' own counts would be contended by all threads.
    parts: Arc<Parts>,
}

struct Parts {
    engine: Engine,
    ledger: MemoryLedger,
    capabilities: Capabilities,
    slots: Semaphore,
    hostcall_bytes_max: usize,
    threads: tokio::runtime::Handle,
}

impl Runner {
    /// A runner on these threads.
    #[must_use]
    pub fn new(
        config: &RunnerConfig,
        engine: Engine,
        ledger: MemoryLedger,
        capabilities: Capabilities,
        threads: tokio::runtime::Handle,
    ) -> Self {
        let parts = Parts {
            engine,
            ledger,
            capabilities,
            slots: Semaphore::new(config.instances_max as usize),
            hostcall_bytes_max: config.hostcall_bytes_max,
            threads,
        };
        Self { parts: Arc::new(parts) }
    }

    /// Runs one attempt of a task. Where its effects were committed together with its end, says what that was.
    pub async fn run(&self, run: Arc<dyn Run>, stops: Stops) -> (Completion, Recorded) {
        let parts = Arc::clone(&self.parts);
        let running = self.parts.threads.spawn(async move { parts.attempt(&run, &stops).await });
        running.await.unwrap_or_else(|panicked| {
            tracing::error!(error = %panicked, "a host call panicked; the task is retried");
            let outcome = Outcome::HostError { message: "a host call failed unexpectedly".to_owned() };
            (Completion::without_a_run(outcome), Recorded::No)
        })
    }

    /// Instantiates a revision once and drops it, to see before the cut-over that it starts.
    ///
    /// # Errors
    /// [`LoadError::Start`] where it does not.
    pub async fn try_start(&self, revision: &Arc<Revision>) -> Result<(), LoadError> {
        let task = Task::new(revision.agent.clone(), Vec::new());
        let (parts, revision) = (Arc::clone(&self.parts), Arc::clone(revision));
        let started = self.parts.threads.spawn(async move {
            let lease = parts.ledger.reserve(revision.memory_bytes_expected()).await;
            let mut store = parts.store(&revision, &task, lease, None);
            let limit = revision.manifest.limits.timeout;
            let started = tokio::time::timeout(limit, revision.code.pre.instantiate_async(&mut store)).await;
            revision.note_memory_used(store.data().memory.peak_bytes());
            match started {
                Ok(Ok(_instance)) => Ok(()),
                Ok(Err(error)) => Err(classify(&error, &store, &revision)),
                Err(_elapsed) => Err(timed_out(&revision)),
            }
        });
        let outcome = match started.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(outcome)) => outcome,
            Err(panicked) => Outcome::HostError { message: panicked.to_string() },
        };
        let message = outcome.failure().map_or_else(String::new, |failure| failure.message);
        Err(LoadError::Start(message))
    }
}

impl Parts {
    /// Runs the task, and again where nothing but another transaction was in its way.
    async fn attempt(&self, run: &Arc<dyn Run>, stops: &Stops) -> (Completion, Recorded) {
        let mut reruns = 0;
        loop {
            let (completion, recorded, trouble) = self.once(run, stops).await;
            let in_the_way = trouble == Some(Trouble::Conflict) && !is_final(&completion.outcome);
            if !in_the_way || reruns >= CONFLICT_RERUNS_MAX {
                return (completion, recorded);
            }
            reruns += 1;
            // Apart from the one that was in the way, which may be waiting just as long.
            tokio::time::sleep(CONFLICT_PAUSE.mul_f64(f64::from(reruns) * rand_fraction())).await;
        }
    }

    async fn once(&self, run: &Arc<dyn Run>, stops: &Stops) -> (Completion, Recorded, Option<Trouble>) {
        let (revision, task) = (run.revision().as_ref(), run.task());
        let (_slot, _share, lease) = match self.admit(revision, stops).await {
            Ok(admitted) => admitted,
            Err(stopped) => return (Completion::without_a_run(stopped), Recorded::No, None),
        };
        let mut store = self.store(revision, task, lease, Some(Arc::clone(run) as Arc<dyn ProgressSink>));
        let began = Instant::now();
        let cpu = Arc::clone(&store.data().cpu);
        let answer = tokio::select! {
            biased;
            stopped = stops.stopped() => Err(stopped),
            answer = tokio::time::timeout(time_left(revision, task), cpu.measure(call(&mut store, revision, task))) => {
                match answer {
                    Ok(Ok(answer)) => Ok(answer),
                    Ok(Err(error)) => Err(classify(&error, &store, revision)),
                    Err(_elapsed) => Err(timed_out(revision)),
                }
            }
        };
        let wall = began.elapsed();
        let state = store.into_data();
        let usage = Usage {
            memory_bytes_peak: state.memory.peak_bytes(),
            cpu_us: micros(state.cpu.spent()),
            wall_us: micros(wall),
            host_calls: 0,
        };
        revision.note_memory_used(usage.memory_bytes_peak);
        let outcome = answer.map_or_else(|outcome| outcome, |answer| lowered(answer, revision));
        let completion = Completion { outcome, usage, init: state.init, follow_ups: Vec::new() };
        settle_effects(state.session, completion, run.as_ref()).await
    }

    /// Waits for a slot of the pool and for memory, unless it is stopped meanwhile.
    async fn admit<'a>(&'a self, revision: &'a Revision, stops: &Stops) -> Result<Admission<'a>, Outcome> {
        let bytes = revision.memory_bytes_expected();
        let share = revision.memory_share(&self.ledger);
        // All are mostly there, and then there is nothing to be interrupted.
        if let (Ok(slot), Some(share), Some(lease)) =
            (self.slots.try_acquire(), share.try_take(bytes), self.ledger.try_reserve(bytes))
        {
            return Ok((slot, share, lease));
        }
        // The share first: whoever waits for his own holds up nobody else.
        let all = async {
            let share = share.take(bytes).await?;
            Some((self.slots.acquire().await.ok()?, share, self.ledger.reserve(bytes).await))
        };
        tokio::select! {
            biased;
            stopped = stops.stopped() => Err(stopped),
            // The semaphores are never closed; if they were, the host would be going away.
            admitted = all => admitted.ok_or(Outcome::Interrupted),
        }
    }

    /// A store with its limits armed.
    fn store(
        &self,
        revision: &Revision,
        task: &Task,
        lease: MemoryLease,
        progress: Option<Arc<dyn ProgressSink>>,
    ) -> Store<InstanceState> {
        let limits = &revision.manifest.limits;
        let mut session = self.capabilities.session(&revision.plan, task);
        if let Some(progress) = progress {
            session = session.with_progress(progress);
        }
        let stderr = Stdio::error(session.log());
        let mut wasi = WasiCtxBuilder::new();
        wasi.max_random_size(RANDOM_BYTES_MAX).stdout(Stdio::output(session.log())).stderr(stderr.clone());
        if let Err(error) = revision.folders.preopen(&mut wasi) {
            // The agent finds its folder missing, and its answer says so.
            tracing::error!(agent = %revision.agent, %error, "a granted folder cannot be opened");
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let state = InstanceState {
            wasi: wasi.build(),
            table,
            session,
            stderr,
            memory: MemoryMeter::new(limits.memory.as_usize(), lease),
            cpu: CpuMeter::new(),
            init: None,
        };
        let mut store = Store::new(self.engine.inner(), state);
        store.limiter_async(|state| &mut state.memory);
        store.set_hostcall_fuel(self.hostcall_bytes_max);
        store.set_max_component_handles(HANDLES_MAX);
        // Before instantiation: with the initial deadline of 0 the very first function would stop to look at it.
        store.set_epoch_deadline(1);
        let cpu_limit = limits.cpu;
        store.epoch_deadline_callback(move |store| {
            if store.data().cpu.spent() > cpu_limit {
                return Err(Stopped::CpuTime.into());
            }
            // tokio's own yield: wasmtime's plain one is run again at once by tokio's LIFO slot.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }
}

/// What a task needs before it may run: a slot of the pool, a part of its agent's share, and memory.
type Admission<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>, MemoryLease);

type Answer = Result<Option<wit::Output>, wit::Failure>;

async fn call(store: &mut Store<InstanceState>, revision: &Revision, task: &Task) -> wasmtime::Result<Answer> {
    let began = Instant::now();
    let agent = revision.code.pre.instantiate_async(&mut *store).await?;
    store.data_mut().init = Some(began.elapsed());
    let lifted = lifted(revision, task);
    agent.agent_runtime_handler().call_handle(store, &lifted).await
}

fn lifted(revision: &Revision, task: &Task) -> wit::Task {
    let timeout_at_ms = unix_ms_now().saturating_add(millis(revision.manifest.limits.timeout));
    wit::Task {
        id: task.id.to_string(),
        agent: task.agent.to_string(),
        revision: u32::try_from(revision.number).unwrap_or(u32::MAX),
        attempt: task.attempt,
        max_attempts: task.attempts_max.unwrap_or(revision.manifest.retry.max_attempts),
        enqueued_at: task.enqueued_at_ms,
        deadline: task.deadline_ms.map_or(timeout_at_ms, |deadline_ms| deadline_ms.min(timeout_at_ms)),
        headers: task.headers.clone(),
        content_type: task.content_type.clone(),
        body: task.body.to_vec(),
        traceparent: task.traceparent.clone(),
    }
}

/// What the agent answered, held against the manifest's limit on outputs.
fn lowered(answer: Answer, revision: &Revision) -> Outcome {
    match answer {
        Ok(None) => Outcome::Succeeded(None),
        Ok(Some(output)) => {
            let limit = revision.manifest.limits.output;
            if output.body.len() > limit.as_usize() {
                return Outcome::LimitExceeded(Limit { name: "limits.output", allowed: limit.to_string() });
            }
            Outcome::Succeeded(Some(Output {
                content_type: output.content_type,
                headers: output.headers,
                body: output.body.into(),
            }))
        }
        Err(wit::Failure::Retry(message)) => Outcome::Retry { message, after_ms: None },
        Err(wit::Failure::RetryAfter((after_ms, message))) => Outcome::Retry { message, after_ms: Some(after_ms) },
        Err(wit::Failure::Reject(message)) => Outcome::Rejected { message },
    }
}

/// Whether nothing follows from it but the task's end.
fn is_final(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Succeeded(_) | Outcome::Cancelled | Outcome::Interrupted)
}

/// Commits what a success did, together with the task's end, and rolls everything else back. What failed because a
/// capability was away is the host's failure, whatever the agent made of it.
async fn settle_effects(
    session: Session,
    mut completion: Completion,
    run: &dyn Run,
) -> (Completion, Recorded, Option<Trouble>) {
    let make_ending = |follow_ups: &[FollowUp], host_calls: u64| {
        let mut ended = completion.clone();
        ended.usage.host_calls = host_calls;
        ended.follow_ups = follow_ups.to_vec();
        run.ending(&ended)
    };
    let succeeded = matches!(completion.outcome, Outcome::Succeeded(_));
    let finished = session.finish(succeeded.then_some(&make_ending)).await;
    completion.usage.host_calls = finished.host_calls;
    completion.follow_ups = finished.follow_ups;
    let mut recorded = Recorded::No;
    match finished.result {
        Ok(Committed::Effects) => {}
        Ok(Committed::WithEnd(Ended::Before)) => recorded = Recorded::Before,
        Ok(Committed::WithEnd(Ended::Now)) => {
            recorded = finished.ending.map_or(Recorded::No, Recorded::Now);
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a task's effects could not be committed");
            let message = error.to_string();
            completion.outcome = match error {
                // The agent's own doing: it answered success over a failed statement, or against a deferred constraint.
                CommitError::Aborted(_) | CommitError::Refused(_) => Outcome::Retry { message, after_ms: None },
                CommitError::Unavailable(_) => Outcome::HostError { message },
            };
        }
    }
    if let Some(Trouble::Away(capability)) = finished.trouble
        && matches!(completion.outcome, Outcome::Retry { .. } | Outcome::Rejected { .. } | Outcome::Trapped { .. })
    {
        completion.outcome = Outcome::HostError { message: format!("{capability} was not available to the task") };
    }
    (completion, recorded, finished.trouble)
}

fn classify(error: &wasmtime::Error, store: &Store<InstanceState>, revision: &Revision) -> Outcome {
    let limits = &revision.manifest.limits;
    if error.downcast_ref::<Stopped>().is_some() {
        return Outcome::TimedOut(Limit { name: "limits.cpu", allowed: format_duration(limits.cpu) });
    }
    if store.data().memory.was_refused() {
        return Outcome::OutOfMemory(Limit { name: "limits.memory", allowed: limits.memory.to_string() });
    }
    let mut message = trap_message(error);
    // An agent that gives up says why on its standard error, and then executes `unreachable`.
    if let Some(last_words) = store.data().stderr.last_words() {
        message = format!("{message}: {last_words}");
    }
    Outcome::Trapped { message }
}

/// The trap and the innermost functions, on one line.
fn trap_message(error: &wasmtime::Error) -> String {
    let cause = error.root_cause().to_string();
    let frames: Vec<String> = error
        .downcast_ref::<wasmtime::WasmBacktrace>()
        .map(|backtrace| {
            let frames = backtrace.frames().iter().filter_map(wasmtime::FrameInfo::func_name);
            frames.take(TRAP_FRAMES_MAX).map(str::to_owned).collect()
        })
        .unwrap_or_default();
    if frames.is_empty() { cause } else { format!("{cause}, in {}", frames.join(" < ")) }
}

fn timed_out(revision: &Revision) -> Outcome {
    Outcome::TimedOut(Limit { name: "limits.timeout", allowed: format_duration(revision.manifest.limits.timeout) })
}

/// The manifest's timeout, or the task's own deadline where that comes first.
fn time_left(revision: &Revision, task: &Task) -> Duration {
    let timeout = revision.manifest.limits.timeout;
    let until = |deadline_ms: UnixMs| Duration::from_millis(deadline_ms.saturating_sub(unix_ms_now()));
    task.deadline_ms.map_or(timeout, |deadline_ms| until(deadline_ms).min(timeout))
}

/// Uniform in 0..1, from the low bits of a UUIDv4.
fn rand_fraction() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX);
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
