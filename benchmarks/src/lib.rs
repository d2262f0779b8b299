//! What the benchmarks share: the host under measurement, its clients, queues that are filled as careful senders fill them, and figures.

pub mod bare_wasmtime;
pub mod client;
pub mod cpu;
pub mod driver;
pub mod figures;
pub mod host;
pub mod in_process;
pub mod sender;

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The agent-host to measure: the one that was named, or the one beside this program.
///
/// # Errors
/// Where this program is cannot be told.
pub fn program(named: Option<PathBuf>) -> Result<PathBuf> {
    match named {
        Some(program) => Ok(program),
        None => Ok(std::env::current_exe()?.with_file_name("agent-host")),
    }
}

/// The address of a service.
///
/// # Errors
/// It is not set.
pub fn service(variable: &str) -> Result<String> {
    std::env::var(variable).with_context(|| format!("{variable} is not set: run cargo xtask bench, or set it"))
}
