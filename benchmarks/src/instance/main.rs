//! What a task costs in a fresh instance: agent-host's runner against bare wasmtime doing the same with the same module,
//! engine settings and threads, and against instances of bare wasmtime that are called again and again.
//!
//! The first difference is what the host adds: admission, memory rationing, limits, timeouts, capability sessions, outcomes.
//! The second one is the price of a sandbox for each task.
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

use agent_host::agent::{GuestThreads, Revision, Runner};
use agent_host::task::Outcome;
use benchmarks::bare_wasmtime::{Agent, BODY, Instance};
use benchmarks::figures;
use benchmarks::in_process::{self, Guests};
use criterion::{Criterion, Throughput};
use tokio::sync::Mutex;

/// The host's own, on both sides.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TASKS_AT_ONCE: u64 = 64;
const INSTANCES_MAX: u32 = 128;
/// Enough that their median is the same to a hundredth from run to run.
const PAIRS: usize = 2_000;

async fn hosted(runner: Runner, revision: Arc<Revision>) {
    let outcome = in_process::run(&runner, &revision, BODY).await;
    assert!(matches!(outcome, Outcome::Succeeded(Some(output)) if output.body == BODY));
}

/// Both sides, ready to run tasks.
struct Sides {
    threads: GuestThreads,
    bare: Agent,
    runner: Runner,
    revision: Arc<Revision>,
    reused: Vec<Arc<Mutex<Instance>>>,
}

impl Sides {
    fn ready() -> Self {
        let (module, manifest) = in_process::echo();
        let threads = GuestThreads::start().unwrap();
        let guests = Guests::on(threads.handle(), INSTANCES_MAX);
        let bare = Agent::new(guests.engine.inner(), &module);
        let revision = threads.handle().block_on(guests.revision(module, &manifest));
        let workers = threads.handle().metrics().num_workers();
        let reused = (0..workers).map(|_| {
            let reused = threads.handle().block_on(bare.start());
            Arc::new(Mutex::new(reused))
        });
        let reused = reused.collect();
        Self { threads, bare, runner: guests.runner, revision, reused }
    }

    async fn bare_batch(&self) {
        let tasks = (0..TASKS_AT_ONCE).map(|_| tokio::spawn(self.bare.clone().run()));
        futures::future::try_join_all(tasks).await.unwrap();
    }

    async fn hosted_batch(&self) {
        // Not spawned here: the runner does so itself, once for each task, as the other side does.
        let task = |_| hosted(self.runner.clone(), Arc::clone(&self.revision));
        futures::future::join_all((0..TASKS_AT_ONCE).map(task)).await;
    }

    /// One instance for each thread, each called in turn.
    async fn reused_batch(&self) {
        let share = TASKS_AT_ONCE / self.reused.len() as u64;
        let calls = self.reused.iter().map(|reused| {
            let reused = Arc::clone(reused);
            tokio::spawn(async move {
                let mut reused = reused.lock().await;
                for _ in 0..share {
                    reused.call().await;
                }
            })
        });
        futures::future::try_join_all(calls).await.unwrap();
    }

    fn timed(&self, side: Side) -> f64 {
        let begun = Instant::now();
        self.threads.handle().block_on(async {
            match side {
                Side::Bare => self.bare_batch().await,
                Side::Hosted => self.hosted_batch().await,
                Side::Reused => self.reused_batch().await,
            }
        });
        begun.elapsed().as_secs_f64()
    }
}

/// Who runs a batch.
#[derive(Clone, Copy)]
enum Side {
    Bare,
    Hosted,
    Reused,
}

fn each_alone(criterion: &mut Criterion, sides: &Sides) {
    let threads = sides.threads.handle();
    let mut group = criterion.benchmark_group("one task");
    group.throughput(Throughput::Elements(TASKS_AT_ONCE));
    group.bench_function("bare wasmtime", |bencher| bencher.to_async(&threads).iter(|| sides.bare_batch()));
    group.bench_function("agent-host", |bencher| bencher.to_async(&threads).iter(|| sides.hosted_batch()));
    group.bench_function("bare wasmtime, reused", |bencher| bencher.to_async(&threads).iter(|| sides.reused_batch()));
    group.finish();
}

/// Batches of agent-host and another side in turn, so that a machine that slows down slows both: the ratio of each pair, and
/// their quartiles. Gives the median.
fn in_pairs(sides: &Sides, name: &str, other: Side) -> f64 {
    let ratios: Vec<f64> = (0..PAIRS)
        .map(|pair| {
            // Who goes first alternates too.
            if pair % 2 == 0 {
                let others = sides.timed(other);
                sides.timed(Side::Hosted) / others
            } else {
                sides.timed(Side::Hosted) / sides.timed(other)
            }
        })
        .collect();
    let [low, median, high] = [0.25, 0.5, 0.75].map(|part| figures::quantile(ratios.clone(), part));
    println!("agent-host / {name}, {PAIRS} pairs of batches: median {median:.2}, quartiles {low:.2} and {high:.2}");
    median
}

fn main() {
    let sides = Sides::ready();
    let mut criterion = Criterion::default().configure_from_args();
    each_alone(&mut criterion, &sides);
    criterion.final_summary();
    in_pairs(&sides, "bare wasmtime, reused", Side::Reused);
    let ratio = in_pairs(&sides, "bare wasmtime", Side::Bare);
    figures::note("instance.time", ratio).unwrap();
}
