//! What the workers in other languages need that the host is compared with: Node.js with amqplib, and Celery.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{Workspace, find_program};
use crate::{apt, process, python, ui};

const NODE: [apt::Packaged; 2] = [("node", "nodejs"), ("npm", "npm")];

/// Where they are.
pub(crate) struct Peers {
    node: PathBuf,
    celery: PathBuf,
}

impl Peers {
    /// Finds them, and installs what is ours to install.
    pub(crate) fn find(workspace: &Workspace) -> Result<Self> {
        ui::step("checking what the compared workers need: Node.js with amqplib, Celery");
        apt::require(&NODE, "the benchmarks compare with a worker in Node.js")?;
        let folder = workspace.root.join("benchmarks/peers");
        // Installs what the lock file says, and nothing where that is there already.
        let mut npm = Command::new("npm");
        npm.current_dir(folder.join("node")).args(["install", "--silent", "--no-audit", "--no-fund", "--no-save"]);
        process::output("npm install", &mut npm)?;
        let list = folder.join("celery/requirements.txt");
        let wanted = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let version = wanted.trim().trim_start_matches("celery==");
        let celery = python::program(workspace, "celery", &[wanted.trim()], |celery| {
            process::output("celery", celery.arg("--version"))
                .is_ok_and(|output| String::from_utf8_lossy(&output).starts_with(version))
        })?;
        Ok(Self { node: find_program("node").context("node is installed but was not found")?, celery })
    }

    /// How the comparison is told.
    pub(crate) fn arguments(&self) -> [OsString; 4] {
        ["--node".into(), self.node.clone().into(), "--celery".into(), self.celery.clone().into()]
    }
}
