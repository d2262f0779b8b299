//! Where the servers come from, settled before anything is built or started.
//!
//! Contract: what a [`Plan`] needs is there when it is made: named servers answer, programs are installed (by apt-get
//! where that is ours to do), or a docker engine runs. Otherwise the error names what to install.

use anyhow::{Result, bail};

use super::compose::Compose;
use super::{KINDS, Kind, Services, external};
use crate::apt::{self, Apt};
use crate::workspace::Workspace;

/// Where each of the three services will come from.
pub(crate) struct Plan {
    named: Vec<(&'static Kind, String)>,
    wanted: Vec<&'static Kind>,
    source: Source,
}

/// Where the services that were not named come from.
enum Source {
    Programs,
    Docker,
}

impl Plan {
    /// Settles it: probes the servers that are named, and makes sure of the means for the others.
    pub(crate) fn make() -> Result<Self> {
        let mut named = Vec::new();
        let mut wanted = Vec::new();
        for kind in &KINDS {
            match std::env::var(kind.variable) {
                Ok(url) if !url.is_empty() => {
                    external::probe(kind.name, kind.variable, &url)?;
                    named.push((kind, url));
                }
                _ => wanted.push(kind),
            }
        }
        let source = source_of(&wanted)?;
        Ok(Self { named, wanted, source })
    }

    /// Starts or takes in all three, and waits until each answers.
    pub(crate) fn start(&self, workspace: &Workspace) -> Result<Services> {
        let mut services = Services::none();
        for (kind, url) in &self.named {
            services.adopt(kind, url)?;
        }
        match (&self.source, self.wanted.as_slice()) {
            (_, []) => {}
            (Source::Programs, wanted) => services.start_private(wanted)?,
            (Source::Docker, wanted) => services.start_compose(workspace, wanted)?,
        }
        Ok(services)
    }
}

/// Makes sure that the programs are there, or that docker is.
fn source_of(wanted: &[&'static Kind]) -> Result<Source> {
    let lacking = install_missing(wanted)?;
    if lacking.is_empty() {
        return Ok(Source::Programs);
    }
    if Compose::available() {
        return Ok(Source::Docker);
    }
    let variables: Vec<_> = lacking.iter().map(|kind| kind.variable).collect();
    bail!(
        "{} not found, and no docker engine runs. One of these helps:\n  \
         install them:                {}\n  \
         name servers that run:       set {}\n  \
         start a docker engine:       `docker info` must succeed",
        names(&lacking),
        install_line(&lacking),
        variables.join(", "),
    )
}

/// Makes sure that PostgreSQL's own programs are installed, by apt-get where that is ours to do. A server elsewhere or in
/// a container does not help: a host makes its embedded database with these programs.
pub(crate) fn require_postgres() -> Result<()> {
    require(&["DATABASE_URL"], "an embedded database is made with PostgreSQL's own programs (`initdb`, `postgres`)")
}

/// The same for what tests start themselves, wherever the servers for all other tests come from.
pub(crate) fn require_for_tests() -> Result<()> {
    require(
        &["AMQP_URL", "DATABASE_URL"],
        "some tests start a RabbitMQ or an embedded PostgreSQL of their own, which neither a URL nor docker can stand in for",
    )
}

/// What a person types to have the programs of all three that are not installed; `None` where all are.
pub(crate) fn programs_to_install() -> Option<String> {
    let lacking = missing(&KINDS.iter().collect::<Vec<_>>());
    (!lacking.is_empty()).then(|| install_line(&lacking))
}

/// Makes sure that the programs of all three are installed, by apt-get where that is ours to do.
pub(super) fn require_all() -> Result<()> {
    require(
        &["AMQP_URL", "DATABASE_URL", "REDIS_URL"],
        "servers that are to be killed run as programs on this machine, which neither a URL nor docker can stand in for",
    )
}

/// Makes sure that the programs of these kinds are installed, by apt-get where that is ours to do.
fn require(variables: &[&str], why: &str) -> Result<()> {
    let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| variables.contains(&kind.variable)).collect();
    let lacking = install_missing(&kinds)?;
    if lacking.is_empty() {
        return Ok(());
    }
    bail!("{} not found on this machine: {why}. Install: {}", names(&lacking), install_line(&lacking))
}

/// Those that are still not installed after apt-get, where it is ours to use, has installed what was missing.
fn install_missing(kinds: &[&'static Kind]) -> Result<Vec<&'static Kind>> {
    let lacking = missing(kinds);
    let Some(apt) = (if lacking.is_empty() { None } else { Apt::find_for_servers() }) else {
        return Ok(lacking);
    };
    apt.install(&lacking.iter().map(|kind| kind.package).collect::<Vec<_>>())?;
    match missing(&lacking).first() {
        Some(kind) => bail!("package {} is installed, but its server was not found", kind.package),
        None => Ok(Vec::new()),
    }
}

fn missing(kinds: &[&'static Kind]) -> Vec<&'static Kind> {
    kinds.iter().copied().filter(|kind| (kind.program)().is_none()).collect()
}

fn names(kinds: &[&Kind]) -> String {
    kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

fn install_line(kinds: &[&Kind]) -> String {
    apt::install_line(&kinds.iter().map(|kind| kind.package).collect::<Vec<_>>())
}
