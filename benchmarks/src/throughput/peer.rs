//! Workers as teams write them in other languages, each a program of its own below `benchmarks/peers/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

/// How long a worker may take to stop before it is killed.
const STOP_MAX: Duration = Duration::from_secs(30);

/// What its messages look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Any bytes.
    Plain,
    /// A call of the task `peer.echo` in Celery's protocol, version 2.
    Celery,
}

/// How to start one.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    pub(crate) shape: Shape,
    /// Messages of a round.
    pub(crate) messages: u32,
    program: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
}

impl Peer {
    /// The worker of `benchmarks/peers/node`, whose packages are installed.
    pub(crate) fn node(program: PathBuf, peers: &Path, messages: u32) -> Self {
        let queue = "benchmark.node";
        let arguments = ["worker.js", queue].map(OsString::from).into();
        Self { name: "Node.js", queue, shape: Shape::Plain, messages, program, arguments, folder: peers.join("node") }
    }

    /// The worker of `benchmarks/peers/celery`, with two processes for the two cores of the machine.
    pub(crate) fn celery(program: PathBuf, peers: &Path, messages: u32) -> Self {
        let queue = "benchmark.celery";
        let arguments = "--app worker worker --concurrency 2 --loglevel WARNING --without-gossip --without-mingle \
            --without-heartbeat --queues"
            .split_whitespace()
            .chain([queue])
            .map(OsString::from)
            .collect();
        let folder = peers.join("celery");
        Self { name: "Celery", queue, shape: Shape::Celery, messages, program, arguments, folder }
    }

    /// Starts it.
    pub(crate) fn start(&self, amqp_url: &str) -> Result<Running> {
        // A path is meant from here, not from the worker's folder; a name is looked up.
        let program = if self.program.is_file() { std::path::absolute(&self.program)? } else { self.program.clone() };
        let child = Command::new(program)
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env("AMQP_URL", amqp_url)
            .env("PEER_QUEUE", self.queue)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {} for {}", self.program.display(), self.name))?;
        Ok(Running { child })
    }
}

/// One that runs.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Returns only when it ended by itself, which it should not.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Ends it as an operator does, so that it takes its own processes with it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: kill() takes numbers; the process is a child that was not waited for, so the pid is its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        if tokio::time::timeout(STOP_MAX, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}
