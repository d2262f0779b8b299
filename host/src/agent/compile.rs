//! Compiling modules within limits.
//!
//! What it takes to compile a module is outside of wasmtime's security policy: one function of 7.4 MB took 8 s and 1.2 GB.
//! So the host compiles in a process of its own ([`ChildCompiler`]), which has limits and can be killed; [`InProcessCompiler`]
//! is for tests and tools that compile what they trust. `compile::conformance` holds both to the same rules.

mod child;
#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod in_process;
mod worker;

pub use child::ChildCompiler;
pub use in_process::InProcessCompiler;
pub use worker::{CompileJob, work};

use std::fs::File;
use std::time::Duration;

use bytes::Bytes;

use crate::units::{ByteSize, format_duration};

/// What compiling one module may take.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// Resident memory, in bytes. Python with its standard library (18 MB) takes about 0.5 GB.
    pub memory: ByteSize,
    /// Processor time, of all threads. The same Python takes 8 to 30 s.
    pub processor_time: Duration,
    /// Bytes of code. Python's are 37 MB.
    pub code: ByteSize,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory: ByteSize(1 << 30), processor_time: Duration::from_secs(60), code: ByteSize(1 << 30) }
    }
}

impl CompileLimits {
    /// The longest that compiling may take by the clock: on a busy machine it gives way to everything else.
    fn wall_clock(&self) -> Duration {
        const PER_PROCESSOR_TIME: u32 = 4;
        self.processor_time * PER_PROCESSOR_TIME
    }
}

/// Why a module was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It is not valid, or uses what the engine does not offer.
    #[error("the module does not compile: {0}")]
    Module(String),
    /// It takes more than a module may.
    #[error(
        "compiling the module takes more than {limit} of {what}: split its largest functions, or leave out what it does not \
         need{}",
        .setting.map(|setting| format!("; an operator can raise {setting}")).unwrap_or_default()
    )]
    Limit {
        /// What there was too little of.
        what: &'static str,
        /// How much there was, with its unit.
        limit: String,
        /// The setting of the limit, where it is one.
        setting: Option<&'static str>,
    },
    /// The compiler failed over it.
    #[error("the compiler fails over the module ({0}): deploy it as another version of its toolchain makes it")]
    Crashed(String),
    /// It is no fault of the module: no place for the code, no process.
    #[error("the host cannot compile now: {0}")]
    Host(String),
}

impl CompileError {
    fn memory(limits: &CompileLimits) -> Self {
        Self::Limit { what: "memory", limit: limits.memory.to_string(), setting: Some("compile_memory_max") }
    }

    fn processor_time(limits: &CompileLimits) -> Self {
        let limit = format_duration(limits.processor_time);
        Self::Limit { what: "processor time", limit, setting: Some("compile_time_max") }
    }

    fn wall_clock(limits: &CompileLimits) -> Self {
        let limit = format_duration(limits.wall_clock());
        Self::Limit { what: "time by the clock", limit, setting: Some("compile_time_max") }
    }

    fn code(limits: &CompileLimits) -> Self {
        Self::Limit { what: "code", limit: limits.code.to_string(), setting: None }
    }
}

/// Compiles modules for the host's engine.
#[async_trait::async_trait]
pub trait Compiler: Send + Sync + 'static {
    /// Compiles a component, and writes the code, as wasmtime serializes it, to the file.
    ///
    /// # Errors
    /// [`CompileError`]; the file then holds anything.
    async fn compile(&self, module: Bytes, code: File) -> Result<(), CompileError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_compiler_in_process_keeps_the_rules() {
        conformance::run(&InProcessCompiler::new().unwrap()).await;
    }
}
