//! Files: folders that the manifest grants under the host's `files_root`.
//!
//! A folder is opened once, when the agent is deployed, through a cap-std handle of the root: neither `..`, nor an absolute
//! path, nor a symbolic link leads out of it. The handle *is* the grant: instances get the folder by its handle, so that
//! nobody can swap another one in under its name later. Inside, WASI's own sandbox resolves the guest's paths.
//!
//! WASI knows no quota. `host` stands before wasmtime-wasi's `wasi:filesystem/types` and counts what grows a folder
//! (`usage`); everything else passes through.

mod host;
pub mod limits;
mod stream;
mod task;
#[cfg(test)]
mod tests;
mod usage;

pub use host::{FilesView, add_to_linker};
pub use task::TaskFiles;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt};
use tokio::sync::Semaphore;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use self::usage::{Locked, Place, Quota, Usage};
use crate::manifest::{FileAccess, FileGrant};

/// The folder under which agents may be granted folders; without one no folder is granted.
#[derive(Debug)]
pub struct FilesRoot {
    dir: Option<Dir>,
    /// Of each folder that agents may write, by device and inode: two grants of one folder share its count.
    usages: Mutex<HashMap<(u64, u64), Weak<Usage>>>,
    open_files: Arc<Semaphore>,
}

/// Why a folder cannot be granted.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The host has no root.
    #[error("grants.files: this host grants no folders; start it with AGENT_HOST_FILES_ROOT")]
    NoRoot,
    /// The folder is not there, or leads out of the root.
    #[error("grants.files: {folder:?} is no folder under AGENT_HOST_FILES_ROOT: {source}")]
    NoFolder {
        /// The manifest's name of it.
        folder: String,
        /// Why.
        source: io::Error,
    },
}

impl FilesRoot {
    /// Opens the root.
    ///
    /// # Errors
    /// It is not there, or no folder.
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        let dir = path.map(|path| Dir::open_ambient_dir(path, ambient_authority())).transpose()?;
        Ok(Self { dir, usages: Mutex::default(), open_files: Arc::new(Semaphore::new(limits::HOST_OPEN_FILES_MAX)) })
    }

    /// Opens what a manifest grants.
    ///
    /// # Errors
    /// The first folder that cannot be granted.
    pub fn grant(&self, grants: &[FileGrant]) -> Result<Folders, FilesError> {
        if grants.is_empty() {
            return Ok(Folders::default());
        }
        let root = self.dir.as_ref().ok_or(FilesError::NoRoot)?;
        let open = |grant: &FileGrant| {
            let no_folder = |source| FilesError::NoFolder { folder: grant.host.clone(), source };
            let dir = root.open_dir(&grant.host).map_err(no_folder)?;
            let writable = match grant.access {
                FileAccess::Read => None,
                FileAccess::ReadWrite => Some(self.writable(&dir, grant).map_err(no_folder)?),
            };
            Ok(Folder { dir, guest: grant.guest.clone(), writable })
        };
        let folders = grants.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Ok(Folders(Some(Arc::new(Granted { folders, open_files: Arc::clone(&self.open_files) }))))
    }

    fn writable(&self, dir: &Dir, grant: &FileGrant) -> io::Result<Writable> {
        let metadata = dir.dir_metadata()?;
        let mut usages = self.usages.lock().unwrap_or_else(PoisonError::into_inner);
        usages.retain(|_, usage| usage.strong_count() > 0);
        let key = (metadata.dev(), metadata.ino());
        let usage = match usages.get(&key).and_then(Weak::upgrade) {
            Some(usage) => usage,
            None => {
                let usage = Usage::new(dir.try_clone()?);
                usages.insert(key, Arc::downgrade(&usage));
                usage
            }
        };
        let quota = Quota { bytes_max: grant.quota.0, entries_max: u64::from(grant.max_files) };
        Ok(Writable { usage, quota })
    }
}

/// The folders of one revision. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Folders(Option<Arc<Granted>>);

#[derive(Debug)]
struct Granted {
    folders: Vec<Folder>,
    /// Places for open files, of the whole host.
    open_files: Arc<Semaphore>,
}

#[derive(Debug)]
struct Folder {
    dir: Dir,
    guest: String,
    /// Where it may be written.
    writable: Option<Writable>,
}

impl Folders {
    fn granted(&self) -> &[Folder] {
        self.0.as_ref().map_or(&[], |granted| &granted.folders)
    }

    /// Gives the folders to an instance.
    ///
    /// # Errors
    /// The process has too many files open.
    pub fn preopen(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for folder in self.granted() {
            let perms = if folder.writable.is_some() { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            // WASI takes a path, not a handle; this path is the handle.
            wasi.preopened_dir(format!("/proc/self/fd/{}", folder.dir.as_raw_fd()), &folder.guest, perms)?;
        }
        Ok(())
    }
}

/// A folder that may be written, as far as its quota goes.
#[derive(Clone, Debug)]
struct Writable {
    usage: Arc<Usage>,
    quota: Quota,
}

impl Writable {
    /// Changes the folder on a thread that may wait for a disk, to the end, also where nobody waits for it any more.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Locked, Quota) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (mut locked, quota) = (self.usage.lock().await, self.quota);
        let changed = tokio::task::spawn_blocking(move || change(&mut locked, quota)).await;
        changed.map_err(io::Error::other)?
    }

    /// Takes room for new entries, and keeps the folder locked until they are made.
    async fn with_entries(&self, bytes: u64, entries: u64) -> io::Result<Locked> {
        let (mut locked, quota) = (self.usage.lock().await, self.quota);
        let taken = tokio::task::spawn_blocking(move || locked.take(quota, bytes, entries).map(|()| locked)).await;
        taken.map_err(io::Error::other)?
    }

    /// Writes all of it; how much that was.
    async fn write(&self, file: Arc<File>, bytes: Bytes, place: Place) -> io::Result<u64> {
        let written = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.change(move |locked, quota| locked.write(quota, &file, &bytes, place)).await?;
        Ok(written)
    }
}
