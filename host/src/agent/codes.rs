//! Compiled code on disk, so that a module is compiled once and a restarted host compiles nothing.
//!
//! Loading code means running it, so an entry is loaded only where this host, or another one of the same data folder, made
//! it: each carries a keyed hash (HMAC-SHA256) over the module that it was made of, the engine that it is for, and the code.
//! Whatever fails that test (damaged, cut off, from elsewhere) is compiled anew. The folder is closed to other users, and
//! entries are replaced and removed as a whole, so hosts may share it.
//!
//! Code is mapped from the file: what no guest runs takes no memory, and what is mapped can be dropped and read again.

mod entry;
mod key;

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};
use wasmtime::component::Component;

use self::entry::{Damaged, Seal};
use self::key::Key;
use super::compile::{CompileError, Compiler};
use super::engine::{self, Engine};
use super::load::LoadError;
use crate::units::ByteSize;

/// How the names of entries end.
const ENTRY_SUFFIX: &str = ".code";
/// How the names of entries in the making begin.
const UNFINISHED_PREFIX: &str = "new-";
/// When an entry in the making counts as left behind by a host that died: far beyond what compiling may take.
const UNFINISHED_MAX: Duration = Duration::from_secs(60 * 60);

/// Code by the module that it was made of.
#[derive(Clone)]
pub struct Codes {
    parts: Arc<Parts>,
}

struct Parts {
    folder: PathBuf,
    /// Where the folder is one of this process only.
    _temporary: Option<TempDir>,
    key: Key,
    engine: wasmtime::Engine,
    /// What code must have been compiled for; part of each entry's name and hash.
    identity: String,
    bytes_max: ByteSize,
    compiler: Arc<dyn Compiler>,
}

impl Codes {
    /// Opens a folder of code, and makes it where there is none. Beyond `bytes_max` the entries that were loaded longest
    /// ago are removed.
    ///
    /// # Errors
    /// The folder cannot be made, is another user's, or cannot be written.
    pub fn open(folder: &Path, bytes_max: ByteSize, engine: &Engine, compiler: Arc<dyn Compiler>) -> io::Result<Self> {
        make_private(folder)?;
        let codes = Self::new(folder.to_owned(), None, bytes_max, engine, compiler)?;
        codes.parts.remove_unfinished();
        Ok(codes)
    }

    /// A folder that goes with this process.
    ///
    /// # Errors
    /// There is no place for temporary files.
    pub fn temporary(bytes_max: ByteSize, engine: &Engine, compiler: Arc<dyn Compiler>) -> io::Result<Self> {
        let temporary = tempfile::Builder::new().prefix("agent-host-code-").tempdir()?;
        make_private(temporary.path())?;
        Self::new(temporary.path().to_owned(), Some(temporary), bytes_max, engine, compiler)
    }

    fn new(
        folder: PathBuf,
        temporary: Option<TempDir>,
        bytes_max: ByteSize,
        engine: &Engine,
        compiler: Arc<dyn Compiler>,
    ) -> io::Result<Self> {
        let key = Key::open(&folder)?;
        let engine = engine.inner().clone();
        let identity = engine::identity(&engine);
        let parts = Parts { folder, _temporary: temporary, key, engine, identity, bytes_max, compiler };
        Ok(Self { parts: Arc::new(parts) })
    }

    /// The component of a module: from its entry, or else compiled.
    ///
    /// # Errors
    /// [`LoadError::Compile`], [`LoadError::Unfit`].
    pub(super) async fn component(&self, module: &Bytes) -> Result<Component, LoadError> {
        let (parts, read) = (Arc::clone(&self.parts), module.clone());
        let known = blocking(move || {
            let seal = parts.seal(&read);
            let component = parts.known(&seal)?;
            Ok((seal, component))
        });
        let (seal, component) = known.await?;
        if let Some(component) = component {
            return Ok(component);
        }
        let parts = Arc::clone(&self.parts);
        let file = blocking(move || Ok(parts.unfinished().map_err(no_place)?)).await?;
        let code = file.as_file().try_clone().map_err(no_place)?;
        self.parts.compiler.compile(module.clone(), code).await?;
        let parts = Arc::clone(&self.parts);
        blocking(move || {
            let path = parts.keep(file, &seal).map_err(no_place)?;
            parts.open(&path, &seal)
        })
        .await
    }
}

