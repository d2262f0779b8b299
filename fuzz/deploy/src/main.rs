//! Deploys and runs modules within small limits, as a host does with what is uploaded: from files, or from standard input as
//! `fuzz-modules` writes them.
//!
//! Contract: it ends with status 0 only if nothing was found. A finding is a panic or a crash, a host call that fails, an
//! instance or memory that stays, an error that says nothing or too much, a module that takes seconds; the module is then in
//! the file that `--artifact` names. Modules are compiled in this process, so that what breaks the compiler is found too.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_host::agent::{
    Codes, Engine, EngineConfig, InProcessCompiler, LoadError, Loader, Revision, Run, Runner, RunnerConfig, Stops,
};
use agent_host::capability::cache::MemoryCache;
use agent_host::capability::files::Folders;
use agent_host::capability::key_value::MemoryKeyValue;
use agent_host::capability::outbound_http::{MemoryNetwork, Outbound};
use agent_host::capability::secrets::EnvironmentSecrets;
use agent_host::capability::sql::LazyDatabase;
use agent_host::capability::tasks::ProgressSink;
use agent_host::capability::{Backends, Capabilities};
use agent_host::manifest::Manifest;
use agent_host::memory::MemoryLedger;
use agent_host::records::{Ending, Progress};
use agent_host::task::{AgentName, Completion, Outcome, Task};
use agent_host::units::ByteSize;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;

/// Limits that a hostile module meets soon.
const MANIFEST: &str = r#"
manifest_version = 1
[agent]
name = "fuzz"
module = "fuzz.wasm"
[limits]
memory = "1MiB"
timeout = "100ms"
cpu = "50ms"
output = "64KiB"
log = "4KiB"
[grants]
key_value = ["default"]
cache = true
"#;
const INSTANCES_MAX: u32 = 4;
/// What an error may say at most, in bytes: it goes to a person.
const ERROR_BYTES_MAX: usize = 16 << 10;
/// How long one module may take, compiling included. They have a few kilobytes.
const MODULE_MAX: Duration = Duration::from_secs(20);

/// Deploys and runs modules.
#[derive(Parser)]
struct Options {
    /// For how long modules are taken from standard input, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the module lies that is being run
    #[arg(long)]
    artifact: Option<PathBuf>,
    /// Files to run instead
    files: Vec<PathBuf>,
}

struct Host {
    loader: Loader,
    runner: Runner,
    ledger: MemoryLedger,
    capabilities: Capabilities,
    manifest: Arc<Manifest>,
}

/// An attempt that nobody watches.
struct Attempt {
    revision: Arc<Revision>,
    task: Task,
}

impl ProgressSink for Attempt {
    fn note(&self, _: Progress) {}
}

impl Run for Attempt {
    fn task(&self) -> &Task {
        &self.task
    }

    fn revision(&self) -> &Arc<Revision> {
        &self.revision
    }

