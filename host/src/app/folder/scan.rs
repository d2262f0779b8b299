//! What lies in the agents folder. All of it blocks: file systems may be slow, or away.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::agents::Upload;
use crate::package::{self, Package, PackageError};
use crate::signature::digest;
use crate::task::AgentName;

/// Files with what tells that one was changed.
pub(super) type Stamps = Vec<(PathBuf, Option<Stamp>)>;

/// Of one file. Its time alone can be set back, as `cp -p`, `rsync` and `tar` do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
    /// When anything of it changed, in seconds and nanoseconds.
    changed: (i64, i64),
}

/// An agent's folder.
pub(super) struct Found {
    pub(super) folder: PathBuf,
    /// Nothing where its manifest cannot be read.
    pub(super) agent: Option<AgentName>,
    pub(super) stamps: Stamps,
}

/// All of them.
pub(super) struct Scan {
    pub(super) found: Vec<Found>,
    /// Agents that several of them name.
    pub(super) clashes: BTreeMap<AgentName, Vec<PathBuf>>,
}

impl Scan {
    pub(super) fn of(dir: &Path) -> Result<Self, PackageError> {
        let found = package::find(dir)?.into_iter().map(|folder| {
            let (agent, stamps) = look(&folder);
            Found { folder, agent, stamps }
        });
        let found: Vec<_> = found.collect();
        let mut clashes = BTreeMap::<AgentName, Vec<PathBuf>>::new();
        for (agent, folder) in found.iter().filter_map(|found| Some((found.agent.as_ref()?, &found.folder))) {
            clashes.entry(agent.clone()).or_default().push(folder.clone());
        }
        clashes.retain(|_, folders| folders.len() > 1);
        Ok(Self { found, clashes })
    }
}

fn look(folder: &Path) -> (Option<AgentName>, Stamps) {
    let stamp = |path: PathBuf| {
        let stamp = std::fs::metadata(&path).ok().map(|about| Stamp {
            bytes: about.len(),
            modified: about.modified().ok(),
            inode: about.ino(),
            changed: (about.ctime(), about.ctime_nsec()),
        });
        (path, stamp)
    };
    let (agent, files) = package::files(folder);
    (agent, files.into_iter().map(stamp).collect())
}

pub(super) fn stamps(folder: &Path) -> Stamps {
    look(folder).1
}

/// Reads a folder whose files are as they were; nothing where they are not, or change meanwhile.
pub(super) fn read_whole(folder: &Path, expected: &Stamps) -> Option<Result<Package, PackageError>> {
    if stamps(folder) != *expected {
        return None;
    }
    let package = Package::read(folder);
    (stamps(folder) == *expected).then_some(package)
}

/// What tells the content of one upload from another's, whoever signed it.
pub(super) fn content_print(upload: &Upload) -> String {
    let mut all = format!("{}\n{:?}\n", digest(&upload.module), upload.manifest);
    all.extend(upload.migrations.iter().map(|migration| format!("{:?} {:?}\n", migration.name, migration.sql)));
    digest(all.as_bytes())
}
