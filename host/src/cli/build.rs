//! `agent-host build [PATH]`: runs what the manifest says makes the module.

use std::path::PathBuf;
use std::process::Stdio;

use super::failed::Failed;
use super::output::Console;
use crate::package::{self, MANIFEST_NAME};

/// `build`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Build {
    /// The agent's folder, or its agent.toml
    #[arg(default_value = ".")]
    path: PathBuf,
}

impl Build {
    pub(super) async fn run(&self, console: &mut Console<'_>) -> Result<(), Failed> {
        let manifest = package::manifest(&self.path)?;
        let Some(build) = &manifest.build else {
            let name = &manifest.agent.name;
            return Err(Failed::usage(format!(
                "{MANIFEST_NAME} of {name} has no [build]: add `command` to say what makes it"
            )));
        };
        let folder = if self.path.is_dir() { Some(self.path.as_path()) } else { self.path.parent() };
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".as_ref());
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &build.command]).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
        // What a build prints is for people: results of ours go to standard output.
        let status = command.stdout(std::io::stderr()).status().await;
        let status = status.map_err(|error| Failed::usage(format!("{}: {error}", build.command)))?;
        if !status.success() {
            return Err(Failed::usage(format!("{}: {status}", build.command)));
        }
        let module = folder.join(&manifest.agent.module);
        let bytes = std::fs::metadata(&module).map(|metadata| metadata.len());
        let bytes = bytes.map_err(|error| {
            Failed::usage(format!("{} was not made: {error}; correct agent.module or build.command", module.display()))
        })?;
        Ok(console.text(&format!("{}: {bytes} bytes", module.display()))?)
    }
}
