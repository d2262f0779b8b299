//! `cargo xtask fuzz --target deploy`: modules made at random by one program, deployed and run by another.
//!
//! Not by libFuzzer: what a module meets is nearly all wasmtime, which its authors fuzz with coverage counters, and building
//! it with them takes half an hour. What is looked for here is how the host gets on with what wasm-smith can think of.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{process, ui};

/// The modules come through a pipe; of its two ends the second decides.
const PIPE: &str = r#""$0" "$1" "$2" | "$3" --seconds "$4" --artifact "$5""#;

/// Builds both programs and runs them for `seconds`, or the second one over the files named in `args`.
pub(super) fn run(workspace: &Workspace, artifacts: &Path, seconds: u32, args: &[String]) -> Result<()> {
    ui::step("building what deploys and runs modules");
    // The whole workspace: for two packages alone cargo would choose other features than the tests have, and build all anew.
    let build = ["build", "--workspace", "--bin", "fuzz-deploy"];
    process::run("cargo build", workspace.cargo().args(build))?;
    let deploys = workspace.target.join("debug/fuzz-deploy");
    let mut found = artifacts.join("deploy.wasm");
    let ran = if args.is_empty() {
        let makes = modules(workspace)?;
        // Another one each time, and said, so that a run can be repeated.
        let seed = std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_secs();
        ui::step(&format!("fuzzing for {seconds} s, with the seed {seed}"));
        let mut pipe = Command::new("sh");
        pipe.args(["-c", PIPE]).arg(makes).arg(seed.to_string()).arg(workspace.root.join("wit"));
        pipe.arg(deploys).arg(seconds.to_string()).arg(&found);
        process::run("the fuzz target", &mut pipe)
    } else {
        found = args.iter().map(PathBuf::from).next_back().unwrap_or(found);
        process::run("the fuzz target", Command::new(deploys).args(args))
    };
    ran.with_context(|| {
        format!(
            "the fuzz target found something; run it again with `cargo xtask fuzz --target deploy -- {}`",
            found.display()
        )
    })
}

/// Builds what makes modules.
fn modules(workspace: &Workspace) -> Result<PathBuf> {
    ui::step("building what makes modules");
    let target = workspace.target.join("fuzz-modules");
    let mut build = workspace.cargo();
    build.args(["build", "--locked", "--manifest-path", "fuzz/modules/Cargo.toml", "--target-dir"]).arg(&target);
    process::run("cargo build", &mut build)?;
    Ok(target.join("debug/fuzz-modules"))
}
