//! `cargo xtask instructions`: how many instructions the host's hot path takes, by callgrind.
//!
//! Contract: exits 0 only if no piece takes more than it may (benchmarks/instructions/benches/hot_path.rs).

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{apt, process, ui};

/// callgrind is a part of it.
pub(crate) const VALGRIND: [apt::Packaged; 1] = [("valgrind", "valgrind")];
pub(crate) const VALGRIND_PURPOSE: &str = "instructions are counted by its callgrind";
/// The program that gungraun's benches are run by. It must be of exactly the version in benchmarks/instructions/Cargo.toml.
const RUNNER: &str = "gungraun-runner";
const RUNNER_VERSION: &str = "0.20.0";

/// Counts, and compares with what is allowed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    apt::require(&VALGRIND, VALGRIND_PURPOSE)?;
    let runner = runner(workspace)?;
    ui::step("counting the instructions of the hot path");
    let mut bench = workspace.cargo();
    bench.current_dir(workspace.root.join("benchmarks/instructions")).args(["bench", "--locked"]);
    // Flags of the caller's would make other code.
    bench.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    // The runner writes its profiles there too.
    bench.env("CARGO_TARGET_DIR", workspace.target.join("instructions")).env("GUNGRAUN_RUNNER", runner);
    process::run("cargo bench", &mut bench).context(
        "some of the hot path takes more instructions than it may, or could not be counted; see above, and the head of \
         benchmarks/instructions/benches/hot_path.rs",
    )
}

/// The runner, built on the first use.
fn runner(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.own_folder()?.join(format!("{RUNNER}-{RUNNER_VERSION}"));
    let program = folder.join("bin").join(RUNNER);
    if !program.is_file() {
        ui::step("building what counts instructions (gungraun-runner); once, a minute or two");
        let mut install = workspace.cargo();
        // Unoptimised: it only starts programs and adds numbers up.
        install.args(["install", "--quiet", "--debug", "--locked", RUNNER, "--version", RUNNER_VERSION, "--root"]);
        process::run("cargo install", install.arg(&folder))?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_and_library_are_of_one_version() {
        let manifest = include_str!("../../benchmarks/instructions/Cargo.toml");
        assert!(manifest.contains(&format!("gungraun = \"={RUNNER_VERSION}\"")));
    }
}
