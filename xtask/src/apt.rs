//! Installing what is missing with apt-get, where that is ours to do.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::find_program;
use crate::{process, ui};

/// `sudo -n` answers at once; this only bounds a broken one.
const SUDO_PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The way to become root for apt-get.
enum Root {
    Already,
    Sudo,
}

/// An apt-get that may be used.
pub(crate) struct Apt {
    root: Root,
}

impl Apt {
    /// apt-get, if the machine has one and we are root or sudo asks for no password.
    pub(crate) fn find() -> Option<Self> {
        find_program("apt-get")?;
        if rustix::process::geteuid().is_root() {
            return Some(Self { root: Root::Already });
        }
        find_program("sudo")?;
        let mut probe = Command::new("sudo");
        process::output_within("sudo", probe.args(["-n", "true"]), Some(SUDO_PROBE_LIMIT)).ok()?;
        Some(Self { root: Root::Sudo })
    }

    /// Like [`Apt::find`], but sudo counts only on a CI machine: on a person's own machine, servers are theirs to install.
    pub(crate) fn find_for_servers() -> Option<Self> {
        Self::find().filter(|apt| matches!(apt.root, Root::Already) || std::env::var_os("CI").is_some())
    }

    /// Installs packages, saying so.
    pub(crate) fn install(&self, packages: &[&str]) -> Result<()> {
        ui::say(&format!("installing with apt-get: {}", packages.join(" ")));
        // A fresh image has no package lists and an old one has stale ones; both fail here and are mended by `update`.
        if process::output("apt-get install", &mut self.install_command(packages)).is_ok() {
            return Ok(());
        }
        process::check_interrupted()?;
        process::output("apt-get update", self.apt_get().arg("update"))?;
        process::output("apt-get install", &mut self.install_command(packages))
            .with_context(|| format!("could not install the packages; try: {}", install_line(packages)))?;
        Ok(())
    }

    fn install_command(&self, packages: &[&str]) -> Command {
        let mut command = self.apt_get();
        command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        command
    }

    fn apt_get(&self) -> Command {
        let mut command = match self.root {
            Root::Already => Command::new("env"),
            Root::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "env"]);
                sudo
            }
        };
        // RUNLEVEL=1 keeps Debian's maintainer scripts from starting the servers that we only want the programs of.
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "--quiet"]);
        command
    }
}

/// A program, and Debian's package that has it.
pub(crate) type Packaged = (&'static str, &'static str);

/// Makes sure that programs are installed, by apt-get where that is ours to do; `purpose` says what they are for.
pub(crate) fn require(programs: &[Packaged], purpose: &str) -> Result<()> {
    let lacking = missing(programs);
    if lacking.is_empty() {
        return Ok(());
    }
    if let Some(apt) = Apt::find_for_servers() {
        apt.install(&lacking)?;
        if missing(programs).is_empty() {
            return Ok(());
        }
    }
    bail!("{} not found: {purpose}. Install: {}", lacking.join(", "), install_line(&lacking))
}

fn missing(programs: &[Packaged]) -> Vec<&'static str> {
    programs.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package).collect()
}

/// What a person types to install packages.
pub(crate) fn install_line(packages: &[&str]) -> String {
    format!("sudo apt-get install --yes {}", packages.join(" "))
}
