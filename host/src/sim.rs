//! The simulator: one agent, one task at a time, on a laptop, with the host's own engine, limits and embedded capabilities.
//!
//! Nothing here is a second implementation of anything: a [`Machine`] is the parts of a host that run a task, without the
//! parts that bring tasks and take results. What is added stands between the agent's calls and what answers them
//! (`witness`), and counts or breaks them.

pub mod cli;
mod compare;
mod faults;
mod fixtures;
mod junit;
mod log;
mod price;
mod replay;
mod scenario;
mod suite;
mod witness;

pub use faults::{Call, Faults, InvalidFault, KillAt, Port, Slow};
pub use log::{LogLine, Recorder};
use replay::{Replayed, Verdict};
pub(crate) use suite::sample_task;
pub use witness::Tally;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use self::fixtures::World;
use self::witness::Witness;
use crate::agent::{
    Code, Codes, Engine, EngineConfig, InProcessCompiler, LoadError, Loader, Revision, Run, Runner, RunnerConfig, Stops,
};
use crate::capability::sql::{Database, LazyDatabase, ProvisionError};
use crate::capability::tasks::ProgressSink;
use crate::capability::{Backends, Capabilities};
use crate::manifest::{MEMORY_BYTES_MAX, Manifest, OUTPUT_BYTES_MAX};
use crate::memory::MemoryLedger;
use crate::package::Package;
use crate::records::{Ending, Progress, Status, Update};
use crate::task::{AgentName, Completion, Outcome, Task};
use crate::units::ByteSize;

/// What a host's process may keep resident by default: agents are simulated within the same.
const MEMORY_BUDGET: ByteSize = ByteSize(500_000_000);
/// Instances at once: one runs, one may still be on its way down.
const INSTANCES_MAX: u32 = 4;
/// Room beside the largest output in one call, as in the host.
const HOSTCALL_MARGIN_BYTES: usize = 1 << 20;
/// What compiled code may take in the folder where it is kept.
const CODE_BYTES_MAX: ByteSize = ByteSize(2 << 30);

