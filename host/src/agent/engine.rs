//! The one wasmtime engine of the process, and the clock that interrupts guests.
//!
//! Exactly one engine: stores and linkers of different engines must not mix (GHSA-hgjw-h833-99q9), and code that is
//! compiled once serves every instance.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails, WasmFeatures};

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Slots of the instance pool, the most instances alive at once. A slot is address space, not memory: memory is
    /// rationed by the [`MemoryLedger`](crate::memory::MemoryLedger).
    pub instances_max: u32,
    /// Largest linear memory of any instance, in bytes.
    pub memory_bytes_max: usize,
}

/// How often guests are interrupted to look at their limits. 10 ms is what Spin uses: a spinning guest delays its
/// thread's other tasks by no more than this.
pub(super) const EPOCH_PERIOD: Duration = Duration::from_millis(10);

/// Bytes of a linear memory that stay resident in a slot between instances, of those that were touched: the usual dirty set
/// of a small guest, which is then reset in place. No more, because after a peak all slots keep that much, and the next
/// agent may have no use for them: 128 MB of a thousand slots.
const LINEAR_MEMORY_KEEP_RESIDENT_BYTES: usize = 128 << 10;
/// Likewise for tables.
const TABLE_KEEP_RESIDENT_BYTES: usize = 16 << 10;
/// Unused slots that keep their module's image before one of them is given to another module rather than a fresh one.
const WARM_SLOTS_MAX: u32 = 16;
/// Core instances, memories and tables of one component, and of the pool per instance. A component from wit-component
/// has 2 to 4 core instances and one memory; composed ones have more.
const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 30;
const MEMORIES_PER_COMPONENT_MAX: u32 = 4;
const TABLES_PER_COMPONENT_MAX: u32 = 10;
const CORE_INSTANCES_PER_SLOT: u32 = 4;
const TABLES_PER_SLOT: u32 = 2;
/// Elements of one table; 8 bytes each, counted into the instance's memory limit.
const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Bytes of one instance's own bookkeeping inside wasmtime.
const INSTANCE_BYTES_MAX: usize = 1 << 20;
/// Frames of a trap's backtrace, which ends up in a dead letter.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(19);

/// The engine, with its epoch clock running for as long as it lives.
#[derive(Clone)]
pub struct Engine {
    engine: wasmtime::Engine,
    _ticker: Arc<Ticker>,
}

impl Engine {
    /// Makes the engine and starts its clock.
    ///
    /// # Errors
    /// Settings that this machine cannot give, such as more address space than there is.
    pub fn new(config: &EngineConfig) -> wasmtime::Result<Self> {
        let engine = wasmtime::Engine::new(&wasmtime_config(config))?;
        let ticker = Ticker::start(engine.clone())?;
        Ok(Self { engine, _ticker: Arc::new(ticker) })
    }

    /// wasmtime's own handle.
    #[must_use]
    pub fn inner(&self) -> &wasmtime::Engine {
        &self.engine
    }
}

fn wasmtime_config(config: &EngineConfig) -> wasmtime::Config {
    let mut wasmtime = wasmtime::Config::new();
    wasmtime
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config)))
        .epoch_interruption(true)
        .memory_init_cow(true)
        // WASI 0.2 needs no component-model concurrency; off, calls cost a third and most advisories of 2026 are moot.
        .concurrency_support(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX));
    // Features that no agent toolchain needs are attack surface. The limiter is not called for shared memories, so
    // threads would also escape the memory limit.
    for unneeded in [
        WasmFeatures::THREADS,
        WasmFeatures::SHARED_EVERYTHING_THREADS,
        WasmFeatures::MEMORY64,
        WasmFeatures::GC,
        WasmFeatures::FUNCTION_REFERENCES,
        WasmFeatures::STACK_SWITCHING,
        WasmFeatures::RELAXED_SIMD,
    ] {
        wasmtime.wasm_features(unneeded, false);
    }
    wasmtime
}

fn pool(config: &EngineConfig) -> PoolingAllocationConfig {
    let slots = config.instances_max;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_PER_SLOT))
        .total_memories(slots)
        .total_tables(slots.saturating_mul(TABLES_PER_SLOT))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT_MAX)
        .max_memories_per_component(MEMORIES_PER_COMPONENT_MAX)
        .max_tables_per_component(TABLES_PER_COMPONENT_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_memory_size(config.memory_bytes_max)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_unused_warm_slots(WARM_SLOTS_MAX)
        .linear_memory_keep_resident(LINEAR_MEMORY_KEEP_RESIDENT_BYTES)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES)
        // `Auto` uses the scan where the kernel has it (6.7 and later).
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Raises the engine's epoch on a thread of its own, so that no busy runtime can hold interruption back.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("epoch".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(EPOCH_PERIOD);
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only loops and sleeps: joining cannot fail in a way that matters at exit.
            let _ = thread.join();
        }
    }
}
