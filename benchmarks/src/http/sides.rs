//! The two servers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benchmarks::client::Client;
use benchmarks::host::{self, Agent, Host, RunningHost, Services};
use hyper::{Method, StatusCode};
use tokio::process::{Child, Command};

const AGENT: &str = "answerer";
const TASKS_PATH: &str = "/v1/agents/answerer/tasks";
/// How long it may take until the server listens: it compiles first.
const START_MAX: Duration = Duration::from_secs(120);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What serves the component without a host around it.
pub(super) enum Program {
    /// The one of these benchmarks.
    Serve(PathBuf),
    /// `wasmtime serve`.
    Wasmtime(PathBuf),
}

impl Program {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Serve(_) => "what wasmtime serve does",
            Self::Wasmtime(_) => "wasmtime serve",
        }
    }

    fn command(&self, listen: SocketAddr, component: &Path) -> Command {
        match self {
            Self::Serve(program) => {
                let mut command = Command::new(program);
                command.arg("--listen").arg(listen.to_string()).arg(component);
                command
            }
            Self::Wasmtime(program) => {
                let mut command = Command::new(program);
                command.args(["serve", "-Scli", "-Opooling-allocator", "--addr"]);
                command.arg(listen.to_string()).arg(component);
                command
            }
        }
    }
}

/// A server that runs, and where the component is behind it.
pub(super) struct Side {
    running: Running,
    pub(super) path: &'static str,
}

enum Running {
    Served(Child, SocketAddr),
    Hosted(Box<Host>, RunningHost),
}

impl Side {
    /// The component without a host.
    pub(super) async fn served(program: Program, component: &Path) -> Result<Self> {
        let address = host::free_address()?;
        let mut command = program.command(address, component);
        let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("starting the server")?;
        let side = Self { running: Running::Served(child, address), path: "/" };
        let listening = async {
            while side.client().await.is_err() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        tokio::time::timeout(START_MAX, listening).await.context("the server does not listen")?;
        Ok(side)
    }

    /// The component as an agent of a host with everything embedded.
    pub(super) async fn hosted(program: PathBuf, component: &Path) -> Result<Self> {
        let manifest = format!(
            "manifest_version = 1\n[agent]\nname = \"{AGENT}\"\ndescription = \"Answers\"\nmodule = \"{}\"\n",
            host::MODULE
        );
        let agent = Agent { name: AGENT.to_owned(), manifest, module: host::read(component)? };
        let host = Host::new(program, &[agent], Services::embedded())?;
        let running = host.start().await?;
        Ok(Self { running: Running::Hosted(Box::new(host), running), path: TASKS_PATH })
    }

    pub(super) async fn client(&self) -> Result<Client> {
        match &self.running {
            Running::Hosted(host, _) => host.client().await,
            Running::Served(_, address) => Client::connect(*address).await,
        }
    }

    pub(super) async fn stop(self) -> Result<()> {
        match self.running {
            Running::Hosted(_host, running) => running.stop().await,
            Running::Served(mut child, _) => Ok(child.kill().await?),
        }
    }
}

/// Has the component answer.
pub(super) async fn ask(client: &mut Client, path: &str, body: &'static [u8]) -> Result<()> {
    let headers = [("content-type", "application/octet-stream"), ("prefer", "wait=10")];
    let answer = client.ask(Method::POST, path, &headers, body).await?.expect(StatusCode::OK)?;
    ensure!(answer.body == body, "answered with something else: {:?}", answer.body);
    Ok(())
}
