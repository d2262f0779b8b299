//! Makes modules at random, for as long as somebody reads them: `fuzz-modules SEED WIT_FOLDER`.
//!
//! Each goes to standard output as a letter for its kind, its length (4 bytes, little-endian) and its bytes:
//! - `b`: any bytes, sometimes behind a component's preamble;
//! - `m`: a component of the agents' world, with some bytes changed;
//! - `c`: a valid component, as wasm-smith makes them;
//! - `a`: a valid component of the agents' world that imports what agents may import and does anything.
//!
//! The same seed makes the same modules.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use arbitrary::Unstructured;
use fastrand::Rng;
use wasm_smith::Config;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve, WorldId};

/// Most random bytes that a module is made of.
const CHOICES_BYTES_MAX: usize = 8 << 10;
/// Most bytes that are changed in a module.
const CHANGES_MAX: usize = 8;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [seed, wit] = arguments.as_slice() else { anyhow::bail!("usage: fuzz-modules SEED WIT_FOLDER") };
    let mut random = Rng::with_seed(seed.parse().context("the seed is a number")?);
    let world = World::read(Path::new(wit))?;
    let mut output = std::io::stdout().lock();
    loop {
        let mut choices = vec![0; random.usize(1..=CHOICES_BYTES_MAX)];
        random.fill(&mut choices);
        let mut unstructured = Unstructured::new(&choices);
        let (kind, module) = match random.u8(0..16) {
            0 => (b'b', Some(any(&mut random, &choices))),
            1..=3 => (b'm', Some(changed(&mut random, world.agent.clone()))),
            4..=6 => (b'm', world.agent(&mut unstructured).map(|module| changed(&mut random, module))),
            7 => (b'c', component(&mut unstructured)),
            _ => (b'a', world.agent(&mut unstructured)),
        };
        let Some(module) = module else { continue };
        let length = u32::try_from(module.len()).context("a module of 4 GB")?;
        let head = [[kind].as_slice(), &length.to_le_bytes()].concat();
        if output.write_all(&head).and_then(|()| output.write_all(&module)).is_err() {
            // Nobody reads any more.
            return Ok(());
        }
    }
}

struct World {
    resolve: Resolve,
    world: WorldId,
    /// A core module with every import and export that an agent may have, and no behaviour.
    dummy: Vec<u8>,
    /// The same as a component.
    agent: Vec<u8>,
}

impl World {
    fn read(wit: &Path) -> Result<Self> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(wit).with_context(|| format!("reading {}", wit.display()))?;
        let world = resolve.select_world(&[package], Some("agent"))?;
        let dummy = dummy_module(&resolve, world, ManglingAndAbi::Legacy(wit_parser::LiftLowerAbi::Sync));
        let agent = encoded(&resolve, world, dummy.clone()).context("the dummy is an agent")?;
        Ok(Self { resolve, world, dummy, agent })
    }

    fn agent(&self, choices: &mut Unstructured<'_>) -> Option<Vec<u8>> {
        let settings = Config { module_shape: Some(self.dummy.clone()), ..settings() };
        let settings = if choices.ratio(1, 4).ok()? {
            settings
        } else {
            // With some of the imports only.
            let (imports, exports) = (Some(self.dummy.clone()), Some(self.dummy.clone()));
            Config { module_shape: None, available_imports: imports, exports, ..settings }
        };
        let module = wasm_smith::Module::new(settings, choices).ok()?.to_bytes();
        encoded(&self.resolve, self.world, module).ok()
    }
}

fn encoded(resolve: &Resolve, world: WorldId, mut module: Vec<u8>) -> Result<Vec<u8>> {
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8, false)?;
    Ok(ComponentEncoder::default().module(&module)?.validate(false).encode()?)
}

fn component(choices: &mut Unstructured<'_>) -> Option<Vec<u8>> {
    Some(wasm_smith::Component::new(settings(), choices).ok()?.to_bytes())
}

fn any(random: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let preamble: &[u8] = if random.bool() { b"\0asm\x0d\0\x01\0" } else { b"" };
    [preamble, bytes].concat()
}

fn changed(random: &mut Rng, mut module: Vec<u8>) -> Vec<u8> {
    for _ in 0..random.usize(0..=CHANGES_MAX) {
        let at = random.usize(0..module.len());
        module[at] = random.u8(..);
    }
    if random.u8(0..8) == 0 {
        module.truncate(random.usize(0..module.len()));
    }
    module
}

/// What the host's engine offers, and a little more memory and tables than it has room for.
fn settings() -> Config {
    Config {
        compact_imports_enabled: false,
        custom_descriptors_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        max_memories: 3,
        max_tables: 3,
        max_table_elements: 30_000,
        max_memory32_bytes: 4 << 20,
        ..Config::default()
    }
}
