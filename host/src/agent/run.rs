//! One run: reserve, instantiate, call, classify, settle the run's effects.

mod alive;
mod answer;
mod call;
mod caps;
mod effects;
mod recorded;
mod stops;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiCtxBuilder;

use self::alive::Alive;
use self::answer::{classify, timed_out};
use self::call::{Called, called};
use self::caps::{HANDLES_MAX, RANDOM_BYTES_MAX, START_TIME_MAX};
use self::effects::{may_be_a_conflicts_doing, settle_effects};
pub use self::stops::Stops;
use super::engine::Engine;
use super::footprint::Returned;
use super::limits::{self, Clock, MemoryMeter, Stopped};
use super::load::{LoadError, Revision};
use super::state::InstanceState;
use super::turns::Turns;
use crate::capability::files::TaskFiles;
use crate::capability::log::Stdio;
use crate::capability::outbound_http::OutboundHttp;
use crate::capability::stdout::Immediate;
use crate::capability::tasks::ProgressSink;
use crate::capability::{Capabilities, Session, Trouble};
use crate::manifest::TransactionMode;
use crate::memory::{Admitted, Charge, Growth, HELD_FROM_BYTES, MemoryLedger};
use crate::records::Ending;
use crate::task::{Completion, Limit, Outcome, Task, random_fraction, unix_ms_now};
use crate::trace::{Kind, Scope, Span};
use crate::units::format_duration;

/// Settings of the runner.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Bytes that may be lifted from a guest or lowered into it in one call; the largest body and output must fit.
    pub hostcall_bytes_max: usize,
}

