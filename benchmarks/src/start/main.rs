//! How long a host takes from its start until it consumes every agent's queue, on real services: the first time, when it
//! compiles the modules, and again, when their code is known.
//!
//! Each agent is `echo` with a few bytes of its own, so that each has a digest and code of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Measures the start of a host with many agents.
#[derive(Parser)]
struct Options {
    /// Agents.
    #[arg(long, default_value_t = 100)]
    agents: u32,
    /// Restarts.
    #[arg(long, default_value_t = 5)]
    restarts: u32,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// Folder of the built echo agent.
    #[arg(long, default_value = "agents/echo")]
    agent: PathBuf,
}

/// How long a start may take before it counts as hung.
const START_MAX: Duration = Duration::from_secs(600);
/// How often the host is asked whether it consumes: what the figures are exact to.
const ASK_EVERY: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let program = match options.agent_host.clone() {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("agent-host"),
    };
    let (agents, data) = (TempDir::new()?, TempDir::new()?);
    copies(&options.agent, agents.path(), options.agents)?;
    let host = Host { program, data: data.path(), services: [service("AMQP_URL")?, service("DATABASE_URL")?] };
    let first = host.start(Some(agents.path())).await?;
    println!("first start, {} modules compiled: {:.2} s", options.agents, first.as_secs_f64());
    for restart in 1..=options.restarts {
        // The agents come from the catalog, their code from the data folder.
        let took = host.start(None).await?;
        println!("restart {restart}: {:.2} s", took.as_secs_f64());
    }
    Ok(())
}

fn service(variable: &str) -> Result<String> {
    std::env::var(variable).with_context(|| format!("{variable} is not set: run cargo xtask bench, or set it"))
}

/// Makes agents `start-1` and so on of one.
fn copies(agent: &Path, agents: &Path, count: u32) -> Result<()> {
    let read = |file: &str| {
        std::fs::read(agent.join(file)).with_context(|| format!("{file} of the echo agent (run cargo xtask agents)"))
    };
    let (manifest, module) = (String::from_utf8(read("agent.toml")?)?, read("echo.wasm")?);
    for number in 1..=count {
        let folder = agents.join(format!("start-{number}"));
        std::fs::create_dir(&folder)?;
        let named = manifest.replace("name = \"echo\"", &format!("name = \"start-{number}\""));
        std::fs::write(folder.join("agent.toml"), named)?;
        // A custom section at the end: its id, its size, the size of its name, its name, four bytes.
        let own = [&[0, 6, 1, b'n'], number.to_le_bytes().as_slice()].concat();
        std::fs::write(folder.join("echo.wasm"), [module.as_slice(), &own].concat())?;
    }
    Ok(())
}

/// How to start the host.
struct Host<'a> {
    program: PathBuf,
    data: &'a Path,
    services: [String; 2],
}

impl Host<'_> {
    /// Starts it, waits until it consumes, and stops it as a crash would.
    async fn start(&self, agents: Option<&Path>) -> Result<Duration> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let [amqp_url, database_url] = &self.services;
        let mut command = Command::new(&self.program);
        command.arg("serve").env("AGENT_HOST_LISTEN", format!("127.0.0.1:{port}"));
        command.env("AGENT_HOST_DATA_DIR", self.data).env("AGENT_HOST_AGENTS_DIR", agents.unwrap_or(Path::new("")));
        command.env("AMQP_URL", amqp_url).env("DATABASE_URL", database_url).env("REDIS_URL", "embedded");
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).kill_on_drop(true);
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let ready = async {
            while !is_ready(port).await {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::select! {
            ready = tokio::time::timeout(START_MAX, ready) => ready.context("the host did not become ready")?,
            status = child.wait() => bail!("the host ended at its start: {}", status?),
        }
        let took = began.elapsed();
        child.kill().await?;
        Ok(took)
    }
}

async fn is_ready(port: u16) -> bool {
    let probe = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    probe.await.unwrap_or(false)
}