fn no_place(error: io::Error) -> CompileError {
    CompileError::Host(format!("keeping the code: {error}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| Err(CompileError::Host(panicked.to_string()).into()))
}

impl Parts {
    fn seal(&self, module: &[u8]) -> Seal {
        Seal::new(&self.key, Sha256::digest(module).into(), &self.identity)
    }

    /// The component of an entry that can be relied on.
    fn known(&self, seal: &Seal) -> Result<Option<Component>, LoadError> {
        let path = self.folder.join(seal.name());
        match check(&path, seal) {
            Ok(()) => {}
            Err(Damaged::Absent) => return Ok(None),
            Err(damaged) => {
                tracing::warn!(entry = %path.display(), "compiled code is {damaged}; the module is compiled anew");
                return Ok(None);
            }
        }
        touch(&path);
        self.open(&path, seal).map(Some)
    }

    /// Maps an entry that was checked or made just now.
    fn open(&self, path: &Path, seal: &Seal) -> Result<Component, LoadError> {
        // SAFETY: the file holds what this engine's compiler wrote, as its keyed hash says: nobody knows the key who could
        // not run code as this user anyway. It stays what it is for as long as it is mapped: nobody else may write to the
        // folder or the file (both were made private, and `check` looked), and hosts replace and remove entries as a whole,
        // which leaves a mapped file alone.
        let mapped = unsafe { Component::deserialize_file(&self.engine, path) };
        let unmappable = match mapped {
            Ok(component) => return Ok(component),
            Err(error) => error,
        };
        // Where the folder's file system permits no executable mapping (`noexec`), memory does.
        let unfit = |error: wasmtime::Error| LoadError::Unfit(format!("{error:#}"));
        let Some(code) = std::fs::read(path).ok().and_then(|entry| seal.opened(entry)) else {
            return Err(unfit(unmappable));
        };
        // SAFETY: as above, and these very bytes were checked against the keyed hash.
        let component = unsafe { Component::deserialize(&self.engine, code) }.map_err(unfit)?;
        tracing::warn!(error = %unmappable, "compiled code cannot be mapped from its file, and is held in memory instead");
        Ok(component)
    }

    fn unfinished(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new().prefix(UNFINISHED_PREFIX).tempfile_in(&self.folder)
    }

    /// Makes an entry of code, all or nothing, also where the machine fails.
    fn keep(&self, mut file: NamedTempFile, seal: &Seal) -> io::Result<PathBuf> {
        seal.close(file.as_file_mut())?;
        file.as_file().sync_all()?;
        let path = self.folder.join(seal.name());
        file.persist(&path).map_err(|failed| failed.error)?;
        File::open(&self.folder)?.sync_all()?;
        self.remove_oldest(&path);
        Ok(path)
    }

    /// Keeps to the limit; `newest` stays.
    fn remove_oldest(&self, newest: &Path) {
        let mut entries = self.entries(|name| name.ends_with(ENTRY_SUFFIX));
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| entry.used);
        for entry in entries.iter().filter(|entry| entry.path != newest) {
            if bytes <= self.bytes_max.0 {
                return;
            }
            // Another host may have removed it meanwhile.
            let _ = std::fs::remove_file(&entry.path);
            bytes = bytes.saturating_sub(entry.bytes);
        }
    }

    fn remove_unfinished(&self) {
        for entry in self.entries(|name| name.starts_with(UNFINISHED_PREFIX)) {
            if entry.used.elapsed().is_ok_and(|age| age > UNFINISHED_MAX) {
                let _ = std::fs::remove_file(&entry.path);
            }
        }
    }

    /// Files of the folder by name; of what cannot be read there are none.
    fn entries(&self, is_one: impl Fn(&str) -> bool) -> Vec<Entry> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let named = files.filter(|file| file.file_name().to_str().is_some_and(&is_one));
        let entry = |file: std::fs::DirEntry| {
            let metadata = file.metadata().ok()?;
            Some(Entry { path: file.path(), bytes: metadata.len(), used: metadata.modified().ok()? })
        };
        named.filter_map(entry).collect()
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    /// When it was made or loaded last.
    used: SystemTime,
}

/// Whether an entry is there and can be relied on.
fn check(path: &Path, seal: &Seal) -> Result<(), Damaged> {
    let file = File::open(path).map_err(Damaged::unreadable)?;
    if !is_private(&file.metadata().map_err(Damaged::unreadable)?) {
        return Err(Damaged::Open);
    }
    seal.check(file)
}

/// Notes that an entry is in use.
fn touch(path: &Path) {
    // Where that fails it only counts as older than it is.
    let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Whether a file or folder is this user's, and nobody else's to read or write.
fn is_private(metadata: &std::fs::Metadata) -> bool {
    // SAFETY: it has no arguments, no effects and cannot fail.
    let user = unsafe { libc::geteuid() };
    metadata.uid() == user && metadata.mode() & 0o077 == 0
}

/// Makes a folder that only this user can look into.
fn make_private(folder: &Path) -> io::Result<()> {
    const PRIVATE: u32 = 0o700;
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(PRIVATE).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    // Of another user's folder this fails.
    std::fs::set_permissions(folder, Permissions::from_mode(PRIVATE))?;
    let metadata = std::fs::symlink_metadata(folder)?;
    if metadata.is_dir() && is_private(&metadata) {
        Ok(())
    } else {
        let advice = format!("{} is not a folder of this user's: remove it", folder.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, advice))
    }
}

#[cfg(test)]
mod tests;
