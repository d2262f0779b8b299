//! The one wasmtime engine of the process, and the clock that interrupts guests.
//!
//! Exactly one engine: stores and linkers of different engines must not mix (GHSA-hgjw-h833-99q9), and code that is
//! compiled once serves every instance. Code is compiled in another process, whose engine has the same settings
//! (`compiling`) and no pool; `identity` tells whether two engines may share code.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails, WasmFeatures};

use super::preview1;
use super::turns::Epochs;

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Slots of the instance pool, the most instances alive at once. A slot is address space, not memory: memory is
    /// rationed by the [`MemoryLedger`](crate::memory::MemoryLedger).
    pub instances_max: u32,
    /// Largest linear memory of any instance, in bytes.
    pub memory_bytes_max: usize,
}

/// How often guests are interrupted to look at their limits and give way. 10 ms is what Spin uses: a spinning guest delays
/// other tasks by no more than this.
pub(super) const EPOCH_PERIOD: Duration = Duration::from_millis(10);

/// Bytes of a linear memory that stay resident in a slot between instances, of those that were touched: the usual dirty set
/// of a small guest, which is then reset in place. No more, because after a peak all slots keep that much, and the next
/// agent may have no use for them: 128 MB of a thousand slots. Where nothing tells which pages were touched, all of
/// these bytes are reset, which is as much as pays.
const LINEAR_MEMORY_KEEP_RESIDENT_BYTES: usize = 128 << 10;
/// Likewise for tables.
const TABLE_KEEP_RESIDENT_BYTES: usize = 16 << 10;
/// Unused slots that keep their module's image before one of them is given to another module rather than a fresh one.
const WARM_SLOTS_MAX: u32 = 16;
/// Core instances, memories and tables of one component, and of the pool per instance. A component from wit-component
/// has 2 to 5 core instances and one memory; composed ones, and those of Python, have up to some twenty.
const CORE_INSTANCES_PER_COMPONENT_MAX: u32 = 30;
const MEMORIES_PER_COMPONENT_MAX: u32 = 4;
const TABLES_PER_COMPONENT_MAX: u32 = 10;
/// As many as there may be: it is only counted, and what is counted must not run out before slots do.
const CORE_INSTANCES_PER_SLOT: u32 = CORE_INSTANCES_PER_COMPONENT_MAX;
const TABLES_PER_SLOT: u32 = 2;
/// Elements of one table; 8 bytes each, counted into the instance's memory limit.
const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Bytes of one instance's own bookkeeping inside wasmtime.
const INSTANCE_BYTES_MAX: usize = 1 << 20;
/// Frames of a trap's backtrace, which ends up in a dead letter.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(19);
/// Stack of guest code, in bytes: wasmtime's default. Deeper recursion traps.
const WASM_STACK_BYTES_MAX: usize = 512 << 10;
/// Stack on which a guest and the host functions that it calls run, in bytes: wasmtime's default. What is over the guest's
/// own part is the host functions', which abort the process where it does not suffice.
const ASYNC_STACK_BYTES: usize = 2 << 20;
/// Bytes of such a stack that are set to zero in place; what was used beyond is given back to the system.
const ASYNC_STACK_KEEP_RESIDENT_BYTES: usize = 32 << 10;

/// Features of WebAssembly that no agent toolchain needs: attack surface. The limiter is not called for shared memories, so
/// threads would also escape the memory limit. wasmtime has several of these on by default.
const UNNEEDED_FEATURES: [WasmFeatures; 25] = [
    WasmFeatures::THREADS,
    WasmFeatures::SHARED_EVERYTHING_THREADS,
    WasmFeatures::MEMORY64,
    WasmFeatures::GC,
    WasmFeatures::FUNCTION_REFERENCES,
    WasmFeatures::EXCEPTIONS,
    WasmFeatures::LEGACY_EXCEPTIONS,
    WasmFeatures::STACK_SWITCHING,
    WasmFeatures::RELAXED_SIMD,
    WasmFeatures::CUSTOM_PAGE_SIZES,
    WasmFeatures::WIDE_ARITHMETIC,
    WasmFeatures::MEMORY_CONTROL,
    WasmFeatures::CUSTOM_DESCRIPTORS,
    WasmFeatures::COMPACT_IMPORTS,
    WasmFeatures::CM_ASYNC,
    WasmFeatures::CM_ASYNC_STACKFUL,
    WasmFeatures::CM_MORE_ASYNC_BUILTINS,
    WasmFeatures::CM_THREADING,
    WasmFeatures::CM_ERROR_CONTEXT,
    WasmFeatures::CM_FIXED_LENGTH_LISTS,
    WasmFeatures::CM_GC,
    WasmFeatures::CM_MAP,
    WasmFeatures::CM64,
    WasmFeatures::CM_VALUES,
    WasmFeatures::CM_NESTED_NAMES,
];

