//! Builds the sample agents and puts each module where its manifest (`agent.toml`) expects it.
//!
//! Contract: afterwards `AGENT_HOST_AGENTS_DIR=agents` deploys them all. Files that would not change are left alone, so a
//! watching host sees only real changes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::toolchain::Toolchain;
use crate::workspace::{Crate, Workspace};
use crate::{process, ui};

/// How deep below a crate's folder manifests are looked for: `agents/fixtures/<name>/agent.toml` is the deepest.
const MANIFEST_DEPTH_MAX: usize = 2;

/// Builds the agents of these crates, or all of them when none is named.
pub(crate) fn build(workspace: &Workspace, names: &[String]) -> Result<()> {
    let all: Vec<&Crate> =
        workspace.crates.iter().filter(|one| one.folder.starts_with(workspace.root.join("agents"))).collect();
    let known = || all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|one| one.name == **name)) {
        bail!("no agent crate is called `{unknown}`; there are: {}", known());
    }
    let wanted: Vec<&Crate> = all.iter().copied().filter(|one| names.is_empty() || names.contains(&one.name)).collect();
    ensure!(!wanted.is_empty(), "no crate lies below agents/");

    ui::step(&format!(
        "building agents: {}",
        wanted.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
    ));
    let toolchain = Toolchain::find(workspace)?;
    ui::say(toolchain.describe());
    let mut command = toolchain.build_command(workspace)?;
    for one in &wanted {
        command.args(["--package", &one.name]);
    }
    process::run("cargo build (agents)", &mut command)?;

    let artifacts = toolchain.artifacts(workspace);
    let mut placed = 0;
    for one in &wanted {
        placed += place(one, &artifacts).with_context(|| format!("agent crate `{}`", one.name))?;
    }
    let modules = if placed == 1 {
        "module is where its manifest expects it"
    } else {
        "modules are where their manifests expect them"
    };
    ui::say(&format!("{placed} {modules}"));
    if wanted.iter().any(|one| one.name == "fixtures") {
        encode_hostile(workspace)?;
    }
    Ok(())
}

/// Makes components of the hostile guests, with a program that is built apart from the workspace.
fn encode_hostile(workspace: &Workspace) -> Result<()> {
    let manifest = workspace.root.join("agents/fixtures/hostile/encoder/Cargo.toml");
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(workspace.target.join("hostile"));
    process::run("the encoder of the hostile guests", &mut command)
}

/// Copies a crate's modules beside its manifests; gives how many.
fn place(agent: &Crate, artifacts: &Path) -> Result<usize> {
    let mut manifests = Vec::new();
    find_manifests(&agent.folder, MANIFEST_DEPTH_MAX, &mut manifests)?;
    ensure!(!manifests.is_empty(), "no agent.toml in or below {}", agent.folder.display());
    for manifest in &manifests {
        let target = module_path(manifest)?;
        let source = artifact(agent, artifacts, &target)?;
        copy_if_changed(&source, &target)?;
    }
    Ok(manifests.len())
}

fn find_manifests(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.file_name().is_some_and(|name| name == "agent.toml") {
            found.push(path);
        } else if depth > 0 && path.is_dir() {
            find_manifests(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// Where a manifest expects its module.
fn module_path(manifest: &Path) -> Result<PathBuf> {
    let text = std::fs::read_to_string(manifest).with_context(|| format!("could not read {}", manifest.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is not valid TOML", manifest.display()))?;
    let module = table.get("agent").and_then(|agent| agent.get("module")).and_then(toml::Value::as_str);
    let module = module.with_context(|| format!("{} names no `module` under [agent]", manifest.display()))?;
    Ok(manifest.with_file_name(module))
}

/// The built file for a module: a crate with one target has one; one with several has it by the module's name.
fn artifact(agent: &Crate, artifacts: &Path, module: &Path) -> Result<PathBuf> {
    let plain = |name: &str| name.replace('-', "_");
    let stem = module.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let target = match agent.modules.as_slice() {
        [only] => only,
        several => several
            .iter()
            .find(|name| plain(name) == plain(stem))
            .with_context(|| format!("no target for {}; the crate has: {}", module.display(), several.join(", ")))?,
    };
    // cargo writes a library's dashes as underscores and leaves a program's alone.
    let candidates = [target.clone(), plain(target)].map(|name| artifacts.join(format!("{name}.wasm")));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("the build left no {}.wasm in {}", plain(target), artifacts.display()))
}

fn copy_if_changed(source: &Path, target: &Path) -> Result<()> {
    let bytes = std::fs::read(source).with_context(|| format!("could not read {}", source.display()))?;
    if std::fs::read(target).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    // Written beside and renamed: a host that watches never sees half a module.
    let beside = target.with_extension("wasm.new");
    std::fs::write(&beside, bytes).with_context(|| format!("could not write {}", beside.display()))?;
    std::fs::rename(&beside, target).with_context(|| format!("could not move the module to {}", target.display()))
}
