//! What one task has open of its folders, and what it is told when that is too much.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::{FsError, FsResult};

use super::limits::{STREAMS_MAX, WRITE_BYTES_MAX};
use super::{Folders, Writable};
use crate::capability::log::{GuestLog, Level};
use crate::memory::{Held, Holder};

/// What one task has of its folders.
pub struct TaskFiles {
    pub(super) folders: Folders,
    /// What the guest has open: of which folder, by the handle's number.
    pub(super) open: HashMap<u32, Open>,
    /// Its listings, likewise, with the account of their names.
    pub(super) listings: HashMap<u32, Held>,
    /// Where what the host holds for the task is accounted for.
    pub(super) holder: Holder,
    /// Places for streams, made for the first of them.
    streams: Option<Arc<Semaphore>>,
    log: Arc<GuestLog>,
    was_noted: AtomicBool,
    /// Whether the guest has asked for its folders, and has some.
    pub(super) was_used: bool,
}

pub(super) struct Open {
    pub(super) folder: usize,
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

/// A stream's place, and the account of what it holds.
pub(super) struct StreamPlace {
    _place: OwnedSemaphorePermit,
    _held: Held,
}

impl TaskFiles {
    /// For a task with these folders.
    #[must_use]
    pub fn new(folders: &Folders, log: &Arc<GuestLog>, holder: Holder) -> Self {
        Self {
            folders: folders.clone(),
            open: HashMap::new(),
            listings: HashMap::new(),
            holder,
            streams: None,
            log: Arc::clone(log),
            was_noted: AtomicBool::new(false),
            was_used: false,
        }
    }

    /// Whether the guest may have used a file.
    #[must_use]
    pub fn was_used(&self) -> bool {
        self.was_used
    }

    /// Where a handle's folder may be written.
    pub(super) fn writable(&self, descriptor: &Resource<Descriptor>) -> Option<&Writable> {
        let open = self.open.get(&descriptor.rep())?;
        self.folders.granted().get(open.folder)?.writable.as_ref()
    }

    pub(super) fn folder(&self, descriptor: &Resource<Descriptor>) -> Option<usize> {
        self.open.get(&descriptor.rep()).map(|open| open.folder)
    }

    /// A place for one more stream, with room for what it holds.
    pub(super) fn stream(&mut self) -> FsResult<StreamPlace> {
        let places = self.streams.get_or_insert_with(|| Arc::new(Semaphore::new(STREAMS_MAX)));
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return Err(self.too_many(&format!("a task has at most {STREAMS_MAX} streams over files at once")));
        };
        let held = self.hold(WRITE_BYTES_MAX)?;
        Ok(StreamPlace { _place: place, _held: held })
    }

    /// Accounts for bytes that the host holds. Where there is no room for them, the task ends, and comes again.
    pub(super) fn hold(&self, bytes: usize) -> FsResult<Held> {
        self.holder.hold(bytes).map_err(FsError::trap)
    }

    /// WASI has no code for too many open files.
    pub(super) fn too_many(&self, message: &str) -> FsError {
        self.note(message);
        ErrorCode::InsufficientMemory.into()
    }

    /// The guest's error, and the words for it in the task's log: a guest that goes on trying says it once.
    pub(super) fn failed(&self, error: &io::Error) -> FsError {
        if is_full(error) {
            self.note("a granted folder is full: see quota and max_files of grants.files in agent.toml");
        }
        code(error).into()
    }

    fn note(&self, message: &str) {
        if !self.was_noted.swap(true, Ordering::Relaxed) {
            self.log.line(Level::Warn, "wasi:filesystem", message);
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EDQUOT)
}

/// What the guest is told.
pub(super) fn code(error: &io::Error) -> ErrorCode {
    if is_full(error) { ErrorCode::Quota } else { ErrorCode::from(error) }
}
