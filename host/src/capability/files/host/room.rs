//! Room in a folder for what is about to be made in it.

use std::fs::File;
use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::FsResult;

use super::FilesView;
use super::types::{self, ErrorCode, HostDescriptor};
use crate::capability::files::Writable;
use crate::capability::files::usage::Locked;

/// The same handle once more, for a second call.
fn again(descriptor: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(descriptor.rep())
}

impl FilesView<'_> {
    /// The file behind a handle, and its folder, where the folder may be written.
    pub(super) fn file(&self, descriptor: &Resource<Descriptor>) -> FsResult<Option<(Arc<File>, Writable)>> {
        let Some(folder) = self.files.writable(descriptor) else { return Ok(None) };
        Ok(match self.wasi.table.get(descriptor)? {
            Descriptor::File(file) => Some((Arc::clone(&file.file), folder.clone())),
            Descriptor::Dir(_) => None,
        })
    }

    /// Whether something may go from one folder to the other: each is counted by itself.
    pub(super) fn check_same_folder(&self, from: &Resource<Descriptor>, to: &Resource<Descriptor>) -> FsResult<()> {
        let both_writable = self.files.writable(from).is_some() && self.files.writable(to).is_some();
        if both_writable && self.files.folder(from) != self.files.folder(to) {
            return Err(ErrorCode::CrossDevice.into());
        }
        Ok(())
    }

    /// Takes room for an entry. The folder stays locked until it is made, and its count is stale from now on: whoever waits
    /// for the answer may be gone when it comes, and what fails has taken its room in vain.
    pub(super) async fn growing(&mut self, descriptor: &Resource<Descriptor>, bytes: u64) -> FsResult<Option<Locked>> {
        let Some(folder) = self.files.writable(descriptor).cloned() else { return Ok(None) };
        let locked = folder.with_entries(bytes, 1).await;
        let mut locked = locked.map_err(|error| self.files.failed(&error))?;
        locked.mark_stale();
        Ok(Some(locked))
    }

    /// Locks a folder out of which something goes.
    pub(super) async fn shrinking(&mut self, descriptor: &Resource<Descriptor>) -> Option<Locked> {
        let folder = self.files.writable(descriptor).cloned()?;
        let mut locked = folder.usage.lock().await;
        locked.mark_stale();
        Some(locked)
    }

    /// Opens, after room was made for what opening may make.
    pub(super) async fn open_counted(
        &mut self,
        descriptor: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
        open_flags: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let folder = self.files.writable(&descriptor).cloned();
        let changes = open_flags.intersects(types::OpenFlags::CREATE | types::OpenFlags::TRUNCATE);
        let Some(folder) = folder.filter(|_| changes) else {
            return self.wasi.open_at(descriptor, path_flags, path, open_flags, flags).await;
        };
        let is_there = self.wasi.stat_at(again(&descriptor), path_flags, path.clone()).await.is_ok();
        let entries = u64::from(!is_there && open_flags.contains(types::OpenFlags::CREATE));
        let locked = folder.with_entries(0, entries).await;
        let mut locked = locked.map_err(|error| self.files.failed(&error))?;
        locked.mark_stale();
        self.wasi.open_at(descriptor, path_flags, path, open_flags, flags).await
    }
}
