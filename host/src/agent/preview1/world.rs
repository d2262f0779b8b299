//! What a core module is told that it is: an agent of the interface in `wit/`.
//!
//! Tools for components write into a module which world it is of. Where nothing is written there, it is the one that every
//! native agent is of; so a compiler is all that an agent in C takes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use wasmparser::{Parser, Payload};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap, UnresolvedPackageGroup};

/// The name of what describes a module's world, or the start of it.
const DESCRIPTION: &str = "component-type";
/// The world of native agents.
const WORLD: &str = "agent";

/// The module with a description of its world: its own, where it has one.
pub(super) fn described(module: Cow<'_, [u8]>) -> anyhow::Result<Cow<'_, [u8]>> {
    let has_its_own = Parser::new(0)
        .parse_all(&module)
        .filter_map(Result::ok)
        .any(|payload| matches!(payload, Payload::CustomSection(section) if section.name().starts_with(DESCRIPTION)));
    if has_its_own {
        return Ok(module);
    }
    let (resolve, world) = world()?;
    let mut module = module.into_owned();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(Cow::Owned(module))
}

fn world() -> anyhow::Result<(Resolve, wit_parser::WorldId)> {
    let mut packages: BTreeMap<&str, SourceMap> = BTreeMap::new();
    for (path, text) in crate::wit::FILES {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        packages.entry(folder).or_default().push_str(path, *text);
    }
    let parsed = |source: SourceMap| -> anyhow::Result<UnresolvedPackageGroup> {
        source.parse().map_err(|(_, error)| anyhow!("{error}"))
    };
    let own = packages.remove("").context("the interface has no package of its own")?;
    let others = packages.into_values().map(parsed).collect::<Result<_, _>>()?;
    let mut resolve = Resolve::default();
    let package = resolve.push_groups(parsed(own)?, others).map_err(|error| anyhow!("{error}"))?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    Ok((resolve, world))
}
