//! What the benchmarks on real services share: the broker's queues, and the host as an operator starts it.

pub mod broker;
pub mod host;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a round may take before it counts as hung.
pub const ROUND_MAX: Duration = Duration::from_secs(300);

/// A service's URL, from the environment.
///
/// # Errors
/// It is not there.
pub fn service(variable: &str) -> Result<String> {
    std::env::var(variable).with_context(|| format!("{variable} is not set: run cargo xtask bench, or set it"))
}

/// The program to measure: the one that was named, or else the one beside this program.
///
/// # Errors
/// Nobody knows where this program is.
pub fn agent_host(named: Option<PathBuf>) -> Result<PathBuf> {
    Ok(match named {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("agent-host"),
    })
}
