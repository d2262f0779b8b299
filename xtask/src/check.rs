//! `cargo xtask check`: formatting, lints, documentation, dependency rules, what operators deploy.

mod deploy;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{Workspace, find_program};
use crate::{process, ui};

/// Runs every check, the quick ones first.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    ui::step("formatting");
    process::run("cargo fmt --check", workspace.cargo().args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` mends this")?;
    for apart in ["benchmarks/instructions/Cargo.toml", "fuzz/Cargo.toml", "fuzz/modules/Cargo.toml"] {
        let mend = format!("`cargo fmt --manifest-path {apart}` mends this");
        process::run("cargo fmt --check", workspace.cargo().args(["fmt", "--manifest-path", apart, "--check"]))
            .context(mend)?;
    }

    ui::step("versions below which a dependency is not safe to use");
    minimum_versions(&workspace.root)?;

    ui::step("dependency rules (cargo deny)");
    if find_program("cargo-deny").is_some() {
        process::run("cargo deny", workspace.cargo().args(["deny", "--all-features", "check"]))?;
    } else {
        ui::warn(
            "cargo-deny is not installed, so licences, sources and new advisories were not checked \
             (cargo install --locked cargo-deny)",
        );
    }

    ui::step("what is deployed: alert rules, Kubernetes, compose");
    deploy::run(workspace)?;

    ui::step("lints");
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    process::run("cargo clippy", workspace.cargo().args(clippy))?;

    ui::step("fuzz targets, which take the host's files one by one");
    let mut fuzz = workspace.cargo();
    // In its folder, for the flags in its .cargo/config.toml, as `cargo xtask fuzz` does.
    fuzz.current_dir(workspace.root.join("fuzz")).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    fuzz.args(["check", "--release", "--locked", "--bins", "--target-dir"]).arg(workspace.target.join("fuzz"));
    process::run("cargo check (fuzz)", &mut fuzz)?;

    ui::step("documentation");
    let mut doc = workspace.cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", "--deny warnings");
    process::run("cargo doc", &mut doc)?;

    ui::step("all checks passed");
    Ok(())
}

/// Compares Cargo.lock with the `name:<version` bans of deny.toml. cargo-deny reads the same list; this also works
/// without it and without a network.
fn minimum_versions(root: &Path) -> Result<()> {
    let table = |name: &str| -> Result<toml::Table> {
        let text = std::fs::read_to_string(root.join(name)).with_context(|| format!("could not read {name}"))?;
        text.parse().with_context(|| format!("{name} is not valid TOML"))
    };
    let (deny, lock) = (table("deny.toml")?, table("Cargo.lock")?);
    let minimums = minimums(&deny)?;
    ensure!(!minimums.is_empty(), "deny.toml has no `name:<version` entry under [bans] deny");
    let low = below(&lock, &minimums)?;
    if !low.is_empty() {
        bail!(
            "Cargo.lock holds versions that deny.toml rules out (`cargo update -p NAME` raises one):\n  {}",
            low.join("\n  ")
        );
    }
    ui::say(&format!("{} rules hold", minimums.len()));
    Ok(())
}

/// A rule: crate, lowest good version, reason.
type Minimum = (String, [u64; 3], String);

fn minimums(deny: &toml::Table) -> Result<Vec<Minimum>> {
    let entries = deny.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
    let mut minimums = Vec::new();
    for entry in entries.into_iter().flatten() {
        let text = |key: &str| entry.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        if let Some((name, version)) = text("crate").split_once(":<") {
            minimums.push((name.to_owned(), parse_version(version)?, text("reason").to_owned()));
        }
    }
    Ok(minimums)
}

fn below(lock: &toml::Table, minimums: &[Minimum]) -> Result<Vec<String>> {
    let mut low = Vec::new();
    for package in lock.get("package").and_then(toml::Value::as_array).into_iter().flatten() {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        for (_, minimum, reason) in minimums.iter().filter(|(name, ..)| name == text("name")) {
            if parse_version(text("version"))? < *minimum {
                let [major, minor, patch] = minimum;
                low.push(format!("{} {} is below {major}.{minor}.{patch}: {reason}", text("name"), text("version")));
            }
        }
    }
    Ok(low)
}

/// `1.2.3`, without what a pre-release or build tag adds.
fn parse_version(text: &str) -> Result<[u64; 3]> {
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<u64> = plain.split('.').map(str::parse).collect::<Result<_, _>>().ok().unwrap_or_default();
    numbers.try_into().ok().with_context(|| format!("`{text}` is not a version like 1.2.3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[bans]\ndeny = [{ crate = \"h2:<0.4.16\", reason = \"why\" }, { crate = \"openssl\" }]";

    fn low_in(lock: &str) -> Vec<String> {
        let minimums = minimums(&DENY.parse().unwrap()).unwrap();
        below(&lock.parse().unwrap(), &minimums).unwrap()
    }

    #[test]
    fn a_version_below_the_minimum_is_named_with_the_reason() {
        let lock =
            "[[package]]\nname = \"h2\"\nversion = \"0.4.9\"\n[[package]]\nname = \"other\"\nversion = \"0.1.0\"";
        assert_eq!(low_in(lock), ["h2 0.4.9 is below 0.4.16: why"]);
    }

    #[test]
    fn the_minimum_itself_and_later_ones_pass() {
        for version in ["0.4.16", "0.4.17", "0.5.0", "1.0.0+build"] {
            assert!(low_in(&format!("[[package]]\nname = \"h2\"\nversion = \"{version}\"")).is_empty(), "{version}");
        }
    }
}
