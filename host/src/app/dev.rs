//! `agent-host dev`: builds, deploys and redeploys the agents of a folder as their files change, and runs the last task again.

mod again;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use globset::{Glob, GlobSet, GlobSetBuilder};
use notify::RecursiveMode;

use self::again::Again;
pub(super) use self::again::{LastTasks, Remembering};
use super::changes::Changes;
use crate::agents::{Activation, Agents};
use crate::catalog::Actor;
use crate::delivery::Submitter;
use crate::manifest::Manifest;
use crate::package::{self, Package};
use crate::records::Records;

/// How long files must have been quiet before a build: an editor saves in several steps.
const QUIET: Duration = Duration::from_millis(150);

/// The host that `dev` works on.
pub(super) struct Host {
    pub(super) agents: Arc<dyn Agents>,
    pub(super) records: Arc<dyn Records>,
    /// Where tasks are handed in that nobody sent: they are not kept as anybody's last.
    pub(super) submit: Arc<dyn Submitter>,
    /// What was sent.
    pub(super) sent: Arc<LastTasks>,
    pub(super) address: SocketAddr,
}

/// An agent under development.
struct Watched {
    folder: PathBuf,
    /// What it is built from, relative to its folder.
    sources: GlobSet,
}

/// Watches until it is dropped.
pub(super) async fn watch(host: Host, dir: PathBuf) {
    let dir = dir.canonicalize().unwrap_or(dir);
    let folders = if dir.join(package::MANIFEST_NAME).is_file() { vec![dir.clone()] } else { listed(&dir) };
    if folders.is_empty() {
        tracing::error!(
            "{}: expected an agent's folder, or one with agents in it (a folder with agent.toml)",
            dir.display()
        );
    }
    let watching = Changes::new()
        .and_then(|mut changes| changes.watch(&dir, RecursiveMode::Recursive).map(|()| changes))
        .map_err(|error| tracing::error!("{} cannot be watched: {error}; agents are deployed once", dir.display()));
    let mut again = Again::default();
    for folder in &folders {
        refresh(&host, &mut again, folder).await;
    }
    let Ok(changes) = watching else { return };
    loop {
        let paths = changes.next(QUIET).await;
        for watched in folders.iter().map(|folder| Watched::new(folder)) {
            if paths.iter().any(|path| watched.is_made_from(path)) {
                refresh(&host, &mut again, &watched.folder).await;
            }
        }
    }
}

fn listed(dir: &Path) -> Vec<PathBuf> {
    package::find(dir).unwrap_or_else(|error| {
        tracing::error!("{error}");
        Vec::new()
    })
}

impl Watched {
    fn new(folder: &Path) -> Self {
        let mut sources = GlobSetBuilder::new();
        let mut add = |pattern: &str| match Glob::new(pattern) {
            Ok(glob) => {
                sources.add(glob);
            }
            Err(error) => tracing::error!("{}: build.watch: {error}", folder.display()),
        };
        add(package::MANIFEST_NAME);
        // Without a command the module is somebody else's to build: it is what changes.
        match manifest(folder) {
            Some(Manifest { build: Some(build), .. }) => build.watch.iter().for_each(|pattern| add(pattern)),
            Some(manifest) => add(&manifest.agent.module),
            None => {}
        }
        Self { folder: folder.to_owned(), sources: sources.build().unwrap_or_default() }
    }

    fn is_made_from(&self, path: &Path) -> bool {
        path.strip_prefix(&self.folder).is_ok_and(|relative| self.sources.is_match(relative))
    }
}

fn manifest(folder: &Path) -> Option<Manifest> {
    // A manifest that does not parse is reported by the deploy.
    std::fs::read_to_string(folder.join(package::MANIFEST_NAME)).ok().and_then(|text| Manifest::parse(&text).ok())
}

/// Builds and deploys an agent, and runs its last task again. Errors of the compiler and of the deploy are shown, and the
/// running revision stays.
async fn refresh(host: &Host, again: &mut Again, folder: &Path) {
    let began = Instant::now();
    let manifest = manifest(folder);
    if let Some(build) = manifest.as_ref().and_then(|manifest| manifest.build.as_ref()) {
        tracing::info!("{}: {}", folder.display(), build.command);
        let built = tokio::process::Command::new("sh")
            .args(["-c", &build.command])
            .current_dir(folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        match built {
            Ok(status) if status.success() => {}
            Ok(status) => return tracing::error!("{}: {} ({status})", folder.display(), build.command),
            Err(error) => return tracing::error!("{}: {}: {error}", folder.display(), build.command),
        }
    }
    if deploy(host.agents.as_ref(), folder).await
        && let Some(manifest) = manifest
    {
        let (name, address) = (&manifest.agent.name, host.address);
        let hint = if host.sent.of(name).is_none() {
            format!("; try: agent-host submit {name} --wait --url http://{address} BODY")
        } else {
            String::new()
        };
        tracing::info!("{name} is up to date after {:.1} s{hint}", began.elapsed().as_secs_f64());
        again.run(host, name, folder).await;
    }
}

/// Deploys an agent's folder, or says why not.
async fn deploy(agents: &dyn Agents, path: &Path) -> bool {
    let deployed = match Package::read(path) {
        Ok(Package { manifest, upload }) => agents
            .deploy(&manifest.agent.name, upload, Activation::Always, Actor::new("agents folder"))
            .await
            .map(drop)
            .map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = &deployed {
        tracing::error!("{} is not deployed: {error:#}", path.display());
    }
    deployed.is_ok()
}
