//! From a module's bytes to something that can be instantiated: look at it, get its code, check it against what the host
//! offers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use wasmtime::component::Linker;

use super::codes::Codes;
use super::compile::CompileError;
use super::engine::Engine;
use super::footprint::Footprint;
use super::shape::Entry;
use super::state::InstanceState;
use super::surface::{Surface, listed};
use crate::capability::files::Folders;
use crate::capability::{self, Capabilities, SessionPlan};
use crate::manifest::{Manifest, Shape};
use crate::memory::{MemoryLedger, MemoryShare};
use crate::task::AgentName;

/// Why a module cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not wasm, or wasm that does not validate.
    #[error("the module is not valid WebAssembly: {0}")]
    NotWasm(String),
    /// Precompiled machine code: it is never accepted, since loading it would run it unchecked.
    #[error("the module is precompiled code: deploy the .wasm that it was made from")]
    Precompiled,
    /// It has more of something than a module may.
    #[error("the module has {found} {what}; at most {limit} are allowed")]
    Limit {
        /// What it has too much of.
        what: &'static str,
        /// How much it has.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// It was not compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Its instances would need more than an instance may have: memories, tables, nested instances.
    #[error("the module's instances would be too large: {0}")]
    Unfit(String),
    /// It imports what the host does not offer.
    #[error("the host does not offer these imports: {}", listed(.0))]
    Imports(Vec<String>),
    /// It exports no entry point that this host runs.
    #[error("{0}")]
    Exports(String),
    /// It could not be instantiated for a trial.
    #[error("the module does not start: {0}")]
    Start(String),
}

/// One revision of an agent, ready to run.
pub struct Revision {
    /// The agent.
    pub agent: AgentName,
    /// The revision's number.
    pub number: u64,
    /// `sha256:<hex>` of the module as sent.
    pub digest: String,
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    pub(super) code: Code,
    pub(super) plan: Arc<SessionPlan>,
    pub(super) folders: Folders,
    pub(super) footprint: Footprint,
    memory_share: OnceLock<MemoryShare>,
}

impl std::fmt::Debug for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{} ({})", self.agent, self.number, self.digest)
    }
}

impl Revision {
    /// How a task reaches it.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.code.entry.shape()
    }

    /// What its tasks may take of the host's memory.
    pub(super) fn memory_share(&self, ledger: &MemoryLedger) -> &MemoryShare {
        self.memory_share.get_or_init(|| ledger.share())
    }
}

/// A compiled module that fits the host's world.
#[derive(Clone)]
pub struct Code {
    pub(super) entry: Entry,
}

impl Code {
    /// Makes a revision of it.
    #[must_use]
    pub fn into_revision(
        self,
        number: u64,
        digest: String,
        manifest: Arc<Manifest>,
        capabilities: &Capabilities,
        folders: Folders,
    ) -> Revision {
        Revision {
            agent: manifest.agent.name.clone(),
            number,
            digest,
            plan: capabilities.plan(&manifest.agent.name, number, Arc::clone(&manifest)),
            manifest,
            folders,
            code: self,
            footprint: Footprint::default(),
            memory_share: OnceLock::new(),
        }
    }
}

/// Makes code of modules, for the host's world.
#[derive(Clone)]
pub struct Loader {
    codes: Codes,
    linker: Arc<Linker<InstanceState>>,
}

impl Loader {
    /// Links everything that the host offers.
    ///
    /// # Errors
    /// Two capabilities that define the same import: a mistake in the host itself.
    pub fn new(engine: &Engine, codes: Codes) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine.inner());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        capability::files::add_to_linker(&mut linker, InstanceState::files)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        capability::add_to_linker(&mut linker, InstanceState::capabilities)?;
        Ok(Self { codes, linker: Arc::new(linker) })
    }

    /// Checks a module against the host's world and its limits, and compiles it unless its code is known.
    ///
    /// # Errors
    /// [`LoadError`], saying what does not fit.
    pub async fn load(&self, module: &Bytes, manifest: &Arc<Manifest>) -> Result<Code, LoadError> {
        // What can be refused without compiling is: imports first, since they say most about what the module wants.
        let (read, wanted) = (module.clone(), Arc::clone(manifest));
        let looked_at = tokio::task::spawn_blocking(move || {
            let surface = Surface::read(&read)?;
            surface.check_imports()?;
            surface.shape(&wanted)
        });
        let looked_at = looked_at.await;
        let shape = looked_at.unwrap_or_else(|panicked| Err(CompileError::Crashed(panicked.to_string()).into()))?;
        let component = self.codes.component(module).await?;
        let pre =
            self.linker.instantiate_pre(&component).map_err(|error| LoadError::Imports(vec![format!("{error:#}")]))?;
        let entry = Entry::new(shape, pre).map_err(|error| LoadError::Exports(format!("{error:#}")))?;
        Ok(Code { entry })
    }
}
