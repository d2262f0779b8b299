//! What guests run in: the engine, and the code that is compiled for it.

use std::sync::Arc;

use super::internal;
use crate::agent::{ChildCompiler, Codes, CompileLimits, Engine, EngineConfig, Loader};
use crate::cli::StartError;
use crate::config::Config;
use crate::manifest::MEMORY_BYTES_MAX;

/// Most instances alive at once. A pool slot costs address space and a few KiB; memory is what really bounds them.
pub(super) const INSTANCES_MAX: u32 = 1_000;
/// Most of them of one agent: a backlog of one leaves places for the next task of another.
pub(super) const AGENT_INSTANCES_MAX: u32 = INSTANCES_MAX / 4 * 3;
/// Folder of compiled code under the data folder.
const CODE_FOLDER: &str = "code";

/// Compiles in processes of this program, and keeps what they make in the data folder.
pub(super) fn loader(config: &Config, engine: &Engine) -> Result<Loader, StartError> {
    let limits = CompileLimits {
        memory: config.compile_memory_max,
        processor_time: config.compile_time_max,
        ..CompileLimits::default()
    };
    let program = ChildCompiler::this_program().map_err(|error| internal("finding this program", error))?;
    let compiler = Arc::new(ChildCompiler::new(program, limits, engine));
    let (folder, bytes_max) = (config.data_dir.join(CODE_FOLDER), config.compile_cache_max);
    let codes = Codes::open(&folder, bytes_max, engine, Arc::clone(&compiler) as _).or_else(|error| {
        tracing::warn!(
            folder = %folder.display(), %error,
            "compiled code cannot be kept, so every start compiles all agents: set AGENT_HOST_DATA_DIR to a folder that this \
             user can write to"
        );
        Codes::temporary(bytes_max, engine, compiler)
    });
    let codes = codes.map_err(|error| {
        let folder = std::env::temp_dir();
        let place = format!("{} and {}", config.data_dir.display(), folder.display());
        StartError::Unavailable(vec![format!(
            "compiled code can be written to neither of {place}: {error}; set AGENT_HOST_DATA_DIR to a folder that this user \
             can write to"
        )])
    })?;
    Loader::new(engine, codes).map_err(|error| internal("linking the host's capabilities", error))
}

pub(super) fn engine() -> Result<Engine, StartError> {
    Engine::new(&EngineConfig { instances_max: INSTANCES_MAX, memory_bytes_max: MEMORY_BYTES_MAX.as_usize() })
        .map_err(|error| internal("starting the WebAssembly engine", error))
}

/// The largest body or output, and room for headers and capability calls beside it.
pub(super) fn hostcall_bytes_max(config: &Config) -> usize {
    const MARGIN_BYTES: usize = 1 << 20;
    config.http.payload_bytes_max.max(crate::manifest::OUTPUT_BYTES_MAX).as_usize() + MARGIN_BYTES
}
