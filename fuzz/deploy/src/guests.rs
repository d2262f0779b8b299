//! Modules made of an input's bytes.

use std::path::Path;
use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use wasm_smith::Config;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve, WorldId};

/// Bytes that are changed in a mutated agent.
const CHANGES_MAX: usize = 8;

struct World {
    resolve: Resolve,
    world: WorldId,
    /// A core module with every import and export that an agent may have, and no behaviour.
    dummy: Vec<u8>,
    /// The same as a component.
    agent: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let (package, _) = resolve.push_dir(&wit).expect("the WIT of the host");
    let world = resolve.select_world(&[package], Some("agent")).expect("the world of an agent");
    let dummy = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    let agent = encoded(&resolve, world, dummy.clone()).expect("a component of it");
    World { resolve, world, dummy, agent }
});

fn encoded(resolve: &Resolve, world: WorldId, mut module: Vec<u8>) -> Option<Vec<u8>> {
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8).ok()?;
    ComponentEncoder::default().module(&module).ok()?.validate(false).encode().ok()
}

/// A component that does nothing, with some of its bytes changed.
pub(crate) fn mutated(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut agent = WORLD.agent.clone();
    for _ in 0..choices.int_in_range(0..=CHANGES_MAX)? {
        let at = choices.choose_index(agent.len())?;
        let byte = choices.arbitrary()?;
        if let Some(changed) = agent.get_mut(at) {
            *changed = byte;
        }
    }
    if choices.ratio(1, 8)? {
        agent.truncate(choices.choose_index(agent.len())?);
    }
    Ok(agent)
}

/// Whatever wasm-smith takes for a component.
pub(crate) fn component(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(wasm_smith::Component::new(settings(), choices)?.to_bytes())
}

/// A component of the agents' world whose core module is wasm-smith's.
pub(crate) fn agent(choices: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let world = &*WORLD;
    let config =
        Config { available_imports: Some(world.dummy.clone()), exports: Some(world.dummy.clone()), ..settings() };
    let module = wasm_smith::Module::new(config, choices)?.to_bytes();
    encoded(&world.resolve, world.world, module).ok_or(arbitrary::Error::IncorrectFormat)
}

/// What the host's engine offers, and sometimes a little more.
fn settings() -> Config {
    Config {
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        threads_enabled: false,
        max_memories: 3,
        max_tables: 3,
        max_table_elements: 30_000,
        max_memory32_bytes: 4 << 20,
        ..Config::default()
    }
}
