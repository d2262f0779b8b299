//! What a task costs in a fresh instance: agent-host's runner against bare wasmtime doing the same with the same module,
//! engine settings and threads.
//!
//! The difference is what the host adds: admission, memory rationing, limits, timeouts, capability sessions, outcomes.
//! Tasks are started 64 at a time, as a busy host does, so that neither side measures the wake-up of an idle thread.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
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
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wasmtime::Store;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated from documented WIT")]
    wasmtime::component::bindgen!({ path: "../wit", world: "host-native", imports: { default: async | trappable }, exports: { default: async } });
}
use bindings::HostNativePre;
use bindings::exports::agent::runtime::handler;

const TASKS_AT_ONCE: u64 = 64;
const INSTANCES_MAX: u32 = 128;
const BODY: &[u8] = &[b'x'; 256];

struct BareState {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for BareState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The least that an embedder writes: a store, an instance, a call.
async fn bare(engine: wasmtime::Engine, pre: HostNativePre<BareState>) {
    let state = BareState { wasi: WasiCtxBuilder::new().build(), table: ResourceTable::new() };
    let mut store = Store::new(&engine, state);
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = pre.instantiate_async(&mut store).await.unwrap();
    let task = handler::Task {
        id: "benchmark".into(),
        agent: "echo".into(),
        revision: 1,
        attempt: 1,
        max_attempts: 1,
        enqueued_at: 0,
        deadline: 0,
        headers: Vec::new(),
        content_type: "application/octet-stream".into(),
        body: BODY.to_vec(),
        traceparent: None,
    };
    let output = instance.agent_runtime_handler().call_handle(&mut store, &task).await.unwrap();
    assert_eq!(output.unwrap().unwrap().body, BODY);
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
        panic!("echo commits nothing")
    }
}

async fn hosted(runner: Runner, revision: Arc<Revision>) {
    let task = Task::new(revision.agent.clone(), BODY);
    let (completion, _) = runner.run(Arc::new(Attempt { revision, task }), Stops::default()).await;
    assert!(matches!(completion.outcome, Outcome::Succeeded(Some(output)) if output.body == BODY));
}

/// Nothing real behind the capabilities: echo uses none.
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

fn instance(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agents/echo");
    let module = std::fs::read(folder.join("echo.wasm")).expect("the echo agent is built: cargo xtask agents");
    let manifest = Arc::new(Manifest::parse(&std::fs::read_to_string(folder.join("agent.toml")).unwrap()).unwrap());
    let engine = Engine::new(&EngineConfig { instances_max: INSTANCES_MAX, memory_bytes_max: 500 << 20 }).unwrap();
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();

    let mut linker = Linker::<BareState>::new(engine.inner());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    let component = Component::new(engine.inner(), &module).unwrap();
    let pre = HostNativePre::new(linker.instantiate_pre(&component).unwrap()).unwrap();

    let compiler = Arc::new(InProcessCompiler::new().unwrap());
    let codes = Codes::temporary(ByteSize(u64::MAX), &engine, compiler).unwrap();
    let loader = Loader::new(&engine, codes).unwrap();
    let code = threads.block_on(loader.load(&module.into(), &manifest)).unwrap();
    let capabilities = embedded_capabilities();
    let revision = code.into_revision(1, String::new(), manifest, &capabilities, Folders::default());
    let revision = Arc::new(revision);
    let config = RunnerConfig { hostcall_bytes_max: 16 << 20 };
    let ledger = MemoryLedger::new(300 << 20, INSTANCES_MAX);
    let runner = Runner::new(&config, engine.clone(), ledger, capabilities, threads.handle().clone());

    let mut group = criterion.benchmark_group("fresh instance");
    group.throughput(Throughput::Elements(TASKS_AT_ONCE));
    group.bench_function("bare wasmtime", |bencher| {
        bencher.to_async(&threads).iter(|| async {
            let tasks = (0..TASKS_AT_ONCE).map(|_| tokio::spawn(bare(engine.inner().clone(), pre.clone())));
            futures::future::try_join_all(tasks).await.unwrap();
        });
    });
    group.bench_function("agent-host", |bencher| {
        bencher.to_async(&threads).iter(|| async {
            let tasks = (0..TASKS_AT_ONCE).map(|_| tokio::spawn(hosted(runner.clone(), Arc::clone(&revision))));
            futures::future::try_join_all(tasks).await.unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, instance);
criterion_main!(benches);