/// Bodies and results from this size on are accounted for one by one. Of smaller ones even a thousand show in what is measured
/// only.
const ACCOUNTED_FROM_BYTES: u64 = HELD_FROM_BYTES;
/// The most that the host holds for one task beside its instance, as the caps of the capabilities have it: what a task that is
/// handed back for its memory may be given at most beside its limit.
const HELD_BYTES_MAX: u64 = 64 << 20;
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
    /// Where what happens is told of in the attempt's trace; nowhere by default.
    fn scope(&self) -> Scope {
        Scope::default()
    }
    /// Whether it is played back from a recording: then it ends by itself at no time of day, and is run once.
    fn is_replay(&self) -> bool {
        false
    }
    /// The end that the task comes to with this answer.
    fn ending(&self, completion: &Completion) -> Ending;
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
    returned: Returned,
    live: AtomicU64,
    hostcall_bytes_max: usize,
    turns: Arc<Turns>,
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
        let turns = Arc::new(Turns::new(&threads, engine.epochs()));
        threads.spawn_blocking(limits::make_ready);
        let parts = Parts {
            engine,
            ledger,
            capabilities,
            returned: Returned::default(),
            live: AtomicU64::new(0),
            hostcall_bytes_max: config.hostcall_bytes_max,
            turns,
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

    /// Accounts for what a run left in memory, for as long as it is held.
    #[must_use]
    pub fn account_for(&self, outcome: &Outcome) -> Option<Charge> {
        outcome.output().and_then(|output| self.parts.account_for(output.body.len()))
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
            let admitted = parts.admit(&revision, &task, &Stops::default()).await?;
            let _alive = Alive::start(&parts.live);
            let session = parts.capabilities.session(&revision.plan, &task);
            let mut store = parts.store(&revision, &task, session, admitted.growth());
            let clock = Arc::clone(&store.data().clock);
            let limit = revision.manifest.limits.timeout.min(START_TIME_MAX);
            let started = {
                let started = std::pin::pin!(revision.code.entry.instance().instantiate_async(&mut store));
                let in_turns = std::pin::pin!(parts.turns.run(&clock, started));
                clock.within(limit, in_turns).await
            };
            let used = store.data().memory.used_bytes();
            match started {
                Some(Ok(_instance)) => {
                    revision.footprint.started_with(used);
                    revision.footprint.used(used);
                    Ok(())
                }
                Some(Err(error)) => Err(classify(&error, &store, &revision)),
                None if limit == START_TIME_MAX => {
                    Err(Outcome::TimedOut(Limit { name: "host.start_time", allowed: format_duration(limit) }))
                }
                None => Err(timed_out(&revision)),
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
        let may_rerun = run.revision().manifest.effects.transaction == TransactionMode::Task && !run.is_replay();
        loop {
            let (completion, recorded, trouble) = self.once(run, stops, spent).await;
            spent += Duration::from_micros(completion.usage.wall_us);
            let in_the_way = trouble == Some(Trouble::Conflict) && may_be_a_conflicts_doing(&completion.outcome);
            if !in_the_way || !may_rerun || reruns >= CONFLICT_RERUNS_MAX {
                return (completion, recorded);
            }
            reruns += 1;
            // Apart from the one that was in the way, which may be waiting just as long.
            tokio::time::sleep(CONFLICT_PAUSE.mul_f64(f64::from(reruns) * random_fraction())).await;
        }
    }

    /// Accounts for bytes where they are many.
    fn account_for(&self, bytes: usize) -> Option<Charge> {
        Some(bytes as u64).filter(|bytes| *bytes >= ACCOUNTED_FROM_BYTES).map(|bytes| self.ledger.charge(bytes))
    }

    /// Runs the task once; `spent` is what earlier runs of the attempt took of its time.
    async fn once(
        &self,
        run: &Arc<dyn Run>,
        stops: &Stops,
        spent: Duration,
    ) -> (Completion, Recorded, Option<Trouble>) {
        let (revision, task) = (run.revision().as_ref(), run.task());
        let admitted = match self.admit(revision, task, stops).await {
            Ok(admitted) => admitted,
            Err(stopped) => return (Completion::without_a_run(stopped), Recorded::No, None),
        };
        // It may have waited for its place until it was too late.
        if task.is_expired(unix_ms_now()) && !run.is_replay() {
            return (Completion::without_a_run(Outcome::Expired), Recorded::No, None);
        }
        let alive = Alive::start(&self.live);
        let session = self.capabilities.session(&revision.plan, task);
        let session = session.with_progress(Arc::clone(run) as Arc<dyn ProgressSink>);
        let scope = run.scope();
        let session = session.with_cancellation(stops.cancel.clone()).with_trace(&scope);
        let mut store = self.store(revision, task, session, admitted.growth());
        store.data_mut().span = scope.child(Kind::Internal, format_args!("instantiate"));
        // The call takes a copy of the body, and so has two for as long as it lasts.
        let lifted = self.account_for(task.body.len());
        let leave = admitted.leave();
        let Called { completion, session, asked_bytes } =
            called(store, run.as_ref(), (&self.turns, stops, leave), spent).await;
        drop((admitted, alive, lifted));
        let recorder = session.recorder();
        let mut settled = settle_effects(session, completion, run.as_ref()).await;
        if let Some(recorder) = recorder {
            recorded::keep(&recorder, &mut settled.0, run.as_ref(), &self.ledger).await;
        }
        match settled.0.outcome {
            // Also where the host drains: it may come back to this one.
            Outcome::Interrupted => {
                let limit_bytes = revision.manifest.limits.memory.0.saturating_add(HELD_BYTES_MAX);
                self.returned.note(&task.id, asked_bytes, limit_bytes);
            }
            _ => self.returned.forget(&task.id),
        }
        settled
    }

    /// Waits for a place and for memory, unless it is stopped meanwhile.
    async fn admit(&self, revision: &Revision, task: &Task, stops: &Stops) -> Result<Admitted, Outcome> {
        let need = self.returned.need(&task.id, revision.footprint.need());
        let share = revision.memory_share(&self.ledger);
        // Both are mostly there, and then there is nothing to be interrupted.
        if let Some(admitted) = self.ledger.try_admit(share, need) {
            return Ok(admitted);
        }
        tokio::select! {
            biased;
            stopped = stops.stopped() => Err(stopped),
            // The revision, and with it its share, is there for as long as this waits.
            admitted = self.ledger.admit(share, need) => admitted.ok_or(Outcome::Interrupted),
        }
    }

    /// A store with its limits armed.
    fn store(&self, revision: &Revision, task: &Task, session: Session, growth: Growth) -> Store<InstanceState> {
        let session = session.with_holder(growth.holder());
        let limits = &revision.manifest.limits;
        session.log().account_to(&self.ledger);
        let stderr = Stdio::error(session.log());
        let mut wasi = WasiCtxBuilder::new();
        wasi.max_random_size(RANDOM_BYTES_MAX.0).stderr(Immediate(stderr.clone()));
        let gathered = revision.code.entry.wire(&mut wasi, revision, task, session.log(), &growth.holder());
        let clock = Clock::new();
        recorded::give_time_and_chance(&mut wasi, &session, clock.began());
        if let Err(error) = revision.folders.preopen(&mut wasi) {
            // The agent finds its folder missing, and its answer says so.
            tracing::error!(agent = %revision.agent, %error, "a granted folder cannot be opened");
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let state = InstanceState {
            wasi: wasi.build(),
            table,
            http: OutboundHttp::new(&session, clock.began()),
            files: TaskFiles::new(&revision.folders, session.log(), growth.holder()),
            session,
            stderr,
            gathered,
            memory: MemoryMeter::new(limits.memory.as_usize(), growth, Arc::clone(&clock)),
            clock,
            span: Span::default(),
            init: None,
        };
        let mut store = Store::new(self.engine.inner(), state);
        store.limiter_async(|state| &mut state.memory);
        store.set_hostcall_fuel(self.hostcall_bytes_max);
        store.set_max_component_handles(HANDLES_MAX);
        // Before instantiation: with the initial deadline of 0 the very first function would stop to look at it.
        store.set_epoch_deadline(1);
        store.call_hook(|store, hook| {
            store.data().clock.crossed(hook);
            Ok(())
        });
        let (cpu_limit, turns) = (limits.cpu, Arc::clone(&self.turns));
        store.epoch_deadline_callback(move |store| {
            if store.data().clock.spent() > cpu_limit {
                return Err(Stopped::CpuTime.into());
            }
            Ok(turns.at_deadline(&store.data().clock.turn))
        });
        store
    }
}
