//! The folder of agents that a host deploys from: all of them at the start, and then each whose files change.
//!
//! A folder is looked at when the system tells of a change, and every few seconds all the same: network file systems and
//! some volumes tell of nothing. Its files are read once they have stayed the same for a while, and deployed where they hold
//! something else than what was deployed from them last. What cannot be deployed is reported, and the running revision stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::RecursiveMode;
use tokio_util::sync::CancellationToken;

use super::backends::chain;
use super::changes::Changes;
use crate::agents::{Activation, Agents, DeployError, Upload};
use crate::catalog::Actor;
use crate::package::{self, Package, PackageError};
use crate::signature::digest;

/// How long files must have stayed as they are: what copies a module writes it in many steps.
const QUIET: Duration = Duration::from_millis(500);
/// How often they are looked at where nobody tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The folder, and what of it is deployed.
pub(super) struct AgentsFolder {
    dir: PathBuf,
    seen: BTreeMap<PathBuf, Seen>,
}

/// An agent's folder as it was looked at last.
#[derive(Default)]
struct Seen {
    /// Its files as they were when they were read; nothing where it has to be read again.
    read: Option<Stamps>,
    /// What of it was deployed last.
    deployed: Option<String>,
    /// Whether it was there when the host started.
    is_from_start: bool,
}

/// Files with what tells that one was changed: length and time.
type Stamps = Vec<(PathBuf, Option<(u64, SystemTime)>)>;

fn stamps(folder: &Path) -> Stamps {
    let stamp = |path: PathBuf| {
        let about = std::fs::metadata(&path).ok();
        let stamp = about.and_then(|about| Some((about.len(), about.modified().ok()?)));
        (path, stamp)
    };
    package::files(folder).into_iter().map(stamp).collect()
}

/// What tells one upload from another.
fn fingerprint(upload: &Upload) -> String {
    let mut all = format!("{}\n{:?}\n{:?}\n", digest(&upload.module), upload.manifest, upload.signatures);
    all.extend(upload.migrations.iter().map(|migration| format!("{:?} {:?}\n", migration.name, migration.sql)));
    digest(all.as_bytes())
}

/// What came of a look at one folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// It is as it was, or dealt with.
    Settled,
    /// Its files are being written.
    Busy,
}

impl AgentsFolder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, seen: BTreeMap::new() }
    }

    /// Deploys what is in it.
    pub(super) async fn deploy_all(&mut self, agents: &dyn Agents) {
        for folder in package::find(&self.dir).unwrap_or_default() {
            self.seen.insert(folder, Seen { is_from_start: true, ..Seen::default() });
        }
        self.look(agents, Duration::ZERO).await;
    }

    /// Deploys what changes in it, until it is told to end.
    pub(super) async fn follow(mut self, agents: Arc<dyn Agents>, stop: CancellationToken) {
        let mut changes = Changes::new().map_err(|error| self.not_watched(&error)).ok();
        let mut watched = BTreeSet::new();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_busy = false;
        loop {
            if let Some(changes) = &mut changes {
                self.watch(changes, &mut watched);
            }
            let told = async {
                match &changes {
                    Some(changes) => drop(changes.next(QUIET).await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = told => {}
                () = tokio::time::sleep(QUIET), if is_busy => {}
                _ = ticks.tick() => {}
            }
            is_busy = self.look(agents.as_ref(), QUIET).await == Looked::Busy;
        }
    }

    fn not_watched(&self, error: &notify::Error) {
        let (dir, seconds) = (self.dir.display(), LOOK_EVERY.as_secs());
        tracing::warn!("{dir}: the system does not tell of changes ({error}); it is looked at every {seconds} s");
    }

    /// Has the system tell of changes in every folder that an agent's files lie in.
    fn watch(&self, changes: &mut Changes, watched: &mut BTreeSet<PathBuf>) {
        let of_agents = self.seen.values().filter_map(|seen| seen.read.as_ref()).flatten();
        let folders = of_agents.filter_map(|(path, _)| path.parent()).chain(self.seen.keys().map(PathBuf::as_path));
        let wanted: BTreeSet<PathBuf> = folders.chain([self.dir.as_path()]).map(Path::to_path_buf).collect();
        // One that went, and comes again, is another.
        watched.retain(|folder| folder.is_dir());
        for folder in wanted {
            if folder.is_dir() && watched.insert(folder.clone()) {
                // Found out in a look all the same.
                let _ = changes.watch(&folder, RecursiveMode::NonRecursive).map_err(|error| self.not_watched(&error));
            }
        }
    }

    async fn look(&mut self, agents: &dyn Agents, quiet: Duration) -> Looked {
        let folders = match package::find(&self.dir) {
            Ok(folders) => folders,
            Err(error) => {
                tracing::warn!("the agents folder cannot be looked at: {}", chain(&error));
                return Looked::Settled;
            }
        };
        self.seen.retain(|folder, _| {
            let is_there = folders.contains(folder);
            if !is_there {
                tracing::info!("{} is gone; its agent stays as it is (agent-host agents remove)", folder.display());
            }
            is_there
        });
        let mut all = Looked::Settled;
        for folder in folders {
            let seen = self.seen.entry(folder.clone()).or_default();
            if look_at(&folder, seen, agents, quiet).await == Looked::Busy {
                all = Looked::Busy;
            }
        }
        all
    }
}

async fn look_at(folder: &Path, seen: &mut Seen, agents: &dyn Agents, quiet: Duration) -> Looked {
    let before = stamps(folder);
    if seen.read.as_ref() == Some(&before) {
        return Looked::Settled;
    }
    tokio::time::sleep(quiet).await;
    if stamps(folder) != before {
        return Looked::Busy;
    }
    let path = folder.to_path_buf();
    // Reading a large module takes a while.
    let Ok(package) = tokio::task::spawn_blocking(move || Package::read(&path)).await else { return Looked::Settled };
    if stamps(folder) != before {
        return Looked::Busy;
    }
    seen.read = Some(before);
    if let Err(problem) = deploy(package, seen, agents).await {
        tracing::error!("{} is not deployed: {problem:#}", folder.display());
        let is_passing = problem.downcast_ref::<DeployError>().is_some_and(is_passing);
        if is_passing {
            seen.read = None;
        }
    }
    Looked::Settled
}

async fn deploy(package: Result<Package, PackageError>, seen: &mut Seen, agents: &dyn Agents) -> anyhow::Result<()> {
    let Package { manifest, upload } = package?;
    let fingerprint = fingerprint(&upload);
    // Touched, or changed and changed back: whoever directed tasks elsewhere since is not overruled.
    if seen.deployed.as_ref() == Some(&fingerprint) {
        return Ok(());
    }
    // A restart undoes no deploy that came after the folder was made; what appears or changes later is meant.
    let is_first = seen.is_from_start && seen.deployed.is_none();
    let activation = if is_first { Activation::IfNew } else { Activation::Always };
    agents.deploy(&manifest.agent.name, upload, activation, Actor::new("agents folder")).await?;
    seen.deployed = Some(fingerprint);
    Ok(())
}

/// Whether the same files may be deployed later.
fn is_passing(error: &DeployError) -> bool {
    match error {
        DeployError::Host(_) | DeployError::Broker(_) | DeployError::Catalog(_) | DeployError::Secrets(_) => true,
        DeployError::Manifest(_)
        | DeployError::OtherAgent { .. }
        | DeployError::Unsigned(_)
        | DeployError::Module(_)
        | DeployError::Grant(_)
        | DeployError::Schema(_) => false,
    }
}
