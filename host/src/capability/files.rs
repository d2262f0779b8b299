//! Files: folders that the manifest grants under the host's `files_root`.
//!
//! A folder is opened once, when the agent is deployed, through a cap-std handle of the root: neither `..`, nor an absolute
//! path, nor a symbolic link leads out of it. The handle *is* the grant: instances get the folder by its handle, so that
//! nobody can swap another one in under its name later. Inside, WASI's own sandbox resolves the guest's paths.

use std::os::fd::AsRawFd;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::manifest::{FileAccess, FileGrant};

/// The folder under which agents may be granted folders; without one no folder is granted.
#[derive(Debug, Default)]
pub struct FilesRoot(Option<Dir>);

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
        source: std::io::Error,
    },
}

impl FilesRoot {
    /// Opens the root.
    ///
    /// # Errors
    /// It is not there, or no folder.
    pub fn open(path: Option<&Path>) -> std::io::Result<Self> {
        path.map(|path| Dir::open_ambient_dir(path, ambient_authority())).transpose().map(Self)
    }

    /// Opens what a manifest grants.
    ///
    /// # Errors
    /// The first folder that cannot be granted.
    pub fn grant(&self, grants: &[FileGrant]) -> Result<Folders, FilesError> {
        if grants.is_empty() {
            return Ok(Folders::default());
        }
        let root = self.0.as_ref().ok_or(FilesError::NoRoot)?;
        let open = |grant: &FileGrant| {
            let no_folder = |source| FilesError::NoFolder { folder: grant.host.clone(), source };
            let dir = root.open_dir(&grant.host).map_err(no_folder)?;
            Ok(Folder { dir, guest: grant.guest.clone(), access: grant.access })
        };
        grants.iter().map(open).collect::<Result<_, _>>().map(Folders)
    }
}

/// The folders of one revision.
#[derive(Debug, Default)]
pub struct Folders(Vec<Folder>);

#[derive(Debug)]
struct Folder {
    dir: Dir,
    guest: String,
    access: FileAccess,
}

impl Folders {
    /// Gives the folders to an instance.
    ///
    /// # Errors
    /// The process has too many files open.
    pub fn preopen(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for folder in &self.0 {
            let perms = match folder.access {
                FileAccess::Read => FsPerms::ReadOnly,
                FileAccess::ReadWrite => FsPerms::ReadWrite,
            };
            // WASI takes a path, not a handle; this path is the handle.
            wasi.preopened_dir(format!("/proc/self/fd/{}", folder.dir.as_raw_fd()), &folder.guest, perms)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(host: &str) -> [FileGrant; 1] {
        [FileGrant { host: host.to_owned(), guest: "/data".to_owned(), access: FileAccess::Read }]
    }

    #[test]
    fn only_folders_under_the_root_are_granted() {
        let outside = tempfile::TempDir::new().unwrap();
        let root = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(root.path().join("reports")).unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("escape")).unwrap();
        let files = FilesRoot::open(Some(root.path())).unwrap();
        assert!(files.grant(&grant("reports")).is_ok());
        for refused in ["nowhere", "file", "escape", "..", "reports/../..", "/etc", outside.path().to_str().unwrap()] {
            assert!(matches!(files.grant(&grant(refused)), Err(FilesError::NoFolder { .. })), "{refused}");
        }
    }

    #[test]
    fn without_a_root_nothing_is_granted() {
        let files = FilesRoot::open(None).unwrap();
        assert!(files.grant(&[]).is_ok());
        assert!(matches!(files.grant(&grant("reports")), Err(FilesError::NoRoot)));
    }
}
