//! A host process that a command runs: a free port, its data in a temporary folder, its log below the target folder.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::Client;
use crate::process::{self, Child};
use crate::services::Services;
use crate::workspace::Workspace;

/// Compiling all sample agents and making a database takes some seconds; this allows for a machine that is busy.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// The host's own grace period is 30 s.
const STOP_LIMIT: Duration = Duration::from_secs(45);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// How many lines of the host's log are shown when it fails.
const LOG_TAIL_LINES: usize = 25;

/// A running host with its data in a temporary folder.
pub(crate) struct Host {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    // After the child: the host must have ended before its data goes.
    _data: TempDir,
}

impl Host {
    /// Starts the one that was built last without optimisation, with everything embedded.
    pub(crate) fn embedded(workspace: &Workspace) -> Result<Self> {
        let program = workspace.target.join("debug/agent-host");
        Self::start(workspace, &program, |command| {
            command.envs(["AMQP_URL", "DATABASE_URL", "REDIS_URL"].map(|name| (name, "embedded")));
        })
    }

    /// Starts `program` on real servers.
    pub(crate) fn on(workspace: &Workspace, program: &Path, services: &Services) -> Result<Self> {
        Self::start(workspace, program, |command| services.apply(command))
    }

    /// Starts it on a free port, with the sample agents deployed.
    fn start(workspace: &Workspace, program: &Path, address_servers: impl FnOnce(&mut Command)) -> Result<Self> {
        let data =
            tempfile::Builder::new().prefix("agent-host-").tempdir().context("could not make a temporary folder")?;
        let address =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("no free port")?;
        let log = workspace.own_folder()?.join("host.log");
        let file = File::create(&log).with_context(|| format!("could not make {}", log.display()))?;
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AGENT_HOST_")) {
            command.env_remove(name);
        }
        address_servers(&mut command);
        command
            .arg("serve")
            .current_dir(data.path())
            .env("AGENT_HOST_LISTEN", address.to_string())
            .env("AGENT_HOST_AGENTS_DIR", workspace.root.join("agents"))
            .env("AGENT_HOST_DATA_DIR", data.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("could not share the log")?)
            .stderr(file);
        let child = Child::spawn("agent-host", &mut command, Signal::TERM)?;
        Ok(Self { child, address, log, _data: data })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Where its HTTP API is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it consumes tasks for every agent.
    pub(crate) fn await_ready(&mut self, client: &Client) -> Result<()> {
        let until = Instant::now() + READY_LIMIT;
        while !client.is_ready() {
            self.check_alive()?;
            if Instant::now() >= until {
                bail!("the host is not ready after {} s; {}", READY_LIMIT.as_secs(), self.log_tail());
            }
            process::pause(PROBE_INTERVAL)?;
        }
        Ok(())
    }

    /// Fails if it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the host ended by itself ({status}); {}", self.log_tail()),
        }
    }

    /// Stops it as an operator would, and checks that it drained.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.check_alive()?;
        self.child.ask_to_stop();
        let status = self.child.wait(Some(Instant::now() + STOP_LIMIT)).with_context(|| self.log_tail())?;
        if !status.success() {
            bail!("the host should exit 0 after SIGTERM ({status}); {}", self.log_tail());
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default();
        format!("its log, {}, ends:\n{}", self.log.display(), tail.join("\n"))
    }
}
