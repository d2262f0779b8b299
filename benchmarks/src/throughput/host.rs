//! The host under measurement: the released binary, as an operator starts it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How to start the host.
pub(crate) struct Host {
    program: PathBuf,
    agents: TempDir,
    data: TempDir,
    amqp_url: String,
    database_url: String,
    port: u16,
}

/// How long the host may take to consume, its agent compiled.
const START_MAX: Duration = Duration::from_secs(60);

impl Host {
    pub(crate) fn new(program: PathBuf, agent: &Path, amqp_url: &str, database_url: &str) -> Result<Self> {
        let agents = TempDir::new()?;
        let folder = agents.path().join("echo");
        std::fs::create_dir(&folder)?;
        for file in ["agent.toml", "echo.wasm"] {
            std::fs::copy(agent.join(file), folder.join(file))
                .with_context(|| format!("{file} of the echo agent (run cargo xtask agents)"))?;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (amqp_url, database_url) = (amqp_url.to_owned(), database_url.to_owned());
        Ok(Self { program, agents, data: TempDir::new()?, amqp_url, database_url, port })
    }

    /// Starts it, tells which process it is, and waits until it consumes.
    pub(crate) async fn start(&self, pid: &tokio::sync::watch::Sender<u32>) -> Result<RunningHost> {
        let child = Command::new(&self.program)
            .arg("serve")
            .env("AGENT_HOST_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("AGENT_HOST_AGENTS_DIR", self.agents.path())
            .env("AGENT_HOST_DATA_DIR", self.data.path())
            .env("AMQP_URL", &self.amqp_url)
            .env("DATABASE_URL", &self.database_url)
            .env("REDIS_URL", "embedded")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        pid.send_replace(child.id().unwrap_or_default());
        let mut running = RunningHost { child };
        let ready = async {
            while !self.is_ready().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(START_MAX, ready) => ready.context("the host did not become ready")?,
            status = running.child.wait() => bail!("the host ended at its start: {}", status?),
        }
        Ok(running)
    }

    async fn is_ready(&self) -> bool {
        let probe = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
        };
        probe.await.unwrap_or(false)
    }
}

/// A host that is running.
pub(crate) struct RunningHost {
    child: Child,
}

impl RunningHost {
    /// Stops it the way an operator does.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).context("the host is gone")?;
        // SAFETY: kill() takes two integers; the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the host ended with {status}");
        }
        Ok(())
    }
}
