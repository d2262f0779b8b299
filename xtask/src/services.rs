//! The real RabbitMQ, PostgreSQL and Redis that tests and benchmarks run against.
//!
//! Where they come from, in this order: the addresses in `AMQP_URL`, `DATABASE_URL` and `REDIS_URL`; private servers on
//! free ports in a temporary folder, from installed programs (installed by apt-get where that is ours to do); docker
//! compose, where an engine runs ([`Plan`]). Contract: [`Services::start`] returns when each answers in its own protocol, or fails
//! with what to install; dropping it stops what it started and removes the folder.

mod compose;
mod external;
mod plan;
mod postgres;
mod rabbitmq;
mod redis;
mod server;
mod supervised;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::workspace::Workspace;
use crate::{process, ui};

use compose::Compose;
use external::PrivateDatabase;
use server::Server;

pub(crate) use plan::{Plan, programs_to_install, require_for_tests, require_postgres};
pub(crate) use supervised::Supervised;

/// The three services, with what starts each.
const KINDS: [Kind; 3] = [
    Kind {
        name: "RabbitMQ",
        variable: "AMQP_URL",
        package: "rabbitmq-server",
        program: rabbitmq::program,
        start: rabbitmq::start,
    },
    Kind {
        name: "PostgreSQL",
        variable: "DATABASE_URL",
        package: "postgresql",
        program: postgres::program,
        start: postgres::start,
    },
    Kind {
        name: "Redis",
        variable: "REDIS_URL",
        package: "redis-server",
        program: redis::program,
        start: redis::start,
    },
];

/// How often a server whose port was taken before it could listen is started again.
const PORT_RETRIES_MAX: usize = 3;

/// One kind of service.
struct Kind {
    name: &'static str,
    /// The environment variable that holds its address.
    variable: &'static str,
    /// The Debian package with its server.
    package: &'static str,
    /// Finds the installed program.
    program: fn() -> Option<PathBuf>,
    /// Starts a private server in an empty folder.
    start: fn(&Path) -> Result<Server>,
}

/// Running services and their addresses.
pub(crate) struct Services {
    urls: Vec<(&'static str, String)>,
    // Declared in the order in which they must go: the database before its server, the servers before their folder.
    database: Option<PrivateDatabase>,
    servers: Vec<Server>,
    compose: Option<Compose>,
    folder: Option<TempDir>,
}

impl Services {
    /// Starts or finds all three, and waits until each answers.
    pub(crate) fn start(workspace: &Workspace) -> Result<Self> {
        Plan::make()?.start(workspace)
    }

    fn none() -> Self {
        Self { urls: Vec::new(), database: None, servers: Vec::new(), compose: None, folder: None }
    }

    /// Gives a command the addresses.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.envs(self.urls.iter().map(|(name, url)| (*name, url)));
    }

    /// The private servers' processes: what each is, and its process id. Servers that were named, or run in docker, have
    /// none here.
    pub(crate) fn processes(&self) -> Vec<(&'static str, u32)> {
        self.servers.iter().map(|server| (server.name(), server.pid())).collect()
    }

    /// Uses a server that the user named.
    fn adopt(&mut self, kind: &Kind, url: &str) -> Result<()> {
        external::probe(kind.name, kind.variable, url)?;
        let mut url = url.to_owned();
        if kind.variable == "DATABASE_URL" {
            self.database = PrivateDatabase::create(&url)?;
            url = self.database.as_ref().map_or(url, |database| database.url().to_owned());
        }
        ui::say(&format!("{}: using {}", kind.name, kind.variable));
        self.urls.push((kind.variable, url));
        Ok(())
    }

    fn start_private(&mut self, wanted: &[&Kind]) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("agent-host-services-").tempdir();
        let folder = self.folder.insert(folder.context("could not make a temporary folder")?);
        server::make_passable(folder.path())?;
        let begun = std::time::Instant::now();
        // All are started before the first is waited for: they get ready side by side.
        for kind in wanted {
            self.servers.push(start_one(kind, folder.path())?);
        }
        for (server, kind) in self.servers.iter_mut().zip(wanted) {
            let mut result = server.await_ready();
            // Nothing holds a free port until the server does, and another process may be quicker.
            for _ in 0..PORT_RETRIES_MAX {
                if result.is_ok() || !server.lost_its_port() {
                    break;
                }
                *server = start_one(kind, folder.path())?;
                result = server.await_ready();
            }
            result.with_context(|| format!("the private {} did not get ready", kind.name))?;
            self.urls.push((kind.variable, server.url().to_owned()));
        }
        let names: Vec<_> = wanted.iter().map(|kind| kind.name).collect();
        ui::say(&format!("private {} ready after {:.1} s", names.join(", "), begun.elapsed().as_secs_f64()));
        Ok(())
    }

    fn start_compose(&mut self, workspace: &Workspace, wanted: &[&Kind]) -> Result<()> {
        let compose = self.compose.insert(Compose::up(workspace)?);
        for kind in wanted {
            let url = compose.url(kind.variable).with_context(|| format!("compose has no {}", kind.name))?;
            self.urls.push((kind.variable, url));
        }
        Ok(())
    }

    /// Keeps the folder after the servers have stopped; gives its path.
    fn keep_folder(&mut self) -> Option<PathBuf> {
        self.folder.take().map(TempDir::keep)
    }

    /// Fails when a private server has ended by itself.
    fn check_alive(&mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(Server::check_alive)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        // All are asked before the first is waited for: they stop side by side.
        self.servers.iter().for_each(Server::ask_to_stop);
    }
}

/// Starts a private server in a folder of its own below `folder`.
fn start_one(kind: &Kind, folder: &Path) -> Result<Server> {
    let own = tempfile::Builder::new().prefix(&kind.name.to_lowercase()).tempdir_in(folder);
    // The folder above it is the one that is removed.
    let own = own.context("could not make a folder for a server")?.keep();
    (kind.start)(&own).with_context(|| format!("could not start a private {}", kind.name))
}

/// `cargo xtask services`: starts them, prints their addresses, and waits for Ctrl-C.
pub(crate) fn run(workspace: &Workspace, keep: bool) -> Result<()> {
    ui::step("starting RabbitMQ, PostgreSQL and Redis");
    let mut services = Services::start(workspace)?;
    for (name, url) in &services.urls {
        println!("export {name}='{url}'");
    }
    ui::say("running; Ctrl-C stops them");
    let end = loop {
        let turn = services.check_alive().and_then(|()| process::pause(Duration::from_millis(200)));
        if let Err(error) = turn {
            break error;
        }
    };
    let kept = if keep { services.keep_folder() } else { None };
    drop(services);
    if let Some(folder) = kept {
        ui::say(&format!("data and logs are kept in {}", folder.display()));
    }
    // Ctrl-C is how this command is meant to end.
    if end.is::<process::Interrupted>() {
        ui::say("stopped");
        return Ok(());
    }
    Err(end)
}
