//! The host under measurement: the released binary, as an operator starts it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::client::Client;

/// How long a start may take before it counts as hung: a hundred modules may have to be compiled.
const START_MAX: Duration = Duration::from_secs(600);
/// How often the host is asked whether it consumes: what the figures of a start are exact to.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// What an agent's module is called beside its manifest here.
pub const MODULE: &str = "module.wasm";

/// An agent to deploy.
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Its manifest, which calls its module [`MODULE`].
    pub manifest: String,
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
        let manifest = String::from_utf8(read(&folder.join("agent.toml"))?)?;
        Ok(Self { manifest: manifest.replace("echo.wasm", MODULE), module: read(&folder.join("echo.wasm"))? })
    }

    /// A copy with another name.
    #[must_use]
    pub fn named(&self, name: &str) -> Agent {
        let manifest = self.manifest.replace("\"echo\"", &format!("{name:?}"));
        Agent { name: name.to_owned(), manifest, module: self.module.clone() }
    }

    /// A copy with another name and a module of its own, which does the same and has to be compiled again.
    #[must_use]
    pub fn distinct(&self, name: &str, number: u32) -> Agent {
        let agent = self.named(name);
        Agent { module: distinct(&agent.module, number), ..agent }
    }
}

/// A module with a custom section of its own at its end: its id, its size, the size of its name, its name, four bytes.
#[must_use]
pub fn distinct(module: &[u8], number: u32) -> Vec<u8> {
    [module, &[0, 6, 1, b'n'], &number.to_le_bytes()].concat()
}

/// A file that `cargo xtask agents` makes.
///
/// # Errors
/// It is not there.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} (run cargo xtask agents)", path.display()))
}

/// The addresses of what a host needs; each may be `embedded`.
pub struct Services {
    /// The broker.
    pub amqp: String,
    /// The database.
    pub database: String,
    /// Cache and key-value.
    pub redis: String,
}

impl Services {
    /// The broker and the database that `AMQP_URL` and `DATABASE_URL` name.
    ///
    /// # Errors
    /// One is not named.
    pub fn named() -> Result<Self> {
        Ok(Self {
            amqp: super::service("AMQP_URL")?,
            database: super::service("DATABASE_URL")?,
            redis: "embedded".to_owned(),
        })
    }

    /// Everything in the process.
    #[must_use]
    pub fn embedded() -> Self {
        let [amqp, database, redis] = ["embedded"; 3].map(str::to_owned);
        Self { amqp, database, redis }
    }
}

/// How to start the host.
pub struct Host {
    program: PathBuf,
    agents: Option<TempDir>,
    data: TempDir,
    services: Services,
    address: SocketAddr,
}

impl Host {
    /// A host with these agents.
    ///
    /// # Errors
    /// A file cannot be written, or there is no free port.
    pub fn new(program: PathBuf, agents: &[Agent], services: Services) -> Result<Self> {
        let folder = TempDir::new()?;
        for Agent { name, manifest, module } in agents {
            let own = folder.path().join(name);
            std::fs::create_dir(&own)?;
            std::fs::write(own.join("agent.toml"), manifest)?;
            std::fs::write(own.join(MODULE), module)?;
        }
        Ok(Self { program, agents: Some(folder), data: TempDir::new()?, services, address: free_address()? })
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
            .env("AGENT_HOST_LISTEN", self.address.to_string())
            .env("AGENT_HOST_DATA_DIR", self.data.path())
            .env("AMQP_URL", &self.services.amqp)
            .env("DATABASE_URL", &self.services.database)
            .env("REDIS_URL", &self.services.redis)
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
        match self.client().await {
            Ok(mut client) => client.get("/readyz").await.is_ok(),
            Err(_) => false,
        }
    }

    /// A connection to its HTTP API.
    ///
    /// # Errors
    /// It does not listen.
    pub async fn client(&self) -> Result<Client> {
        Client::connect(self.address).await
    }
}

/// An address of this machine that nobody listens on.
///
/// # Errors
/// There is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
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

    /// Its process id.
    ///
    /// # Errors
    /// It is gone.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the host is gone")
    }

    /// How much memory it has in RAM, in bytes.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory_bytes("VmRSS:")
    }

    /// The most memory that it had in RAM so far, in bytes.
    ///
    /// # Errors
    /// It is gone.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        self.memory_bytes("VmHWM:")
    }

    fn memory_bytes(&self, what: &str) -> Result<u64> {
        let pid = self.pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("there is no /proc to read")?;
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kilobytes.with_context(|| format!("no {what}"))? * 1024)
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
