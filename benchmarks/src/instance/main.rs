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

use std::sync::Arc;
use std::time::Instant;

use agent_host::agent::{Engine, GuestThreads, Revision, Runner};
use agent_host::task::Outcome;
use benchmarks::in_process::{self, Guests};
use criterion::{Criterion, Throughput};
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
/// Enough that their median is the same to a hundredth from run to run.
const PAIRS: usize = 2_000;
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

async fn hosted(runner: Runner, revision: Arc<Revision>) {
    let outcome = in_process::run(&runner, &revision, BODY).await;
    assert!(matches!(outcome, Outcome::Succeeded(Some(output)) if output.body == BODY));
}

/// Both sides, ready to run tasks.
struct Sides {
    threads: GuestThreads,
    engine: Engine,
    pre: HostNativePre<BareState>,
    runner: Runner,
    revision: Arc<Revision>,
}

impl Sides {
    fn ready() -> Self {
        let (module, manifest) = in_process::echo();
        let threads = GuestThreads::start().unwrap();
        let guests = Guests::on(threads.handle(), INSTANCES_MAX);
        let engine = guests.engine.clone();

        let mut linker = Linker::<BareState>::new(engine.inner());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let component = Component::new(engine.inner(), &module).unwrap();
        let pre = HostNativePre::new(linker.instantiate_pre(&component).unwrap()).unwrap();

        let revision = threads.handle().block_on(guests.revision(module, &manifest));
        Self { threads, engine, pre, runner: guests.runner, revision }
    }

    async fn bare_batch(&self) {
        let tasks = (0..TASKS_AT_ONCE).map(|_| tokio::spawn(bare(self.engine.inner().clone(), self.pre.clone())));
        futures::future::try_join_all(tasks).await.unwrap();
    }

    async fn hosted_batch(&self) {
        let task = |_| tokio::spawn(hosted(self.runner.clone(), Arc::clone(&self.revision)));
        futures::future::try_join_all((0..TASKS_AT_ONCE).map(task)).await.unwrap();
    }
}

fn each_alone(criterion: &mut Criterion, sides: &Sides) {
    let threads = sides.threads.handle();
    let mut group = criterion.benchmark_group("fresh instance");
    group.throughput(Throughput::Elements(TASKS_AT_ONCE));
    group.bench_function("bare wasmtime", |bencher| bencher.to_async(&threads).iter(|| sides.bare_batch()));
    group.bench_function("agent-host", |bencher| bencher.to_async(&threads).iter(|| sides.hosted_batch()));
    group.finish();
}

/// Batches of both sides in turn, so that a machine that slows down slows both: the ratio of each pair, and their quartiles.
fn in_pairs(sides: &Sides) {
    let timed = |hosted: bool| {
        let begun = Instant::now();
        sides
            .threads
            .handle()
            .block_on(async { if hosted { sides.hosted_batch().await } else { sides.bare_batch().await } });
        begun.elapsed().as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..PAIRS)
        .map(|pair| {
            // Who goes first alternates too.
            if pair % 2 == 0 {
                let bare = timed(false);
                timed(true) / bare
            } else {
                timed(true) / timed(false)
            }
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let [low, median, high] = [PAIRS / 4, PAIRS / 2, PAIRS / 4 * 3].map(|at| ratios[at]);
    println!(
        "agent-host / bare wasmtime, {PAIRS} pairs of batches: median {median:.2}, quartiles {low:.2} and {high:.2}"
    );
}

fn main() {
    let sides = Sides::ready();
    let mut criterion = Criterion::default().configure_from_args();
    each_alone(&mut criterion, &sides);
    criterion.final_summary();
    in_pairs(&sides);
}
