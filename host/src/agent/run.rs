//! One run: reserve, instantiate, call, classify, settle the run's effects.

mod answer;
mod effects;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtxBuilder;

use self::answer::{call, classify, lowered, time_left, timed_out};
use self::effects::{may_be_a_conflicts_doing, settle_effects};
use super::clock::{CoarseInstant, CoarseUnixTime};
use super::engine::Engine;
use super::limits::{CpuMeter, MemoryMeter, Stopped};
use super::load::{LoadError, Revision};
use super::memory::{MemoryLease, MemoryLedger};
use super::state::InstanceState;
use crate::capability::log::Stdio;
use crate::capability::outbound_http::OutboundHttp;
use crate::capability::tasks::ProgressSink;
use crate::capability::{Capabilities, Session, Trouble};
use crate::manifest::TransactionMode;
use crate::records::Ending;
use crate::task::{Completion, Outcome, Task, Usage, random_fraction, unix_ms_now};

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
    /// How a run ends that is to be stopped by now.
    fn now(&self) -> Option<Outcome> {
        let cancelled = self.cancel.is_cancelled().then_some(Outcome::Cancelled);
        cancelled.or_else(|| self.interrupt.is_cancelled().then_some(Outcome::Interrupted))
    }

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
    live: AtomicU64,
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
            live: AtomicU64::new(0),
            hostcall_bytes_max: config.hostcall_bytes_max,
            threads,
        };
        Self { parts: Arc::new(parts) }
    }

    /// Runs one attempt of a task. Where its effects were committed together with its end, says what that was.
    pub async fn run(&self, run: Arc<dyn Run>, stops: Stops) -> (Completion, Recorded) {
        let parts = Arc::clone(&self.parts);
        // Boxed: the runtime moves what it is given several times, to its end.
        let running = self.parts.threads.spawn(Box::pin(async move { parts.attempt(&run, &stops).await }));
        running.await.unwrap_or_else(|panicked| {
            tracing::error!(error = %panicked, "a host call panicked; the task is retried");
            let outcome = Outcome::HostError { message: "a host call failed unexpectedly".to_owned() };
            (Completion::without_a_run(outcome), Recorded::No)
        })
    }

    /// Instances alive now.
    #[must_use]
    pub fn live_instances(&self) -> u64 {
        self.parts.live.load(Ordering::Relaxed)
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
            let _alive = Alive::start(&parts.live);
            let mut store = parts.store(&revision, parts.capabilities.session(&revision.plan, &task), lease);
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
        let mut spent = Duration::ZERO;
        // What was committed statement by statement is not done again where the task can be retried as its manifest says.
        let is_one_transaction = run.revision().manifest.effects.transaction == TransactionMode::Task;
        loop {
            let (completion, recorded, trouble) = self.once(run, stops, spent).await;
            spent += Duration::from_micros(completion.usage.wall_us);
            let in_the_way = trouble == Some(Trouble::Conflict) && may_be_a_conflicts_doing(&completion.outcome);
            if !in_the_way || !is_one_transaction || reruns >= CONFLICT_RERUNS_MAX {
                return (completion, recorded);
            }
            reruns += 1;
            // Apart from the one that was in the way, which may be waiting just as long.
            tokio::time::sleep(CONFLICT_PAUSE.mul_f64(f64::from(reruns) * random_fraction())).await;
        }
    }

    /// Runs the task once; `spent` is what earlier runs of the attempt took of its time.
    async fn once(
        &self,
        run: &Arc<dyn Run>,
        stops: &Stops,
        spent: Duration,
    ) -> (Completion, Recorded, Option<Trouble>) {
        let (revision, task) = (run.revision().as_ref(), run.task());
        let (_slot, _share, lease) = match self.admit(revision, stops).await {
            Ok(admitted) => admitted,
            Err(stopped) => return (Completion::without_a_run(stopped), Recorded::No, None),
        };
        // It may have waited for its place until it was too late.
        if task.is_expired(unix_ms_now()) {
            return (Completion::without_a_run(Outcome::Expired), Recorded::No, None);
        }
        let alive = Alive::start(&self.live);
        let session = self.capabilities.session(&revision.plan, task);
        let session = session.with_progress(Arc::clone(run) as Arc<dyn ProgressSink>);
        let session = session.with_cancellation(stops.cancel.clone());
        let store = self.store(revision, session, lease);
        let (completion, session) = called(store, revision, task, stops, spent).await;
        drop(alive);
        settle_effects(session, completion, run.as_ref()).await
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
    fn store(&self, revision: &Revision, session: Session, lease: MemoryLease) -> Store<InstanceState> {
        let limits = &revision.manifest.limits;
        let stderr = Stdio::error(session.log());
        let mut wasi = WasiCtxBuilder::new();
        wasi.max_random_size(RANDOM_BYTES_MAX).stdout(Stdio::output(session.log())).stderr(stderr.clone());
        wasi.monotonic_clock(CoarseInstant::starting_now()).wall_clock(CoarseUnixTime);
        if let Err(error) = revision.folders.preopen(&mut wasi) {
            // The agent finds its folder missing, and its answer says so.
            tracing::error!(agent = %revision.agent, %error, "a granted folder cannot be opened");
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let state = InstanceState {
            wasi: wasi.build(),
            table,
            http: OutboundHttp::new(session.log()),
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

/// Calls the guest, unless it is stopped before it answers or takes too long, and takes the instance down.
async fn called(
    mut store: Store<InstanceState>,
    revision: &Revision,
    task: &Task,
    stops: &Stops,
    spent: Duration,
) -> (Completion, Session) {
    let began = Instant::now();
    let cpu = Arc::clone(&store.data().cpu);
    let answer = match stops.now() {
        Some(stopped) => Err(stopped),
        None => {
            let called = std::pin::pin!(call(&mut store, revision, task));
            tokio::select! {
                // The guest first: most answer at once, and then nobody has to listen for a stop or set a timer.
                biased;
                called = tokio::time::timeout(time_left(revision, task, spent), cpu.measure(called)) => Ok(called),
                stopped = stops.stopped() => Err(stopped),
            }
        }
    };
    let answer = match answer {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(error))) => Err(classify(&error, &store, revision)),
        Ok(Err(_elapsed)) if task.is_expired(unix_ms_now()) => Err(Outcome::Expired),
        Ok(Err(_elapsed)) => Err(timed_out(revision)),
        Err(stopped) => Err(stopped),
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
    (Completion { outcome, usage, init: state.init, follow_ups: Vec::new() }, state.session)
}

/// What a task needs before it may run: a slot of the pool, a part of its agent's share, and memory.
type Admission<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>, MemoryLease);

/// Counts an instance as alive until it is dropped. A task that waits for its memory has a slot and no instance yet.
struct Alive<'a>(&'a AtomicU64);

impl<'a> Alive<'a> {
    fn start(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
