//! The host under measurement: the released binary, as an operator starts it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long a start may take before it counts as hung: a hundred modules may have to be compiled.
const START_MAX: Duration = Duration::from_secs(600);
/// How often the host is asked whether it consumes: what the figures of a start are exact to.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// An agent to deploy: its name, and the bytes of its module.
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Its module.
    pub module: Vec<u8>,
}

/// The built echo agent: its manifest and its module.
pub struct Echo {
    manifest: String,
    /// Its module.
    pub module: Vec<u8>,
}

impl Echo {
    /// Reads it from its folder.
    ///
    /// # Errors
    /// It is not there, or not built.
    pub fn read(folder: &Path) -> Result<Self> {
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read(&path).with_context(|| format!("{} (run cargo xtask agents)", path.display()))
        };
        Ok(Self { manifest: String::from_utf8(read("agent.toml")?)?, module: read("echo.wasm")? })
    }

    /// A copy with another name.
    #[must_use]
    pub fn named(&self, name: &str) -> Agent {
        Agent { name: name.to_owned(), module: self.module.clone() }
    }
}

/// How to start the host.
pub struct Host {
    program: PathBuf,
    agents: Option<TempDir>,
    data: TempDir,
    amqp_url: String,
    database_url: String,
    port: u16,
}

impl Host {
    /// A host with these agents, which have the manifest of `echo` but for their names, on the services that `AMQP_URL` and
    /// `DATABASE_URL` name.
    ///
    /// # Errors
    /// A service is not named, or a file cannot be written.
    pub fn new(program: PathBuf, echo: &Echo, agents: &[Agent]) -> Result<Self> {
        let folder = TempDir::new()?;
        for Agent { name, module } in agents {
            let own = folder.path().join(name);
            std::fs::create_dir(&own)?;
            std::fs::write(own.join("agent.toml"), echo.manifest.replace("\"echo\"", &format!("{name:?}")))?;
            std::fs::write(own.join("echo.wasm"), module)?;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (amqp_url, database_url) = (super::service("AMQP_URL")?, super::service("DATABASE_URL")?);
        Ok(Self { program, agents: Some(folder), data: TempDir::new()?, amqp_url, database_url, port })
    }

    /// From now on its agents come from the catalog alone.
    pub fn forget_folder(&mut self) {
        self.agents = None;
    }

    /// Starts it, tells which process it is, and waits until it consumes.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn start_telling(&self, tell_pid: impl FnOnce(u32)) -> Result<RunningHost> {
        let mut command = Command::new(&self.program);
        command
            .arg("serve")
            .env("AGENT_HOST_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("AGENT_HOST_DATA_DIR", self.data.path())
            .env("AMQP_URL", &self.amqp_url)
            .env("DATABASE_URL", &self.database_url)
            .env("REDIS_URL", "embedded")
            .env("RUST_LOG", "warn,lapin=off")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(folder) = &self.agents {
            command.env("AGENT_HOST_AGENTS_DIR", folder.path());
        }
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        tell_pid(child.id().unwrap_or_default());
        let mut running = RunningHost { child, took: Duration::ZERO };
        let ready = async {
            while !self.is_ready().await {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(START_MAX, ready) => ready.context("the host did not become ready")?,
            status = running.child.wait() => bail!("the host ended at its start: {}", status?),
        }
        running.took = began.elapsed();
        Ok(running)
    }

    /// Starts it and waits until it consumes.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn start(&self) -> Result<RunningHost> {
        self.start_telling(|_pid| ()).await
    }

    async fn is_ready(&self) -> bool {
        self.ask("GET /readyz", "").await.is_ok_and(|status| status == 200)
    }

    /// Submits a batch, one body a line. Returns when the host has taken all of it.
    ///
    /// # Errors
    /// The host's refusal.
    pub async fn submit_batch(&self, agent: &str, query: &str, lines: &str) -> Result<()> {
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
pub struct RunningHost {
    child: Child,
    took: Duration,
}

impl RunningHost {
    /// How long it took from its start until it consumed.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.took
    }

    /// How much memory it has in RAM, in bytes.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let pid = self.child.id().context("the host is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("there is no /proc to read")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).context("no VmRSS")?;
        Ok(kilobytes * 1024)
    }

    /// Stops it the way an operator does.
    ///
    /// # Errors
    /// It ends otherwise than by draining.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).context("the host is gone")?;
        // SAFETY: kill() takes two integers; the child has not been waited for, so the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the host ended with {status}");
        }
        Ok(())
    }

    /// Stops it the way a crash does.
    ///
    /// # Errors
    /// It is gone already.
    pub async fn crash(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}
