//! What a module says about itself, read without compiling anything: that it is a component or a program, how large it is,
//! what it imports and exports. Whatever can be refused here is, before a compiler sees it.

use wasmparser::{Encoding, Parser, Payload};

use super::load::LoadError;
use super::preview1;
use crate::manifest::{Manifest, Shape};
use crate::units::ByteSize;

/// Largest module, the contract's. Python with its standard library has 18 MB, a JavaScript engine 12.
const MODULE_BYTES_MAX: ByteSize = ByteSize(128 << 20);
/// Largest function. Compiling takes memory and time that grow faster than a function: 7.4 MB took 8 s and 1.2 GB. The main
/// loops of Python and of JavaScript engines have 0.2 MB.
const FUNCTION_BYTES_MAX: ByteSize = ByteSize(1 << 20);
/// Most functions of a component. Python with its libraries has about 30,000.
const FUNCTIONS_MAX: u64 = 65_536;
/// Most types of a component: they stay in the host's memory for as long as it is deployed. Python has about 2,000.
const TYPES_MAX: u64 = 8_192;
/// Largest part that describes types, of all of them: one type can hold thousands.
const TYPE_BYTES_MAX: ByteSize = ByteSize(4 << 20);
/// Most of everything else that is counted (imports, exports, globals, segments, instances, aliases), for the same reason.
/// Python has about 20,000.
const ITEMS_MAX: u64 = 100_000;
/// Most imports and most exports of the component itself: each is looked at here. Worlds have dozens.
const NAMES_MAX: u32 = 1_000;
/// How deep modules and components may lie in each other. wit-component makes 2, composing adds 1 a step.
const NESTING_MAX: u32 = 32;
/// Names that an error lists.
const NAMES_LISTED_MAX: usize = 20;

/// Export that makes a component an agent of a shape, by prefix: versions differ in their last part.
const SHAPE_EXPORTS: [(&str, Shape); 4] = [
    ("agent:runtime/handler@0.1", Shape::Native),
    ("wasi:cli/run@0.2", Shape::Command),
    ("wasi:http/incoming-handler@0.2", Shape::Http),
    ("wasi:messaging/incoming-handler@0.2.0-draft", Shape::Messaging),
];

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

/// The shape that a core module's export makes it of: a function of an interface, as the component model names it.
pub(super) fn entry(export: &str) -> Option<Shape> {
    let (interface, _) = export.split_once('#')?;
    SHAPE_EXPORTS.iter().find(|(prefix, _)| interface.starts_with(prefix)).map(|(_, shape)| *shape)
}