/// Why nothing could be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The module does not run on a host.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its database cannot be set up.
    #[error("the agent's schema: {}", crate::capability::chain(.0))]
    Schema(#[from] ProvisionError),
    /// Something that was to be there at the start could not be put there; the text says what.
    #[error("{0}")]
    Fixture(String),
    /// The simulator itself does not start.
    #[error("{what}: {source}")]
    Machine {
        /// What was to be done.
        what: &'static str,
        /// Why it could not be.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn machine<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> SimError {
    move |source| SimError::Machine { what, source: source.into() }
}

/// What runs tasks.
pub struct Machine {
    engine: Engine,
    loader: Loader,
    ledger: MemoryLedger,
    database: Arc<dyn Database>,
    guests: Handle,
    recorder: Recorder,
    simulations: AtomicU64,
}

impl Machine {
    /// Starts one. Compiled code is kept in `code`, the private database in `data`; guests run on these threads.
    ///
    /// # Errors
    /// [`SimError::Machine`].
    pub fn start(code: &Path, data: &Path, guests: Handle, recorder: Recorder) -> Result<Self, SimError> {
        let config = EngineConfig { instances_max: INSTANCES_MAX, memory_bytes_max: MEMORY_BYTES_MAX.as_usize() };
        let engine = Engine::new(&config).map_err(machine("the engine does not start"))?;
        // The developer's own module, in the developer's own process.
        let compiler = InProcessCompiler::new().map_err(machine("the compiler does not start"))?;
        let codes = Codes::open(code, CODE_BYTES_MAX, &engine, Arc::new(compiler));
        let codes = codes.map_err(machine("compiled code cannot be kept"))?;
        let loader = Loader::new(&engine, codes).map_err(machine("linking the host's capabilities"))?;
        Ok(Self {
            engine,
            loader,
            ledger: MemoryLedger::new(MEMORY_BUDGET.0, INSTANCES_MAX),
            database: Arc::new(LazyDatabase::new(data.to_owned())),
            guests,
            recorder,
            simulations: AtomicU64::new(0),
        })
    }

    /// Compiles an agent's module, unless that was done before, and checks it as a deploy does.
    ///
    /// # Errors
    /// [`SimError::Load`].
    pub async fn load(&self, package: &Package) -> Result<Agent, SimError> {
        let agent = self.load_module(&package.upload.module, package.manifest.clone()).await?;
        Ok(Agent { migrations: package.upload.migrations.clone(), ..agent })
    }

    /// The same, of a module by itself.
    ///
    /// # Errors
    /// [`SimError::Load`].
    pub async fn load_module(&self, module: &Bytes, manifest: Manifest) -> Result<Agent, SimError> {
        let manifest = Arc::new(manifest);
        let code = self.loader.load(module, &manifest).await?;
        let digest = Sha256::digest(module);
        let digest = digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        Ok(Agent { code, digest, migrations: Vec::new(), manifest })
    }

    /// Stops the private database, where it was started.
    pub async fn stop(&self) {
        self.database.close().await;
    }

    fn runner(&self, capabilities: Capabilities) -> Runner {
        Runner::new(
            &RunnerConfig { hostcall_bytes_max: OUTPUT_BYTES_MAX.as_usize() + HOSTCALL_MARGIN_BYTES },
            self.engine.clone(),
            self.ledger.clone(),
            capabilities,
            self.guests.clone(),
        )
    }

    /// What the database calls an agent: each simulation begins with an empty schema.
    fn alias(&self, agent: &AgentName) -> Result<AgentName, SimError> {
        /// Leaves room for the number in a name of at most 63.
        const NAME_BYTES_KEPT: usize = 40;
        let number = self.simulations.fetch_add(1, Ordering::Relaxed);
        let start = agent.as_str().get(..NAME_BYTES_KEPT).unwrap_or(agent.as_str());
        AgentName::parse(&format!("{start}-sim-{number}")).map_err(machine("naming the agent's schema"))
    }
}

/// A module that runs, and what it is run under.
#[derive(Clone)]
pub struct Agent {
    code: Code,
    digest: String,
    migrations: Vec<crate::catalog::Migration>,
    /// Its manifest; a simulation may change its config.
    pub manifest: Arc<Manifest>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    /// How it ended, what it used, and the tasks that it submitted.
    pub completion: Completion,
    /// What it called.
    pub tallies: BTreeMap<Port, Tally>,
    /// What broke because it was to.
    pub injected: Vec<String>,
    /// What it said, and what the host said about it.
    pub log: Vec<LogLine>,
    /// How far it last said it was.
    pub progress: Option<Progress>,
}

/// A world with one agent in it: what one task leaves behind the next one finds.
pub struct Simulation<'a> {
    machine: &'a Machine,
    agent: Agent,
    world: World,
    alias: AgentName,
}

impl<'a> Simulation<'a> {
    /// Sets up a world.
    ///
    /// # Errors
    /// The agent's schema or what is to be in the world cannot be made.
    pub(crate) async fn start(machine: &'a Machine, agent: Agent, world: World) -> Result<Self, SimError> {
        let alias = machine.alias(&agent.manifest.agent.name)?;
        if !agent.manifest.grants.sql.is_empty() {
            machine.database.provision(&alias, &agent.manifest.grants.sql, &agent.migrations).await?;
        }
        let simulation = Self { machine, agent, world, alias };
        simulation.world.fill(&simulation.agent.manifest, machine.database.as_ref(), &simulation.alias).await?;
        Ok(simulation)
    }

    /// The world as it is now.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Rows that a query gives now, as JSON.
    pub(crate) async fn query(&self, statement: &str) -> Result<Vec<Vec<serde_json::Value>>, String> {
        fixtures::query(self.machine.database.as_ref(), &self.alias, statement).await
    }

