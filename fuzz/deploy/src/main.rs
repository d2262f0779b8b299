//! A libFuzzer target for deploying: bytes are looked at, compiled, instantiated and run within small limits, as an upload is.
//!
//! Contract: a run ends only with the time it was given. Anything else is a finding: a panic, a host call that fails, an
//! instance or memory that stays, an error that says nothing, an input that takes seconds. Modules are compiled in this
//! process, so that what breaks the compiler is found too.
//!
//! The first byte of an input chooses how the rest is read.

#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target that cannot start finds nothing, and a panic is how it reports"
)]

mod guests;

use std::sync::{Arc, LazyLock};

use agent_host::agent::{
    Codes, Engine, EngineConfig, InProcessCompiler, LoadError, Loader, MemoryLedger, Revision, Run, Runner,
    RunnerConfig, Stops,
};
use agent_host::capability::cache::MemoryCache;
use agent_host::capability::files::Folders;
use agent_host::capability::key_value::MemoryKeyValue;
use agent_host::capability::secrets::EnvironmentSecrets;
use agent_host::capability::sql::LazyDatabase;
use agent_host::capability::tasks::ProgressSink;
use agent_host::capability::{Backends, Capabilities};
use agent_host::manifest::Manifest;
use agent_host::records::{Ending, Progress};
use agent_host::task::{AgentName, Completion, Outcome, Task};
use agent_host::units::ByteSize;
use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};

/// Limits that a hostile module meets soon.
const MANIFEST: &str = r#"
manifest_version = 1
[agent]
name = "fuzz"
module = "fuzz.wasm"
[limits]
memory = "1MiB"
timeout = "200ms"
cpu = "100ms"
output = "64KiB"
log = "4KiB"
[grants]
key_value = ["default"]
cache = true
"#;
const INSTANCES_MAX: u32 = 4;
/// What an error may say at most, in bytes: it goes to a person.
const ERROR_BYTES_MAX: usize = 16 << 10;

struct Host {
    threads: tokio::runtime::Runtime,
    loader: Loader,
    runner: Runner,
    ledger: MemoryLedger,
    capabilities: Capabilities,
    manifest: Arc<Manifest>,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let engine = Engine::new(&EngineConfig { instances_max: INSTANCES_MAX, memory_bytes_max: 2 << 20 }).unwrap();
    let compiler = Arc::new(InProcessCompiler::new().unwrap());
    let loader = Loader::new(&engine, Codes::temporary(ByteSize(0), &engine, compiler).unwrap()).unwrap();
    let ledger = MemoryLedger::new(16 << 20);
    let capabilities = Capabilities::new(Backends {
        database: Arc::new(LazyDatabase::new(std::env::temp_dir())),
        key_value: Arc::new(MemoryKeyValue::new()),
        cache: Arc::new(MemoryCache::new()),
        secrets: Arc::new(EnvironmentSecrets::default()),
        directory: Arc::new(|_: &AgentName| false),
    });
    let config = RunnerConfig { instances_max: INSTANCES_MAX, hostcall_bytes_max: 1 << 20 };
    let runner = Runner::new(&config, engine, ledger.clone(), capabilities.clone(), threads.handle().clone());
    Host { threads, loader, runner, ledger, capabilities, manifest: Arc::new(Manifest::parse(MANIFEST).unwrap()) }
});

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
        panic!("an agent without SQL commits nothing")
    }
}

fuzz_target!(|data: &[u8]| -> Corpus { run(data) });

fn run(data: &[u8]) -> Corpus {
    let Some((kind, rest)) = data.split_first() else { return Corpus::Reject };
    let mut choices = Unstructured::new(rest);
    let module = match kind {
        // Anything.
        b'r' => Some(rest.to_vec()),
        // An agent with some bytes changed.
        b'm' => guests::mutated(&mut choices).ok(),
        // A valid component.
        b'c' => guests::component(&mut choices).ok(),
        // A valid agent that does anything.
        b'a' => guests::agent(&mut choices).ok(),
        _ => None,
    };
    let Some(module) = module else { return Corpus::Reject };
    HOST.threads.block_on(deploy(module));
    assert_eq!(HOST.runner.live_instances(), 0, "an instance stays");
    assert_eq!(HOST.ledger.bytes_reserved(), 0, "memory stays");
    Corpus::Keep
}

/// As a host deploys and then runs a task.
async fn deploy(module: Vec<u8>) {
    let host = &*HOST;
    let code = match host.loader.load(&module.into(), &host.manifest).await {
        Ok(code) => code,
        Err(error) => return judge(&error),
    };
    let manifest = Arc::clone(&host.manifest);
    let revision = code.into_revision(1, String::new(), manifest, &host.capabilities, Folders::default());
    let revision = Arc::new(revision);
    if let Err(error) = host.runner.try_start(&revision).await {
        return judge(&error);
    }
    let task = Task::new(revision.agent.clone(), b"body".as_slice());
    let (completion, _) = host.runner.run(Arc::new(Attempt { revision, task }), Stops::default()).await;
    if let Outcome::HostError { message } = &completion.outcome {
        panic!("a host call failed: {message}");
    }
}

fn judge(error: &LoadError) {
    let said = error.to_string();
    assert!(!said.trim().is_empty() && said.len() <= ERROR_BYTES_MAX, "{} bytes: {error:?}", said.len());
}