    fn ending(&self, _: &Completion) -> Ending {
        unreachable!("an agent without a grant of SQL commits nothing")
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let host = Host::new(threads.handle())?;
    let watch = Watch::start();
    let run = |module: Vec<u8>| {
        watch.begin();
        let ended = threads.block_on(host.deploy(module));
        watch.end();
        ended
    };
    for file in &options.files {
        let module = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        println!("{}: {}", file.display(), run(module)?);
    }
    if !options.files.is_empty() {
        return Ok(());
    }
    let (began, mut executions, mut ends) = (Instant::now(), 0_u64, BTreeMap::<_, u64>::new());
    while began.elapsed() < Duration::from_secs(options.seconds) {
        let Some((kind, module)) = next()? else { break };
        keep(options.artifact.as_deref(), &module)?;
        *ends.entry((kind, run(module)?)).or_default() += 1;
        executions += 1;
    }
    if let Some(artifact) = &options.artifact {
        std::fs::remove_file(artifact)?;
    }
    for ((kind, end), count) in ends {
        println!("{kind}: {count:>7} {end}");
    }
    println!("{executions} executions in {} s; nothing was found", began.elapsed().as_secs());
    Ok(())
}

/// The next module of standard input, with the letter of its kind.
fn next() -> Result<Option<(char, Vec<u8>)>> {
    let mut input = std::io::stdin().lock();
    let mut head = [0; 5];
    match input.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let [kind, length @ ..] = head;
    let mut module = vec![0; usize::try_from(u32::from_le_bytes(length))?];
    input.read_exact(&mut module)?;
    Ok(Some((char::from(kind), module)))
}

/// Leaves the module where it is found if this process does not survive it.
fn keep(artifact: Option<&Path>, module: &[u8]) -> Result<()> {
    let Some(artifact) = artifact else { return Ok(()) };
    std::fs::write(artifact, module).with_context(|| format!("writing {}", artifact.display()))
}

impl Host {
    fn new(threads: &tokio::runtime::Handle) -> Result<Self> {
        let engine = Engine::new(&EngineConfig { instances_max: INSTANCES_MAX, memory_bytes_max: 2 << 20 })?;
        let compiler = Arc::new(InProcessCompiler::new()?);
        let loader = Loader::new(&engine, Codes::temporary(ByteSize(0), &engine, compiler)?)?;
        let ledger = MemoryLedger::new(16 << 20, INSTANCES_MAX);
        let capabilities = Capabilities::new(Backends {
            database: Arc::new(LazyDatabase::new(std::env::temp_dir())),
            key_value: Arc::new(MemoryKeyValue::new()),
            cache: Arc::new(MemoryCache::new()),
            secrets: Arc::new(EnvironmentSecrets::default()),
            directory: Arc::new(|_: &AgentName| false),
            outbound: Arc::new(Outbound::new(Arc::new(MemoryNetwork::new()))),
        });
        let config = RunnerConfig { hostcall_bytes_max: 1 << 20 };
        let runner = Runner::new(&config, engine, ledger.clone(), capabilities.clone(), threads.clone());
        Ok(Self { loader, runner, ledger, capabilities, manifest: Arc::new(Manifest::parse(MANIFEST)?) })
    }

    /// As a host deploys and then runs a task. Gives how far the module came.
    async fn deploy(&self, module: Vec<u8>) -> Result<&'static str> {
        let end = self.run(module).await?;
        ensure!(self.runner.live_instances() == 0, "an instance stays");
        let reserved = self.ledger.accounts().reserved_bytes;
        ensure!(reserved == 0, "{reserved} bytes of memory stay");
        Ok(end)
    }

    async fn run(&self, module: Vec<u8>) -> Result<&'static str> {
        let code = match self.loader.load(&module.into(), &self.manifest).await {
            Ok(code) => code,
            Err(error) => return refused(&error),
        };
        let manifest = Arc::clone(&self.manifest);
        let revision = code.into_revision(1, String::new(), manifest, &self.capabilities, Folders::default());
        let revision = Arc::new(revision);
        if let Err(error) = self.runner.try_start(&revision).await {
            return refused(&error);
        }
        let task = Task::new(revision.agent.clone(), b"body".as_slice());
        let (completion, _) = self.runner.run(Arc::new(Attempt { revision, task }), Stops::default()).await;
        match &completion.outcome {
            Outcome::HostError { message } => bail!("a host call failed: {message}"),
            outcome => Ok(outcome.name()),
        }
    }
}

/// A refusal must tell a person something, and not everything.
fn refused(error: &LoadError) -> Result<&'static str> {
    let said = error.to_string();
    ensure!(!said.trim().is_empty(), "an error that says nothing: {error:?}");
    ensure!(said.len() <= ERROR_BYTES_MAX, "an error of {} bytes", said.len());
    Ok(match error {
        LoadError::Compile(_) => "refused by the compiler",
        LoadError::Unfit(_) => "refused by the pool",
        LoadError::Start(_) => "refused at its start",
        _ => "refused when looked at",
    })
}

/// Ends the process where a module takes too long: nothing else could.
struct Watch {
    /// When the module began, in ms since the start; 0 between modules.
    began_ms: Arc<AtomicU64>,
    start: Instant,
}

impl Watch {
    fn start() -> Self {
        let watch = Self { began_ms: Arc::default(), start: Instant::now() };
        let (began_ms, start) = (Arc::clone(&watch.began_ms), watch.start);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(100));
                let began = Duration::from_millis(began_ms.load(Ordering::Relaxed));
                if !began.is_zero() && start.elapsed().saturating_sub(began) > MODULE_MAX {
                    eprintln!("a module takes longer than {} s", MODULE_MAX.as_secs());
                    std::process::abort();
                }
            }
        });
        watch
    }

    fn begin(&self) {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    fn end(&self) {
        self.began_ms.store(0, Ordering::Relaxed);
    }
}
