//! The folder of agents that a host deploys from: all of them at the start, and then each whose files change.
//!
//! A folder is looked at when the system tells of a change, and every few seconds all the same: network file systems and
//! some volumes tell of nothing. Its files are read once they have stayed the same for a while, and deployed where they hold
//! something else than what was deployed of their agent last. What cannot be deployed is reported, and the running revision
//! stays.

mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::RecursiveMode;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::scan::{Found, Scan, Stamps, content_print, read_whole};
use super::backends::chain;
use super::changes::Changes;
use crate::agents::{Activation, Agents, DeployError};
use crate::catalog::Actor;
use crate::package::{Package, PackageError};
use crate::signature::Signature;
use crate::task::AgentName;

/// How long files must have stayed as they are: what copies a module writes it in many steps.
const QUIET: Duration = Duration::from_millis(500);
/// How often they are looked at where nobody tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After how long a deploy that failed for a passing reason is tried again; twice as long after each more, up to the longest.
const RETRY_AFTER: Duration = Duration::from_secs(10);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The folder, and what of it is deployed.
pub(super) struct AgentsFolder {
    dir: PathBuf,
    /// Whether it could be listed since the host started.
    is_listed: bool,
    seen: BTreeMap<PathBuf, Seen>,
    /// What was deployed last. It stays where a folder goes: one that comes back (a disk is mounted anew) is nothing new.
    deployed: BTreeMap<AgentName, Uploaded>,
    /// Folders that name the same agent, as they were told of.
    clashes: BTreeMap<AgentName, Vec<PathBuf>>,
}

/// An agent's folder as it was looked at last.
#[derive(Default)]
struct Seen {
    /// Its files as they were when they were read; nothing where it has to be read again.
    read: Option<Stamps>,
    /// What could not be deployed then, and may be later.
    retry: Option<Retry>,
    /// Whether it was there when the host started, and nothing of it was deployed so far.
    is_from_start: bool,
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    after: Duration,
}

impl Retry {
    /// The next one after this.
    fn next(last: Option<Self>) -> Self {
        let after = last.map_or(RETRY_AFTER, |last| (last.after * 2).min(RETRY_AFTER_MAX));
        Self { at: Instant::now() + after, after }
    }
}

impl Seen {
    fn is_to_be_read(&self, stamps: &Stamps) -> bool {
        self.read.as_ref() != Some(stamps) || self.retry.is_some_and(|retry| retry.at <= Instant::now())
    }
}

/// What tells one upload from another.
struct Uploaded {
    content: String,
    signatures: Vec<Signature>,
}

/// What came of a look at folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// They are as they were, or dealt with.
    Settled,
    /// Files are being written.
    Busy,
}

impl AgentsFolder {
    pub(super) fn new(dir: PathBuf) -> Self {
        let (seen, deployed, clashes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { dir, is_listed: false, seen, deployed, clashes }
    }

    /// Deploys what is in it.
    pub(super) async fn deploy_all(&mut self, agents: &dyn Agents) {
        self.look(agents, Duration::ZERO, &CancellationToken::new()).await;
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
                self.watch(changes, &mut watched).await;
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
            is_busy = self.look(agents.as_ref(), QUIET, &stop).await == Looked::Busy;
        }
    }

    fn not_watched(&self, error: &notify::Error) {
        let (dir, seconds) = (self.dir.display(), LOOK_EVERY.as_secs());
        tracing::warn!("{dir}: the system does not tell of changes ({error}); it is looked at every {seconds} s");
    }

    /// Has the system tell of changes in every folder that an agent's files lie in.
    async fn watch(&self, changes: &mut Changes, watched: &mut BTreeSet<PathBuf>) {
        let of_agents = self.seen.values().filter_map(|seen| seen.read.as_ref()).flatten();
        let folders = of_agents.filter_map(|(path, _)| path.parent()).chain(self.seen.keys().map(PathBuf::as_path));
        let wanted: BTreeSet<PathBuf> = folders.chain([self.dir.as_path()]).map(Path::to_path_buf).collect();
        // File systems may be away.
        let there = tokio::task::spawn_blocking(move || wanted.into_iter().filter(|folder| folder.is_dir()).collect());
        let there: BTreeSet<PathBuf> = there.await.unwrap_or_default();
        // One that went, and comes again, is another.
        watched.retain(|folder| there.contains(folder));
        for folder in there {
            if watched.insert(folder.clone()) {
                // Found out in a look all the same.
                let _ = changes.watch(&folder, RecursiveMode::NonRecursive).map_err(|error| self.not_watched(&error));
            }
        }
    }