    /// Runs a task, and once more where the host was to die over it: then the message is delivered again.
    ///
    /// # Errors
    /// The agent's folders cannot be opened.
    pub async fn run(&self, task: &Task, faults: &Faults) -> Result<Vec<Ran>, SimError> {
        let (first, died) = self.once(task, faults).await?;
        if !died {
            return Ok(vec![first]);
        }
        let (second, _) = self.once(task, &faults.after_a_death()).await?;
        Ok(vec![first, second])
    }

    /// Runs a task; whether the host died over it.
    async fn once(&self, task: &Task, faults: &Faults) -> Result<(Ran, bool), SimError> {
        let stops = Stops::default();
        let witness = Witness::new(faults.clone(), stops.clone());
        let capabilities = Capabilities::new(self.backends(&witness));
        let manifest = Arc::clone(&self.agent.manifest);
        let folders = self.world.files.grant(&manifest.grants.files);
        let folders = folders.map_err(|error| SimError::Fixture(error.to_string()))?;
        let (code, digest) = (self.agent.code.clone(), self.agent.digest.clone());
        let revision = Arc::new(code.into_revision(1, digest, manifest, &capabilities, folders));
        let runner = self.machine.runner(capabilities);
        let run = Arc::new(SimulatedRun { task: task.clone(), revision, is_replay: false, progress: Mutex::default() });
        self.machine.recorder.take();
        let (mut completion, _) = runner.run(Arc::clone(&run) as Arc<dyn Run>, stops.clone()).await;
        // Without SQL there is no commit to die at: the host does so before it tells the broker.
        let died =
            stops.interrupt.is_cancelled() || witness.injected().iter().any(|what| what.contains("at the commit"));
        let died = died || witness.dies_at_commit();
        if died {
            completion.outcome = Outcome::Interrupted;
            completion.follow_ups.clear();
        }
        let progress = run.progress.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ran = Ran {
            completion,
            tallies: witness.tallies(),
            injected: witness.injected(),
            log: self.machine.recorder.take(),
            progress,
        };
        Ok((ran, died))
    }

    fn backends(&self, witness: &Arc<Witness>) -> Backends {
        let network = witness.network(Arc::clone(&self.world.network));
        // A task can go to whatever agent the manifest names: which of them a host has is not known here.
        let directory = |_: &AgentName| true;
        Backends {
            database: witness.database(Arc::clone(&self.machine.database), self.alias.clone()),
            key_value: witness.key_value(Arc::clone(&self.world.key_value) as _),
            cache: witness.cache(Arc::clone(&self.world.cache) as _),
            secrets: Arc::new(self.world.secrets.clone()),
            outbound: Arc::new(crate::capability::outbound_http::Outbound::new(network)),
            directory: Arc::new(directory),
        }
    }
}

/// A task in the machine's hands.
struct SimulatedRun {
    task: Task,
    revision: Arc<Revision>,
    is_replay: bool,
    progress: Mutex<Option<Progress>>,
}

impl ProgressSink for SimulatedRun {
    fn note(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }
}

impl Run for SimulatedRun {
    fn task(&self) -> &Task {
        &self.task
    }

    fn revision(&self) -> &Arc<Revision> {
        &self.revision
    }

    fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// Nobody keeps it: the simulator's database has no records.
    fn ending(&self, completion: &Completion) -> Ending {
        let succeeded = matches!(completion.outcome, Outcome::Succeeded(_));
        Ending::from(Update {
            id: self.task.id.clone(),
            agent: self.task.agent.clone(),
            revision: Some(self.revision.number),
            status: if succeeded { Status::Succeeded } else { Status::Failed },
            attempt: self.task.attempt,
            generation: self.task.generation,
            output: completion.outcome.output().cloned(),
            failure: completion.outcome.failure(),
            usage: Some(completion.usage),
            enqueued_at_ms: self.task.enqueued_at_ms,
            started_at_ms: None,
            finished_at_ms: None,
        })
    }
}
