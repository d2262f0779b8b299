//! The browser that the dashboard's tests drive.

use anyhow::{Result, bail};

use crate::apt::{self, Apt};
use crate::workspace::find_program;

/// Programs, and the packages of Debian that have them.
const PROGRAMS: [(&str, &str); 2] = [("chromium", "chromium"), ("chromedriver", "chromium-driver")];

/// Makes sure that Chromium and its driver are installed, by apt-get where that is ours to do.
pub(crate) fn require() -> Result<()> {
    let lacking = missing();
    if lacking.is_empty() {
        return Ok(());
    }
    if let Some(apt) = Apt::find_for_servers() {
        apt.install(&lacking)?;
        if missing().is_empty() {
            return Ok(());
        }
    }
    bail!(
        "{} not found: the dashboard's tests drive a real browser. Install: {}",
        lacking.join(", "),
        apt::install_line(&lacking)
    )
}

fn missing() -> Vec<&'static str> {
    PROGRAMS.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package).collect()
}