    async fn look(&mut self, agents: &dyn Agents, quiet: Duration, stop: &CancellationToken) -> Looked {
        let dir = self.dir.clone();
        let Ok(scanned) = tokio::task::spawn_blocking(move || Scan::of(&dir)).await else { return Looked::Settled };
        let Scan { found, clashes } = match scanned {
            Ok(scan) => scan,
            Err(error) => {
                tracing::warn!("the agents folder cannot be looked at: {}", chain(&error));
                return Looked::Settled;
            }
        };
        self.forget_gone(&found);
        self.tell_clashes(clashes);
        let is_first = !std::mem::replace(&mut self.is_listed, true);
        let mut all = Looked::Settled;
        for Found { folder, agent, stamps } in found {
            if stop.is_cancelled() {
                return Looked::Settled;
            }
            let new = || Seen { is_from_start: is_first, ..Seen::default() };
            let seen = self.seen.entry(folder.clone()).or_insert_with(new);
            if agent.is_some_and(|agent| self.clashes.contains_key(&agent)) {
                // It is read where the other one goes.
                seen.read = None;
            } else if seen.is_to_be_read(&stamps) && self.look_at(&folder, stamps, agents, quiet).await == Looked::Busy
            {
                all = Looked::Busy;
            }
        }
        all
    }

    fn forget_gone(&mut self, found: &[Found]) {
        self.seen.retain(|folder, seen| {
            if found.iter().any(|found| found.folder == *folder) {
                return true;
            }
            if seen.read.take().is_some() {
                tracing::info!("{} is gone; its agent stays as it is (agent-host agents remove)", folder.display());
            }
            seen.is_from_start
        });
    }

    /// Of two folders with one agent neither is deployed: which one is meant, nobody can tell.
    fn tell_clashes(&mut self, clashes: BTreeMap<AgentName, Vec<PathBuf>>) {
        for (agent, folders) in &clashes {
            if self.clashes.get(agent) != Some(folders) {
                let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
                tracing::error!(
                    %agent,
                    "{} name the same agent, {agent}: none of them is deployed; remove all but one, or begin their names \
                     with a dot",
                    folders.join(" and ")
                );
            }
        }
        self.clashes = clashes;
    }

    async fn look_at(&mut self, folder: &Path, before: Stamps, agents: &dyn Agents, quiet: Duration) -> Looked {
        tokio::time::sleep(quiet).await;
        let (path, expected) = (folder.to_path_buf(), before.clone());
        // Reading a large module takes a while.
        let read = tokio::task::spawn_blocking(move || read_whole(&path, &expected)).await;
        let package = match read {
            Ok(Some(package)) => package,
            Ok(None) => return Looked::Busy,
            Err(_) => return Looked::Settled,
        };
        let is_from_start = self.seen.get(folder).is_some_and(|seen| seen.is_from_start);
        let done = self.deploy(package, is_from_start, agents).await;
        let Some(seen) = self.seen.get_mut(folder) else { return Looked::Settled };
        let is_another = seen.read.as_ref() != Some(&before);
        let last = seen.retry.take().filter(|_| !is_another);
        seen.read = Some(before);
        match done {
            Ok(()) => seen.is_from_start = false,
            Err(problem) => {
                tracing::error!("{} is not deployed: {problem:#}", folder.display());
                if problem.downcast_ref::<DeployError>().is_some_and(is_passing) {
                    seen.retry = Some(Retry::next(last));
                }
            }
        }
        Looked::Settled
    }

    async fn deploy(
        &mut self,
        package: Result<Package, PackageError>,
        is_from_start: bool,
        agents: &dyn Agents,
    ) -> anyhow::Result<()> {
        let Package { manifest, upload } = package?;
        let now = Uploaded { content: content_print(&upload), signatures: upload.signatures.clone() };
        let last = self.deployed.get(&manifest.agent.name);
        let activation = match last {
            // Touched, or changed and changed back: whoever directed tasks elsewhere since is not overruled.
            Some(last) if last.content == now.content && last.signatures == now.signatures => return Ok(()),
            // Nor by a signature alone, which its revision gets.
            Some(last) if last.content == now.content => Activation::Never,
            // A restart undoes no deploy that came after the folder was made; what appears or changes later is meant.
            None if is_from_start => Activation::IfNew,
            _ => Activation::Always,
        };
        agents.deploy(&manifest.agent.name, upload, activation, Actor::new("agents folder")).await?;
        self.deployed.insert(manifest.agent.name, now);
        Ok(())
    }
}

/// Whether the same files may be deployed later.
fn is_passing(error: &DeployError) -> bool {
    match error {
        DeployError::Host(_)
        | DeployError::Broker(_)
        | DeployError::Catalog(_)
        | DeployError::Database(_)
        | DeployError::Secrets(_) => true,
        DeployError::Manifest(_)
        | DeployError::OtherAgent { .. }
        | DeployError::Unsigned(_)
        | DeployError::Module(_)
        | DeployError::Grant(_)
        | DeployError::Schema(_) => false,
    }
}

#[cfg(test)]
mod tests;
