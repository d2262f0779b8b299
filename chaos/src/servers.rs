//! The servers, by the process ids that whoever supervises them keeps in files: one a server, there while it answers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::schedule::Server;

/// How long a server may take to come back; RabbitMQ needs about ten seconds on a small machine.
const RETURN_LIMIT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The three servers.
pub(crate) struct Servers {
    pids: PathBuf,
    /// One restart of each at a time.
    locks: [Mutex<()>; 3],
}

impl Servers {
    /// Those whose process ids are in this folder.
    pub(crate) fn new(pids: PathBuf) -> Self {
        Self { pids, locks: Default::default() }
    }

    /// Ends a server, at once or as an operator would, and waits until its supervisor has brought it back.
    pub(crate) async fn restart(&self, server: Server, kill: bool) -> Result<()> {
        let lock = self.locks.get(server.index()).context("there are three servers")?;
        let _one_at_a_time = lock.lock().await;
        let old = self.await_pid(server, None).await?;
        let signal = match (kill, server) {
            (true, _) => Signal::KILL,
            // PostgreSQL's fast shutdown: SIGTERM would wait until every client has gone.
            (false, Server::Postgres) => Signal::INT,
            (false, _) => Signal::TERM,
        };
        kill_process(old, signal).with_context(|| format!("could not signal process {}", old.as_raw_nonzero()))?;
        self.await_pid(server, Some(old)).await.map(drop)
    }

    /// The process that serves, once it is another than `old`.
    async fn await_pid(&self, server: Server, old: Option<Pid>) -> Result<Pid> {
        let file = self.pids.join(server.variable().to_lowercase());
        let until = Instant::now() + RETURN_LIMIT;
        while Instant::now() < until {
            let text = tokio::fs::read_to_string(&file).await.ok();
            let pid = text.and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
            if let Some(pid) = pid.filter(|pid| Some(*pid) != old) {
                return Ok(pid);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        bail!("{server:?} has not come back after {} s (no process id in {})", RETURN_LIMIT.as_secs(), file.display())
    }
}
