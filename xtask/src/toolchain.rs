//! The compiler that makes agents: rustup's `wasm32-wasip2` where there is one or one can be had, else Debian's.
//!
//! Both make components. Debian's packages carry no `wasm32-wasip2`, so there the standard library is built from source
//! for `wasm32-wasip1` and rustup's own linker wraps the result.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt};
use crate::workspace::{Workspace, find_program};
use crate::{process, ui};

/// Enough to download 10 MB on a slow line; without a network rustup would try for minutes.
const TARGET_ADD_LIMIT: Duration = Duration::from_secs(20);
/// For how long a failed `rustup target add` is not tried again.
const TARGET_ADD_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// What the Debian way needs.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "wasi-libc", "lld-19"];

/// A way to compile agents.
pub(crate) enum Toolchain {
    /// The active toolchain has the standard library for `wasm32-wasip2`.
    Wasip2,
    /// Debian's compiler, with rustup's `wasm-component-ld` from this folder.
    Debian {
        /// `lib/rustlib/<host>/bin` of the active toolchain.
        linkers: PathBuf,
    },
}

impl Toolchain {
    /// Finds one, installing what is ours to install.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self> {
        if has_wasip2(workspace) || add_wasip2(workspace)? {
            return Ok(Self::Wasip2);
        }
        let linkers = linkers(workspace)?;
        if !debian_is_complete() {
            let Some(apt) = Apt::find() else {
                bail!(
                    "no compiler for WebAssembly agents. One of these helps:\n  \
                     with a network:       rustup target add wasm32-wasip2\n  \
                     on Debian or Ubuntu:  {}",
                    apt::install_line(&DEBIAN_PACKAGES)
                );
            };
            apt.install(&DEBIAN_PACKAGES)?;
        }
        Ok(Self::Debian { linkers })
    }

    /// One line about it.
    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Wasip2 => "with the wasm32-wasip2 target of the active Rust toolchain",
            Self::Debian { .. } => "with Debian's rustc (standard library built from source)",
        }
    }

    /// `cargo build` for agents; the packages are still to be named.
    pub(crate) fn build_command(&self, workspace: &Workspace) -> Result<Command> {
        let mut command = workspace.cargo();
        command.args(["build", "--profile", "agent", "--target", self.target()]);
        command.arg("--target-dir").arg(target_folder(workspace));
        // Flags meant for the host's code do not fit the guests'.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        if let Self::Debian { linkers } = self {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = [linkers.clone(), linkers.join("gcc-ld")].into_iter().chain(std::env::split_paths(&path));
            let path = std::env::join_paths(folders).context("PATH has an entry that cannot be in it")?;
            command
                .arg("-Zbuild-std=std,panic_abort")
                .env("PATH", path)
                .env("RUSTC", "/usr/bin/rustc")
                // -Zbuild-std is an unstable flag of cargo, and the standard library uses unstable features.
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_WASIP1_LINKER", linkers.join("wasm-component-ld"))
                .env(
                    "CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS",
                    "-C link-self-contained=no -L native=/usr/lib/wasm32-wasi \
                     -C link-arg=/usr/lib/wasm32-wasi/crt1-reactor.o",
                );
        }
        Ok(command)
    }

    /// Where the modules come to lie.
    pub(crate) fn artifacts(&self, workspace: &Workspace) -> PathBuf {
        target_folder(workspace).join(self.target()).join("agent")
    }

    fn target(&self) -> &'static str {
        match self {
            Self::Wasip2 => "wasm32-wasip2",
            Self::Debian { .. } => "wasm32-wasip1",
        }
    }
}

/// Agents have a target folder of their own: another compiler in the host's one would make cargo rebuild the host.
fn target_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("wasm")
}

/// `rustc --print` of the active toolchain.
fn print(workspace: &Workspace, args: &[&str]) -> Result<PathBuf> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let output = process::output("rustc", command.current_dir(&workspace.root).args(["--print"]).args(args))?;
    Ok(PathBuf::from(String::from_utf8_lossy(&output).trim()))
}

fn has_wasip2(workspace: &Workspace) -> bool {
    // rustc names the folder also where it does not exist.
    let Ok(folder) = print(workspace, &["target-libdir", "--target", "wasm32-wasip2"]) else {
        return false;
    };
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// Asks rustup for the target; whether it is there now. A failure is remembered, so that a machine without a network
/// does not wait for it every time.
fn add_wasip2(workspace: &Workspace) -> Result<bool> {
    if find_program("rustup").is_none() {
        return Ok(false);
    }
    let memory = workspace.own_folder()?.join("rustup-target-add-failed");
    let age = std::fs::metadata(&memory).and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age < TARGET_ADD_RETRY_AFTER) {
        return Ok(false);
    }
    ui::say("rustup target add wasm32-wasip2");
    let mut command = Command::new("rustup");
    command.current_dir(&workspace.root).args(["target", "add", "wasm32-wasip2"]);
    if let Err(error) = process::output_within("rustup", &mut command, Some(TARGET_ADD_LIMIT)) {
        process::check_interrupted()?;
        let first_line = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
        ui::say(&format!("not available ({first_line})"));
        std::fs::write(&memory, format!("{error:#}\n")).context("could not remember the failure")?;
        return Ok(false);
    }
    Ok(has_wasip2(workspace))
}

/// The folder with `wasm-component-ld` and `gcc-ld/wasm-ld`.
fn linkers(workspace: &Workspace) -> Result<PathBuf> {
    let sysroot = print(workspace, &["sysroot"])?;
    let hosts = std::fs::read_dir(sysroot.join("lib/rustlib")).into_iter().flatten().flatten();
    let mut folders = hosts.map(|host| host.path().join("bin"));
    folders
        .find(|folder| folder.join("wasm-component-ld").is_file())
        .with_context(|| format!("no wasm-component-ld below {} (rustup's toolchains have it)", sysroot.display()))
}

fn debian_is_complete() -> bool {
    ["/usr/bin/rustc", "/usr/lib/rustlib/src/rust/library/std/Cargo.toml", "/usr/lib/wasm32-wasi/crt1-reactor.o"]
        .iter()
        .all(|file| Path::new(file).exists())
}
