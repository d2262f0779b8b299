//! Where things lie: the repository, cargo, the target folder, the crates.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// A crate of the workspace.
pub(crate) struct Crate {
    /// Its package name.
    pub(crate) name: String,
    /// The folder with its `Cargo.toml`.
    pub(crate) folder: PathBuf,
    /// Names of its `cdylib` and `bin` targets, which is what becomes a `.wasm` file.
    pub(crate) modules: Vec<String>,
}

/// The repository and how cargo sees it.
pub(crate) struct Workspace {
    /// The repository's root.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// The workspace's own crates.
    pub(crate) crates: Vec<Crate>,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let mut command = cargo_command();
        // xtask may be run from any folder of the repository.
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = process::output("cargo metadata", &mut command)?;
        let json: serde_json::Value = serde_json::from_slice(&output).context("cargo metadata did not print JSON")?;
        let path = |key: &str| {
            let text = json.get(key).and_then(|value| value.as_str());
            text.map(PathBuf::from).with_context(|| format!("cargo metadata printed no `{key}`"))
        };
        let packages = json.get("packages").and_then(|value| value.as_array()).into_iter().flatten();
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
            crates: packages.filter_map(read_crate).collect(),
        })
    }

    /// Cargo, in the repository's root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = cargo_command();
        command.current_dir(&self.root);
        command
    }

    /// A folder for this program's own files: `target/xtask`, made if it is not there.
    pub(crate) fn own_folder(&self) -> Result<PathBuf> {
        let folder = self.target.join("xtask");
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(folder)
    }
}

fn read_crate(package: &serde_json::Value) -> Option<Crate> {
    let manifest = Path::new(package.get("manifest_path")?.as_str()?);
    let targets = package.get("targets")?.as_array()?.iter().filter(|target| {
        let kinds = target.get("kind").and_then(|kinds| kinds.as_array()).into_iter().flatten();
        kinds.filter_map(|kind| kind.as_str()).any(|kind| kind == "cdylib" || kind == "bin")
    });
    Some(Crate {
        name: package.get("name")?.as_str()?.to_owned(),
        folder: manifest.parent()?.to_owned(),
        modules: targets.filter_map(|target| Some(target.get("name")?.as_str()?.to_owned())).collect(),
    })
}

/// The cargo that runs us, without the variables it sets for the program that it runs (build scripts of the crates we
/// build would see them change and run again).
fn cargo_command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command
}

/// The first program of this name in `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
