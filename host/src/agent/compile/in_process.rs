//! Compiles in this process, without limits: for tests and tools, and modules that are trusted.

use std::fs::File;
use std::io::Write as _;

use bytes::Bytes;

use super::{CompileError, Compiler};
use crate::agent::{engine, preview1};

/// Compiles in this process.
pub struct InProcessCompiler {
    engine: wasmtime::Engine,
}

impl InProcessCompiler {
    /// A compiler for [`Engine`](crate::agent::Engine).
    ///
    /// # Errors
    /// This machine is none that code is made for.
    pub fn new() -> wasmtime::Result<Self> {
        Ok(Self { engine: engine::compiling()? })
    }
}

#[async_trait::async_trait]
impl Compiler for InProcessCompiler {
    async fn compile(&self, module: Bytes, mut code: File) -> Result<(), CompileError> {
        let engine = self.engine.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let component = preview1::component(&module).map_err(CompileError::Module)?;
            let compiled = engine.precompile_component(&component);
            let compiled = compiled.map_err(|error| CompileError::Module(format!("{error:#}")))?;
            code.write_all(&compiled).map_err(|error| CompileError::Host(format!("writing code: {error}")))
        });
        compiled.await.unwrap_or_else(|panicked| Err(CompileError::Crashed(panicked.to_string())))
    }
}
