//! What the engine's settings are worth: a task in a fresh instance of bare wasmtime, on an engine as the host makes it, and
//! on engines with one setting changed.
//!
//! All take turns, a batch each, so that a machine that slows down slows all. The figure is the median of the rounds' ratios.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark that does not run measures nothing, and its numbers are small"
)]

use std::time::Instant;

use agent_host::agent::{EngineConfig, GuestThreads};
use benchmarks::bare_wasmtime::Agent;
use benchmarks::{figures, in_process};
use clap::Parser;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, UpdateDeadline};

/// Measures what the engine's settings are worth.
#[derive(Parser)]
struct Options {
    /// Rounds of all sides.
    #[arg(long, default_value_t = 500)]
    rounds: usize,
}

const TASKS_AT_ONCE: usize = 64;
const INSTANCES_MAX: u32 = 128;
const MEMORY_BYTES_MAX: usize = 500 << 20;
/// What stays of memories, tables and stacks in the host.
const MEMORY_STAYS_BYTES: usize = 128 << 10;
const TABLE_STAYS_BYTES: usize = 16 << 10;
const STACK_STAYS_BYTES: usize = 32 << 10;

/// What is different from the host.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    /// Nothing, and made by the host itself.
    Host,
    /// Nothing: says that the engines made here are like the host's.
    Copy,
    OnDemand,
    NoScan,
    NothingStays,
    MoreStackStays,
    Batches,
    LateDeadline,
}

const CHANGES: [(Change, &str); 8] = [
    (Change::Host, "as the host has it"),
    (Change::Copy, "the same, made by the bench"),
    (Change::OnDemand, "instances allocated on demand, not from a pool"),
    (Change::NoScan, "the kernel is not asked which pages were touched"),
    (Change::NothingStays, "nothing stays resident between instances"),
    (Change::MoreStackStays, "64 KiB of a stack stay, not 32"),
    (Change::Batches, "memory given back in batches of 16"),
    (Change::LateDeadline, "the epoch deadline set only when it is met"),
];

fn engine(change: Change) -> Engine {
    if change == Change::Host {
        let config = EngineConfig { instances_max: INSTANCES_MAX, memory_bytes_max: MEMORY_BYTES_MAX };
        return agent_host::agent::Engine::new(&config).unwrap().inner().clone();
    }
    let mut config = Config::new();
    config.epoch_interruption(true).concurrency_support(false).async_stack_zeroing(true);
    if change != Change::OnDemand {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(change)));
    }
    Engine::new(&config).unwrap()
}

fn pool(change: Change) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(INSTANCES_MAX * 30)
        .total_memories(INSTANCES_MAX)
        .total_tables(INSTANCES_MAX * 2)
        .total_stacks(INSTANCES_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .max_unused_warm_slots(16)
        .pagemap_scan(if change == Change::NoScan { Enabled::No } else { Enabled::Auto });
    if change != Change::NothingStays {
        let stack = if change == Change::MoreStackStays { 2 * STACK_STAYS_BYTES } else { STACK_STAYS_BYTES };
        pool.linear_memory_keep_resident(MEMORY_STAYS_BYTES)
            .table_keep_resident(TABLE_STAYS_BYTES)
            .async_stack_keep_resident(stack);
    }
    if change == Change::Batches {
        pool.decommit_batch_size(16);
    }
    pool
}

async fn run(agent: Agent, change: Change) {
    if change != Change::LateDeadline {
        return agent.run().await;
    }
    let mut store = agent.store();
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Continue(u64::MAX / 2)));
    agent.start_in(store).await.call().await;
}

fn main() {
    let options = Options::parse();
    let (module, _) = in_process::echo();
    let threads = GuestThreads::start().unwrap();
    let sides: Vec<_> = CHANGES.iter().map(|(change, _)| (*change, Agent::new(&engine(*change), &module))).collect();
    let batch = |(change, agent): &(Change, Agent)| {
        let begun = Instant::now();
        threads.handle().block_on(async {
            let tasks = (0..TASKS_AT_ONCE).map(|_| tokio::spawn(run(agent.clone(), *change)));
            futures::future::try_join_all(tasks).await.unwrap();
        });
        begun.elapsed().as_secs_f64()
    };
    // Slots and images are made at the first use.
    for side in &sides {
        batch(side);
    }
    let rounds: Vec<Vec<f64>> = (0..options.rounds)
        .map(|round| {
            let mut took: Vec<f64> =
                sides.iter().cycle().skip(round % sides.len()).take(sides.len()).map(batch).collect();
            // Whoever goes first changes; the columns do not.
            took.rotate_right(round % sides.len());
            took
        })
        .collect();

    println!("{:<52} {:>12} {:>10} {:>20}", "", "µs of a task", "in relation", "quartiles");
    for (at, (_, name)) in CHANGES.iter().enumerate() {
        let of = |round: &Vec<f64>| round.get(at).copied().unwrap_or(f64::NAN);
        let us = figures::median(rounds.iter().map(of).collect()) / TASKS_AT_ONCE as f64 * 1e6;
        let ratios: Vec<f64> =
            rounds.iter().map(|round| of(round) / round.first().copied().unwrap_or(f64::NAN)).collect();
        let [low, median, high] = [0.25, 0.5, 0.75].map(|part| figures::quantile(ratios.clone(), part));
        println!("{name:<52} {us:>12.1} {median:>10.2} {:>20}", format!("{low:.2} and {high:.2}"));
    }
}
