//! The host's engine and runner without the rest of a host, for what happens once a task is in the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that does not run measures nothing"
)]

use std::path::Path;
use std::sync::Arc;

use agent_host::agent::{
    Codes, Engine, EngineConfig, InProcessCompiler, Loader, Revision, Run, Runner, RunnerConfig, Stops,
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
use tokio::runtime::Handle;

/// What runs tasks.
pub struct Guests {
    /// With the host's settings.
    pub engine: Engine,
    /// The host's own.
    pub runner: Runner,
    loader: Loader,
    capabilities: Capabilities,
}

impl Guests {
    /// On these threads, for so many tasks at once.
    ///
    /// # Panics
    /// The machine does not give what an engine needs.
    #[must_use]
    pub fn on(threads: Handle, instances_max: u32) -> Self {
        let engine = Engine::new(&EngineConfig { instances_max, memory_bytes_max: 500 << 20 }).unwrap();
        let compiler = Arc::new(InProcessCompiler::new().unwrap());
        let codes = Codes::temporary(ByteSize(u64::MAX), &engine, compiler).unwrap();
        let loader = Loader::new(&engine, codes).unwrap();
        let capabilities = embedded_capabilities();
        let config = RunnerConfig { hostcall_bytes_max: 16 << 20 };
        let ledger = MemoryLedger::new(300 << 20, instances_max);
        let runner = Runner::new(&config, engine.clone(), ledger, capabilities.clone(), threads);
        Self { engine, runner, loader, capabilities }
    }

    /// An agent, compiled.
    ///
    /// # Panics
    /// The module is none.
    pub async fn revision(&self, module: Vec<u8>, manifest: &Arc<Manifest>) -> Arc<Revision> {
        let code = self.loader.load(&module.into(), manifest).await.unwrap();
        let manifest = Arc::clone(manifest);
        Arc::new(code.into_revision(1, String::new(), manifest, &self.capabilities, Folders::default()))
    }
}

/// The module of the echo agent and its manifest.
///
/// # Panics
/// It is not built.
#[must_use]
pub fn echo() -> (Vec<u8>, Arc<Manifest>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agents/echo");
    let module = std::fs::read(folder.join("echo.wasm")).expect("the echo agent is built: cargo xtask agents");
    let manifest = Manifest::parse(&std::fs::read_to_string(folder.join("agent.toml")).unwrap()).unwrap();
    (module, Arc::new(manifest))
}

/// Runs one task to its end.
pub async fn run(runner: &Runner, revision: &Arc<Revision>, body: &[u8]) -> Outcome {
    run_until(runner, revision, body, Stops::default()).await
}

/// Likewise, unless it is stopped before.
pub async fn run_until(runner: &Runner, revision: &Arc<Revision>, body: &[u8], stops: Stops) -> Outcome {
    let attempt = Attempt { task: Task::new(revision.agent.clone(), body.to_vec()), revision: Arc::clone(revision) };
    runner.run(Arc::new(attempt), stops).await.0.outcome
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
        panic!("these agents commit nothing")
    }
}

/// Nothing real behind the capabilities: these agents use none.
fn embedded_capabilities() -> Capabilities {
    Capabilities::new(Backends {
        database: Arc::new(LazyDatabase::new(std::env::temp_dir())),
        key_value: Arc::new(MemoryKeyValue::new()),
        cache: Arc::new(MemoryCache::new()),
        secrets: Arc::new(EnvironmentSecrets::default()),
        directory: Arc::new(|_: &AgentName| false),
        outbound: Arc::new(Outbound::new(Arc::new(MemoryNetwork::new()))),
    })
}
