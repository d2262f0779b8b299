//! The `agent-host` processes: each is started again whenever it ends, as an init system would.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::schedule::{HOSTS, Server};

/// The host's way to say that a server was away when it started (contract, section 5).
const EXIT_UNAVAILABLE: i32 = 69;
/// How long a host that ended by itself stays so.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// How long a host may take until it is ready, or to end when it is asked to: its own grace period is 30 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Hosts listen below the ports from which Linux takes those of outgoing connections (32768 and up): none of these may
/// have a host's port when it starts again.
const PORTS: std::ops::Range<u16> = 10_000..15_000;

/// What hosts are started with.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The program.
    pub(crate) program: PathBuf,
    /// `AGENT_HOST_AGENTS_DIR`.
    pub(crate) agents_dir: PathBuf,
    /// Where their data and logs go.
    pub(crate) folder: PathBuf,
    /// The servers' addresses.
    pub(crate) urls: Vec<(Server, String)>,
}

/// How a host's life went.
pub(crate) struct Life {
    /// How it ended when it was asked to.
    pub(crate) end: ExitStatus,
    /// Each time that it ended without being told to, but for a server that was away when it started.
    pub(crate) deaths: Vec<ExitStatus>,
}

enum Order {
    Kill { down: Duration },
    Stop(oneshot::Sender<Life>),
}

/// A host that is kept running.
pub(crate) struct Host {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    keeper: JoinHandle<()>,
}

/// Starts them all.
pub(crate) fn start(settings: &Settings) -> Result<Vec<Host>> {
    (0..HOSTS).map(|index| Host::start(settings, index)).collect()
}

impl Host {
    fn start(settings: &Settings, index: usize) -> Result<Self> {
        let address = free_address(index)?;
        let folder = settings.folder.join(format!("host-{index}"));
        std::fs::create_dir(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        let log = settings.folder.join(format!("host-{index}.log"));
        let log = File::create(&log).with_context(|| format!("could not make {}", log.display()))?;
        let command = command(settings, address, &folder, &log)?;
        let (orders, received) = mpsc::channel(1);
        let keeper = tokio::spawn(async move {
            if let Err(error) = keep(command, received).await {
                eprintln!("host {index} cannot be kept running: {error:#}");
            }
        });
        Ok(Self { address, orders, keeper })
    }

    /// Where its HTTP API is, while it runs.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn await_ready(&self, client: &reqwest::Client) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            if client.get(self.url("/readyz")).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(!self.keeper.is_finished(), "a host could not be started");
            ensure!(Instant::now() < until, "a host is not ready after {} s", PATIENCE.as_secs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kill -9`, and a start after the pause. Returns once the order is given, which is after the pause of the last.
    pub(crate) async fn kill(&self, down: Duration) -> Result<()> {
        self.orders.send(Order::Kill { down }).await.ok().context("nobody keeps the host any more")
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(&self) -> Result<Life> {
        let (sender, ended) = oneshot::channel();
        self.orders.send(Order::Stop(sender)).await.ok().context("nobody keeps the host any more")?;
        tokio::time::timeout(PATIENCE, ended)
            .await
            .with_context(|| format!("a host does not end within {} s of SIGTERM", PATIENCE.as_secs()))?
            .context("nobody keeps the host any more")
    }
}

fn command(settings: &Settings, address: SocketAddr, folder: &Path, log: &File) -> Result<Command> {
    let mut command = Command::new(&settings.program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AGENT_HOST_")) {
        command.env_remove(name);
    }
    command
        .arg("serve")
        .current_dir(folder)
        .env("AGENT_HOST_LISTEN", address.to_string())
        .env("AGENT_HOST_AGENTS_DIR", &settings.agents_dir)
        .env("AGENT_HOST_DATA_DIR", folder)
        .envs(settings.urls.iter().map(|(server, url)| (server.variable(), url)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("could not share a log")?)
        .stderr(log.try_clone().context("could not share a log")?)
        .kill_on_drop(true);
    Ok(command)
}

/// Keeps a host running until it is told to stop.
async fn keep(mut command: Command, mut orders: mpsc::Receiver<Order>) -> Result<()> {
    let mut deaths = Vec::new();
    loop {
        let mut child = command.spawn().context("could not start agent-host")?;
        let order = tokio::select! {
            order = orders.recv() => order,
            status = child.wait() => {
                let status = status.context("could not wait for a host")?;
                if status.code() != Some(EXIT_UNAVAILABLE) {
                    deaths.push(status);
                }
                tokio::time::sleep(RESTART_PAUSE).await;
                continue;
            }
        };
        match order {
            Some(Order::Kill { down }) => {
                child.kill().await.context("could not kill a host")?;
                tokio::time::sleep(down).await;
            }
            Some(Order::Stop(ended)) => {
                let end = terminate(&mut child).await?;
                // Whoever asked may have given up.
                let _ = ended.send(Life { end, deaths });
                return Ok(());
            }
            // The run was broken off; dropping the child kills it.
            None => return Ok(()),
        }
    }
}

async fn terminate(child: &mut Child) -> Result<ExitStatus> {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // It may just have ended; its status then says how.
        let _ = kill_process(pid, Signal::TERM);
    }
    child.wait().await.context("could not wait for a host")
}

/// An address on the loopback interface that is free, for the host of this index.
fn free_address(index: usize) -> Result<SocketAddr> {
    // Two runs at once begin elsewhere, and so do two hosts.
    let span = usize::from(PORTS.end - PORTS.start);
    let begin = usize::try_from(std::process::id())?.wrapping_mul(97).wrapping_add(index * span / HOSTS);
    let candidates = (0..span).filter_map(|step| u16::try_from((begin.wrapping_add(step)) % span).ok());
    for address in candidates.map(|offset| SocketAddr::from(([127, 0, 0, 1], PORTS.start + offset))) {
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port on 127.0.0.1 between {} and {}", PORTS.start, PORTS.end)
}
