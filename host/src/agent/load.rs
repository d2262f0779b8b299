//! From a module's bytes to something that can be instantiated: validate, compile, check against what the host offers.

use std::sync::{Arc, OnceLock};

use wasmtime::component::{Component, Linker};

use super::engine::Engine;
use super::footprint::Footprint;
use super::state::InstanceState;
use crate::capability::files::Folders;
use crate::capability::{self, Capabilities, SessionPlan};
use crate::manifest::{Manifest, Shape};
use crate::memory::{MemoryLedger, MemoryShare};
use crate::task::AgentName;
use crate::wit::native::HostNativePre;

/// Why a module cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not wasm, or wasm that does not validate.
    #[error("the module is not a WebAssembly component: {0}")]
    NotWasm(String),
    /// Precompiled machine code: it is never accepted, since loading it would run it unchecked.
    #[error("the module is precompiled code: deploy the .wasm that it was made from")]
    Precompiled,
    /// It imports what the host does not offer.
    #[error("the host does not offer these imports: {}", .0.join(", "))]
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
    /// What its tasks may take of the host's memory.
    pub(super) fn memory_share(&self, ledger: &MemoryLedger) -> &MemoryShare {
        self.memory_share.get_or_init(|| ledger.share())
    }
}

/// A compiled module that fits the host's world.
#[derive(Clone)]
pub struct Code {
    pub(super) pre: HostNativePre<InstanceState>,
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

/// Compiles modules for the host's world.
#[derive(Clone)]
pub struct Loader {
    engine: Engine,
    linker: Arc<Linker<InstanceState>>,
}

impl Loader {
    /// Links everything that the host offers.
    ///
    /// # Errors
    /// Two capabilities that define the same import: a mistake in the host itself.
    pub fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine.inner());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        capability::files::add_to_linker(&mut linker, InstanceState::files)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        capability::add_to_linker(&mut linker, InstanceState::capabilities)?;
        Ok(Self { engine: engine.clone(), linker: Arc::new(linker) })
    }

    /// Validates and compiles a module. Takes seconds for large ones and all of a core: not for an async thread.
    ///
    /// # Errors
    /// [`LoadError`], saying what does not fit.
    pub fn compile(&self, module: &[u8], manifest: &Manifest) -> Result<Code, LoadError> {
        if wasmtime::Engine::detect_precompiled(module).is_some() {
            return Err(LoadError::Precompiled);
        }
        // What can be refused without compiling is: imports first, since they say most about what the module wants.
        let surface = Surface::read(module)?;
        surface.check_imports()?;
        surface.check_shape(manifest)?;
        let component =
            Component::new(self.engine.inner(), module).map_err(|error| LoadError::NotWasm(format!("{error:#}")))?;
        let pre =
            self.linker.instantiate_pre(&component).map_err(|error| LoadError::Imports(vec![format!("{error:#}")]))?;
        let pre = HostNativePre::new(pre).map_err(|error| LoadError::Exports(format!("{error:#}")))?;
        Ok(Code { pre })
    }
}

/// Export that makes a component an agent of a shape, by prefix: versions differ in their last part.
const SHAPE_EXPORTS: [(&str, Shape); 4] = [
    ("agent:runtime/handler@0.1", Shape::Native),
    ("wasi:cli/run@0.2", Shape::Command),
    ("wasi:http/incoming-handler@0.2", Shape::Http),
    ("wasi:messaging/incoming-handler@0.2", Shape::Messaging),
];

/// A component's own imports and exports, read without compiling anything.
#[derive(Default)]
struct Surface {
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Surface {
    fn read(module: &[u8]) -> Result<Self, LoadError> {
        use wasmparser::{Encoding, Parser, Payload};
        let not_wasm = |error: &dyn std::fmt::Display| LoadError::NotWasm(error.to_string());
        let mut surface = Self::default();
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(|error| not_wasm(&error))? {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                    return Err(LoadError::NotWasm(
                        "it is a core module; make a component of it, for example with the target wasm32-wasip2"
                            .to_owned(),
                    ));
                }
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        surface.imports.push(import.map_err(|error| not_wasm(&error))?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        surface.exports.push(export.map_err(|error| not_wasm(&error))?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(surface)
    }

    fn check_imports(&self) -> Result<(), LoadError> {
        let offered = |name: &str| {
            OFFERED_PACKAGES.iter().any(|(package, version)| name.starts_with(package) && name.contains(version))
        };
        let unknown: Vec<String> = self.imports.iter().filter(|name| !offered(name)).cloned().collect();
        if unknown.is_empty() { Ok(()) } else { Err(LoadError::Imports(unknown)) }
    }

    /// Finds out how the module takes tasks.
    fn check_shape(&self, manifest: &Manifest) -> Result<(), LoadError> {
        let exports = &self.exports;
        let found: Vec<Shape> = SHAPE_EXPORTS
            .iter()
            .filter(|(prefix, _)| exports.iter().any(|export| export.starts_with(prefix)))
            .map(|(_, shape)| *shape)
            .collect();
        let shape = match (manifest.agent.shape, found.as_slice()) {
            (Some(wanted), found) if found.contains(&wanted) => wanted,
            (Some(wanted), _) => {
                return Err(LoadError::Exports(format!(
                    "agent.shape is {wanted:?}, but the module has no export of that shape; it exports {}",
                    listed(exports)
                )));
            }
            (None, [only]) => *only,
            (None, []) => {
                return Err(LoadError::Exports(format!(
                    "the module exports no handler: expected agent:runtime/handler@0.1.0; it exports {}",
                    listed(exports)
                )));
            }
            (None, several) => {
                return Err(LoadError::Exports(format!(
                    "the module could be run as {several:?}: set agent.shape in the manifest"
                )));
            }
        };
        if shape == Shape::Native {
            Ok(())
        } else {
            Err(LoadError::Exports(format!(
                "the module is of the {shape:?} shape; this version runs the native shape (agent:runtime/handler@0.1.0)"
            )))
        }
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What the host offers, by package and version. The linker itself accepts any compatible patch version.
const OFFERED_PACKAGES: [(&str, &str); 13] = [
    ("wasi:cli/", "@0.2."),
    ("wasi:clocks/", "@0.2."),
    ("wasi:filesystem/", "@0.2."),
    ("wasi:http/", "@0.2."),
    ("wasi:io/", "@0.2."),
    ("wasi:random/", "@0.2."),
    ("wasi:sockets/", "@0.2."),
    ("wasi:keyvalue/", "@0.2.0-draft"),
    ("wasi:keyvalue/", "@0.2.0-draft2"),
    ("wasi:logging/", "@0.1.0-draft"),
    ("wasi:config/", "@0.2.0-rc.1"),
    ("wasi:messaging/types", "@0.2.0-draft"),
    ("agent:runtime/", "@0.1."),
];