/// A module's own imports and exports.
#[derive(Default)]
pub(super) struct Surface {
    /// Whether it is a core module: a program, if anything.
    is_core: bool,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// What a module holds, over all its parts.
#[derive(Default)]
struct Totals {
    functions: u64,
    types: u64,
    type_bytes: u64,
    items: u64,
}

impl Surface {
    /// Reads a module and refuses what is none, or is beyond a limit.
    ///
    /// # Errors
    /// [`LoadError::Precompiled`], [`LoadError::NotWasm`], [`LoadError::Limit`].
    pub(super) fn read(module: &[u8]) -> Result<Self, LoadError> {
        if wasmtime::Engine::detect_precompiled(module).is_some() || is_machine_code(module) {
            return Err(LoadError::Precompiled);
        }
        refuse_over("bytes", module.len() as u64, MODULE_BYTES_MAX.0)?;
        refuse_text(module)?;
        let (mut surface, mut totals, mut depth) = (Self::default(), Totals::default(), 0_u32);
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(malformed)? {
                Payload::Version { encoding, .. } => {
                    surface.is_core |= depth == 0 && encoding == Encoding::Module;
                    depth += 1;
                    refuse_over("levels of nested modules", depth.into(), NESTING_MAX.into())?;
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 1 => {
                    refuse_too_many("imports", &surface.imports, section.count())?;
                    for import in section {
                        surface.imports.push(import.map_err(malformed)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    refuse_too_many("exports", &surface.exports, section.count())?;
                    for export in section {
                        surface.exports.push(export.map_err(malformed)?.name.name.to_owned());
                    }
                }
                Payload::ImportSection(section) if surface.is_core => {
                    refuse_too_many("imports", &surface.imports, section.count())?;
                    for import in section.into_imports() {
                        let import = import.map_err(malformed)?;
                        surface.imports.push(format!("{}::{}", import.module, import.name));
                    }
                }
                // A program may export whatever it likes, and few of its exports are of interest.
                Payload::ExportSection(section) if surface.is_core => {
                    refuse_over("exports", section.count().into(), ITEMS_MAX)?;
                    for export in section {
                        let name = export.map_err(malformed)?.name;
                        let is_entry = entry(name).is_some() && surface.exports.len() < NAMES_MAX as usize;
                        if surface.exports.len() < NAMES_LISTED_MAX || name == preview1::START || is_entry {
                            surface.exports.push(name.to_owned());
                        }
                    }
                }
                other => totals.add(&other)?,
            }
        }
        Ok(surface)
    }

    /// # Errors
    /// [`LoadError::Imports`], naming each that the host does not offer.
    pub(super) fn check_imports(&self) -> Result<(), LoadError> {
        let of_programs = if self.is_core { preview1::offered() } else { Vec::new() };
        let packaged = |name: &str| {
            OFFERED_PACKAGES.iter().any(|(package, version)| name.starts_with(package) && name.contains(version))
        };
        let is_program = self.is_core && self.entries().is_empty();
        let offered = |name: &str| match name.split_once("::") {
            Some((preview1::MODULE, function)) if self.is_core => of_programs.contains(&function),
            Some((interface, _)) if self.is_core => !is_program && packaged(interface),
            _ => !self.is_core && packaged(name),
        };
        let unknown: Vec<String> = self.imports.iter().filter(|name| !offered(name)).cloned().collect();
        if unknown.is_empty() { Ok(()) } else { Err(LoadError::Imports(unknown)) }
    }

    /// Finds out how the module takes tasks.
    ///
    /// # Errors
    /// [`LoadError::Exports`] where that is unclear, or no way that this host knows, or not what the manifest says.
    pub(super) fn shape(&self, manifest: &Manifest) -> Result<Shape, LoadError> {
        let found = self.shapes();
        let shape = match (manifest.agent.shape, found.as_slice()) {
            (Some(wanted), found) if found.contains(&wanted) => wanted,
            (Some(wanted), _) => {
                return Err(LoadError::Exports(format!(
                    "agent.shape is {wanted}, but the module has no export of that shape; it exports {}",
                    listed(&self.exports)
                )));
            }
            (None, [only]) => *only,
            (None, []) => return Err(LoadError::Exports(self.no_entry())),
            (None, several) => {
                let several: Vec<String> = several.iter().map(Shape::to_string).collect();
                return Err(LoadError::Exports(format!(
                    "the module could be run as {}: set agent.shape in the manifest",
                    several.join(" or ")
                )));
            }
        };
        if manifest.command.is_some() && shape != Shape::Command {
            return Err(LoadError::Exports(format!(
                "the manifest has [command], but the module is of the {shape} shape: remove it, or set agent.shape"
            )));
        }
        Ok(shape)
    }

    /// The ways in which it could be run.
    fn shapes(&self) -> Vec<Shape> {
        if self.is_core {
            let is_program = self.exports.iter().any(|name| name == preview1::START);
            let entries = self.entries();
            return if entries.is_empty() {
                is_program.then_some(Shape::Command).into_iter().collect()
            } else {
                entries
            };
        }
        let exported = |prefix: &str| self.exports.iter().any(|export| export.starts_with(prefix));
        SHAPE_EXPORTS.iter().filter(|(prefix, _)| exported(prefix)).map(|(_, shape)| *shape).collect()
    }

    /// The shapes whose functions a core module exports.
    fn entries(&self) -> Vec<Shape> {
        let exported = |shape: Shape| self.exports.iter().any(|name| entry(name) == Some(shape));
        SHAPE_EXPORTS.iter().map(|(_, shape)| *shape).filter(|shape| exported(*shape)).collect()
    }

    /// What to do where there is no way.
    fn no_entry(&self) -> String {
        let exports = listed(&self.exports);
        if self.is_core {
            return format!(
                "the module is a core module that exports neither {} nor agent:runtime/handler@0.1.0#handle: build a program with \
                 a main function for wasm32-wasip1, or a component, for example with the target wasm32-wasip2; it exports \
                 {exports}",
                preview1::START
            );
        }
        format!(
            "the module exports no handler: expected agent:runtime/handler@0.1.0, wasi:cli/run@0.2, \
             wasi:http/incoming-handler@0.2 or wasi:messaging/incoming-handler@0.2.0-draft; it exports {exports}"
        )
    }
}

impl Totals {
    fn add(&mut self, payload: &Payload<'_>) -> Result<(), LoadError> {
        let items = match payload {
            Payload::CodeSectionStart { count, .. } => {
                self.functions += u64::from(*count);
                return refuse_over("functions", self.functions, FUNCTIONS_MAX);
            }
            Payload::CodeSectionEntry(body) => {
                return refuse_over("bytes in one function", body.range().len() as u64, FUNCTION_BYTES_MAX.0);
            }
            Payload::TypeSection(section) => return self.add_types(section.count(), section.range()),
            Payload::CoreTypeSection(section) => return self.add_types(section.count(), section.range()),
            Payload::ComponentTypeSection(section) => return self.add_types(section.count(), section.range()),
            Payload::ImportSection(section) => section.count(),
            Payload::TableSection(section) => section.count(),
            Payload::MemorySection(section) => section.count(),
            Payload::TagSection(section) => section.count(),
            Payload::GlobalSection(section) => section.count(),
            Payload::ExportSection(section) => section.count(),
            Payload::ElementSection(section) => section.count(),
            Payload::DataSection(section) => section.count(),
            Payload::InstanceSection(section) => section.count(),
            Payload::ComponentInstanceSection(section) => section.count(),
            Payload::ComponentAliasSection(section) => section.count(),
            Payload::ComponentCanonicalSection(section) => section.count(),
            Payload::ComponentImportSection(section) => section.count(),
            Payload::ComponentExportSection(section) => section.count(),
            _ => 0,
        };
        self.items += u64::from(items);
        refuse_over("imports, exports, globals, segments and instances", self.items, ITEMS_MAX)
    }

    fn add_types(&mut self, count: u32, range: std::ops::Range<usize>) -> Result<(), LoadError> {
        self.types += u64::from(count);
        self.type_bytes += range.len() as u64;
        refuse_over("types", self.types, TYPES_MAX)?;
        refuse_over("bytes of types", self.type_bytes, TYPE_BYTES_MAX.0)
    }
}

fn malformed(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::NotWasm(error.to_string())
}

fn refuse_too_many(what: &'static str, names: &[String], more: u32) -> Result<(), LoadError> {
    refuse_over(what, names.len() as u64 + u64::from(more), NAMES_MAX.into())
}

/// Refuses what is more than a limit allows.
fn refuse_over(what: &'static str, found: u64, limit: u64) -> Result<(), LoadError> {
    if found > limit { Err(LoadError::Limit { what, found, limit }) } else { Ok(()) }
}

/// What other compilers of machine code make: programs and libraries.
fn is_machine_code(module: &[u8]) -> bool {
    const ELF: &[u8] = b"\x7fELF";
    const MACH_O: &[u8] = b"\xcf\xfa\xed\xfe";
    module.starts_with(ELF) || module.starts_with(MACH_O) || module.starts_with(b"MZ")
}

/// Says what it is where that is not WebAssembly but easily told.
fn refuse_text(module: &[u8]) -> Result<(), LoadError> {
    let start = module.trim_ascii_start();
    let what = match start {
        [] => "it is empty: was it built?",
        [b'(', ..] => "it is WebAssembly text; make a binary of it, for example with `wasm-tools parse`",
        _ => return Ok(()),
    };
    Err(LoadError::NotWasm(what.to_owned()))
}

/// Names as an error shows them.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.get(..NAMES_LISTED_MAX).unwrap_or(names).join(", ");
    match names.len().saturating_sub(NAMES_LISTED_MAX) {
        _ if names.is_empty() => "nothing".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
