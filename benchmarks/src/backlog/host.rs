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
pub(super) struct Host {
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
    /// A host with the echo agent from this folder, under each of these names.
    pub(super) fn new(
        program: PathBuf,
        agent: &Path,
        names: &[&str],
        amqp_url: &str,
        database_url: &str,
    ) -> Result<Self> {
        let agents = TempDir::new()?;
        let missing = |file: &str| format!("{file} of the echo agent (run cargo xtask agents)");
        let manifest = std::fs::read_to_string(agent.join("agent.toml")).with_context(|| missing("agent.toml"))?;
        for name in names {
            let folder = agents.path().join(name);
            std::fs::create_dir(&folder)?;
            let own = manifest.replace("name = \"echo\"", &format!("name = {name:?}"));
            std::fs::write(folder.join("agent.toml"), own)?;
            std::fs::copy(agent.join("echo.wasm"), folder.join("echo.wasm")).with_context(|| missing("echo.wasm"))?;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (amqp_url, database_url) = (amqp_url.to_owned(), database_url.to_owned());
        Ok(Self { program, agents, data: TempDir::new()?, amqp_url, database_url, port })
    }

    /// Starts it and waits until it consumes.
    pub(super) async fn start(&self) -> Result<RunningHost> {
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
        self.ask("GET /readyz", "").await.is_ok_and(|status| status == 200)
    }

    /// Submits a batch, one body a line. Returns when the host has taken all of it.
    pub(super) async fn submit_batch(&self, agent: &str, query: &str, lines: &str) -> Result<()> {
        match self.ask(&format!("POST /v1/agents/{agent}/tasks:batch{query}"), lines).await? {
            202 => Ok(()),
            status => bail!("the host answered a batch with {status}"),
        }
    }

    /// Makes one request; the status that it is answered with.
    async fn ask(&self, request: &str, body: &str) -> Result<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let length = body.len();
        let head =
            format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.context("the host answered something that is not HTTP")
    }
}

/// A host that is running.
pub(super) struct RunningHost {
    child: Child,
}

impl RunningHost {
    /// How much memory it has in RAM, in bytes.
    pub(super) fn resident_bytes(&self) -> Result<u64> {
        let pid = self.child.id().context("the host is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("there is no /proc to read")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).context("no VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// Stops it the way an operator does.
    pub(super) async fn stop(mut self) -> Result<()> {
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
