//! `agent-host dev` on an agent that was just made: from a save to what the new code answers.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::tools::Tools;
use crate::process::{self, Child};

/// What `dev` says when the first scenario of a template has been run.
const RAN: &str = "scenarios/hello.toml: succeeded";
/// The build of one that has an engine in it takes a minute, and this machine may be busy.
const LIMIT: Duration = Duration::from_secs(600);
/// Far shorter than anything that is measured.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long it takes from a save of this source until its agent has been built, deployed and run again.
pub(super) fn save_to_answer(tools: &Tools, agent: &Path, source: &str) -> Result<Duration> {
    let data = tempfile::tempdir().context("could not make a temporary folder")?;
    let log = data.path().join("log");
    let file = File::create(&log).with_context(|| log.display().to_string())?;
    let mut command = tools.command("agent-host");
    command
        .arg("dev")
        .current_dir(agent)
        .env_remove("CARGO_TARGET_DIR")
        .env("AGENT_HOST_LISTEN", "127.0.0.1:0")
        .env("AGENT_HOST_DATA_DIR", data.path().join("data"))
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("could not share the log")?)
        .stderr(file);
    let mut host = Child::spawn("agent-host dev", &mut command, Signal::TERM)?;
    await_runs(&mut host, &log, 1)?;
    let source = agent.join(source);
    let begun = Instant::now();
    let mut file = File::options().append(true).open(&source).with_context(|| source.display().to_string())?;
    file.write_all(b"\n").with_context(|| source.display().to_string())?;
    await_runs(&mut host, &log, 2)?;
    let took = begun.elapsed();
    host.stop();
    Ok(took)
}

/// Waits until it has been run that often.
fn await_runs(host: &mut Child, log: &Path, times: usize) -> Result<()> {
    let until = Instant::now() + LIMIT;
    loop {
        let said = std::fs::read(log).with_context(|| log.display().to_string())?;
        let said = String::from_utf8_lossy(&said);
        if said.matches(RAN).count() >= times {
            return Ok(());
        }
        if host.try_wait()?.is_some() || Instant::now() >= until {
            bail!("it has not run the agent:\n{said}");
        }
        process::pause(LOOK_EVERY)?;
    }
}
