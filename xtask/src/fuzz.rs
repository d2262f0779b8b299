//! `cargo xtask fuzz`: a fuzz target of `fuzz/`, for a given time.
//!
//! Contract: exits 0 only if nothing was found. What was found lies in `fuzz/artifacts/`, and is run again by
//! `cargo xtask fuzz --target NAME -- FILE`. Inputs that reach new code are kept in the target folder, so a later run goes on from there.

mod deploy;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt};
use crate::workspace::{Workspace, find_program};
use crate::{process, ui};

/// For how long, unless told: enough to see that nothing broke; a search for something new takes hours.
pub(crate) const SECONDS_DEFAULT: u32 = 60;
/// The targets: programs in `fuzz/`.
pub(crate) const TARGETS: [&str; 3] = ["envelope", "texts", "deploy"];
/// The one that is run unless told.
pub(crate) const TARGET_DEFAULT: &str = TARGETS[0];
/// Longest input, in bytes. Large headers and deep nesting come from few bytes: an input can ask for them.
const INPUT_BYTES_MAX: u32 = 16 * 1024;
/// An input takes microseconds, some take milliseconds; one that takes seconds is a finding.
const INPUT_TIMEOUT_S: u32 = 10;

/// Builds a target and runs it for `seconds`, or over the files named in `args`.
pub(crate) fn run(workspace: &Workspace, name: &str, seconds: u32, args: &[String]) -> Result<()> {
    let folder = workspace.root.join("fuzz");
    let target = workspace.target.join("fuzz");
    let artifacts = folder.join("artifacts");
    let found = target.join("corpus").join(name);
    for folder in [&artifacts, &found] {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }

    if name == "deploy" {
        return deploy::run(workspace, &artifacts, seconds, args);
    }
    ui::step("building the fuzz target with coverage counters; the first time this takes some minutes");
    need_cxx()?;
    let mut build = workspace.cargo();
    // In its folder, for the flags in its .cargo/config.toml, which these variables would replace.
    build.current_dir(&folder).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    build.args(["build", "--release", "--locked", "--bin", name, "--target-dir"]).arg(&target);
    process::run("cargo build", &mut build)?;
    let program = built(&target, name)?;

    let mut fuzz = Command::new(&program);
    fuzz.arg(setting("artifact_prefix", format!("{}/", artifacts.display())));
    fuzz.arg(setting("timeout", INPUT_TIMEOUT_S));
    if args.is_empty() {
        ui::step(&format!("fuzzing for {seconds} s"));
        fuzz.arg(setting("max_total_time", seconds)).arg(setting("max_len", INPUT_BYTES_MAX));
        // Large inputs are not to take the time of many small ones.
        fuzz.arg(setting("entropic_scale_per_exec_time", 1)).arg(setting("print_final_stats", 1));
        // New inputs go to the first folder; the second is the repository's and is only read.
        fuzz.arg(&found).arg(folder.join("corpus").join(name));
    } else {
        fuzz.args(args);
    }
    let summary = summarised(&mut fuzz);
    summary.with_context(|| {
        format!(
            "the fuzz target found something; run it again with `cargo xtask fuzz --target {name} -- {}/FILE`",
            artifacts.display()
        )
    })
}

fn setting(name: &str, value: impl std::fmt::Display) -> String {
    format!("-{name}={value}")
}

/// Runs libFuzzer, showing what it says, and ends with the two lines of it that matter.
fn summarised(fuzz: &mut Command) -> Result<()> {
    // It writes to stderr only; the shell joins that to the stdout that is read here.
    let mut joined = Command::new("sh");
    joined.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(fuzz.get_program()).args(fuzz.get_args());
    let (mut executions, mut covered, mut edges) = (None, None, None);
    process::run_seeing("the fuzz target", &mut joined, None, |line| {
        let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim().to_owned());
        executions = after("stat::number_of_executed_units:").or(executions.take());
        edges = after("PC tables (").and_then(|rest| Some(rest.split_once(" PCs")?.0.to_owned())).or(edges.take());
        let done = after("DONE   cov: ");
        covered = done.and_then(|rest| Some(rest.split_once(' ')?.0.to_owned())).or(covered.take());
    })?;
    if let (Some(executions), Some(covered), Some(edges)) = (executions, covered, edges) {
        ui::step("nothing was found");
        ui::say(&format!(
            "{executions} executions; {covered} of {edges} edges covered, those of all dependencies included"
        ));
    }
    Ok(())
}

/// The program, in the folder of the one platform that it was built for.
fn built(target: &Path, name: &str) -> Result<std::path::PathBuf> {
    let folders = std::fs::read_dir(target).with_context(|| format!("could not read {}", target.display()))?;
    let programs = folders.flatten().map(|folder| folder.path().join("release").join(name));
    programs.into_iter().find(|program| program.is_file()).context("cargo built no fuzz target")
}

/// libFuzzer is C++ and is compiled on the spot.
fn need_cxx() -> Result<()> {
    const PACKAGES: [&str; 2] = ["g++", "libc6-dev"];
    if std::env::var_os("CXX").as_deref().is_some_and(|cxx| cxx != OsStr::new("")) || find_program("c++").is_some() {
        return Ok(());
    }
    let Some(apt) = Apt::find() else {
        bail!("no C++ compiler (c++) was found; on Debian or Ubuntu: {}", apt::install_line(&PACKAGES));
    };
    apt.install(&PACKAGES)
}