/// The engine, with its epoch clock running for as long as it lives.
#[derive(Clone)]
pub struct Engine {
    engine: wasmtime::Engine,
    epochs: Epochs,
    _ticker: Arc<Ticker>,
}

impl Engine {
    /// Makes the engine and starts its clock.
    ///
    /// # Errors
    /// Settings that this machine cannot give, such as more address space than there is.
    pub fn new(config: &EngineConfig) -> wasmtime::Result<Self> {
        let mut settings = settings();
        settings.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config)));
        let engine = wasmtime::Engine::new(&settings)?;
        let epochs = Epochs::default();
        let ticker = Ticker::start(engine.clone(), epochs.clone())?;
        Ok(Self { engine, epochs, _ticker: Arc::new(ticker) })
    }

    /// wasmtime's own handle.
    #[must_use]
    pub fn inner(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// The count of its epochs.
    pub(super) fn epochs(&self) -> Epochs {
        self.epochs.clone()
    }
}

/// An engine that compiles for [`Engine`] and runs nothing: it reserves no address space for instances, which have no part
/// in the code.
pub(super) fn compiling() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&settings())
}

/// What code must have been compiled with to run in this engine, as a hexadecimal SHA-256: wasmtime's exact version, the
/// processor's features, every setting that changes code, and what programs are made components with.
pub(super) fn identity(engine: &wasmtime::Engine) -> String {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    for adapter in preview1::adapters() {
        hasher.write(adapter);
    }
    format!("{:x}", hasher.0.finalize())
}

/// wasmtime gives its identity only as something to hash.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Only the whole digest is used.
    fn finish(&self) -> u64 {
        0
    }
}

/// All settings but the pool.
fn settings() -> wasmtime::Config {
    let mut settings = wasmtime::Config::new();
    settings
        .epoch_interruption(true)
        .memory_init_cow(true)
        // WASI 0.2 needs no component-model concurrency; off, calls cost a third and most advisories of 2026 are moot.
        .concurrency_support(false)
        .max_wasm_stack(WASM_STACK_BYTES_MAX)
        .async_stack_size(ASYNC_STACK_BYTES)
        .async_stack_zeroing(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX));
    for unneeded in UNNEEDED_FEATURES {
        settings.wasm_features(unneeded, false);
    }
    settings
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
        .max_unused_warm_slots(WARM_SLOTS_MAX);
    // wasmtime 48.0.8 looks for pages to reset among those that are present: one that was swapped out would keep what the
    // last guest wrote. Without the scan every byte that stays is reset. `Auto` uses it where the kernel has it (6.7 and later).
    pool.pagemap_scan(if swap_is_on() { Enabled::No } else { Enabled::Auto });
    pool.linear_memory_keep_resident(LINEAR_MEMORY_KEEP_RESIDENT_BYTES);
    pool.table_keep_resident(TABLE_KEEP_RESIDENT_BYTES).async_stack_keep_resident(ASYNC_STACK_KEEP_RESIDENT_BYTES);
    pool
}

/// Whether this machine swaps.
fn swap_is_on() -> bool {
    // A heading, then a line for each swap area.
    std::fs::read_to_string("/proc/swaps").is_ok_and(|areas| areas.lines().count() > 1)
}

/// Raises the engine's epoch on a thread of its own, so that no busy runtime can hold interruption back.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: wasmtime::Engine, epochs: Epochs) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("epoch".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(EPOCH_PERIOD);
                epochs.begin();
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

#[cfg(test)]
mod tests;
