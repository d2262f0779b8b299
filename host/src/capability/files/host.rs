//! `wasi:filesystem/types` and `preopens`: what grows a folder is counted ([`room`]), the rest is wasmtime-wasi's.

mod room;
mod streams;

use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use self::types::{ErrorCode, HostDescriptor, HostDirectoryEntryStream};
use super::limits::{LISTINGS_MAX, OPEN_FILES_MAX};
use super::task::{Open, TaskFiles, code};
use super::usage::Place;

/// What a host call works on.
pub struct FilesView<'a> {
    /// wasmtime-wasi's part.
    pub wasi: WasiFilesystemCtxView<'a>,
    /// Ours.
    pub files: &'a mut TaskFiles,
}

struct FilesViews;

impl HasData for FilesViews {
    type Data<'a> = FilesView<'a>;
}

/// Links `wasi:filesystem`, in place of wasmtime-wasi's.
///
/// # Errors
/// None that the host's own imports could cause.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> FilesView<'_>,
) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<T, FilesViews>(linker, view)?;
    preopens::add_to_linker::<T, FilesViews>(linker, view)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl preopens::Host for FilesView<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let directories = preopens::Host::get_directories(&mut self.wasi)?;
        self.files.was_used |= !directories.is_empty();
        for (folder, (descriptor, _)) in directories.iter().enumerate() {
            self.files.open.insert(descriptor.rep(), Open { folder, _place: None });
        }
        Ok(directories)
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        let error = self.wasi.table.get(&error)?;
        Ok(error.downcast_ref::<io::Error>().map(code))
    }
}

impl HostDescriptor for FilesView<'_> {
    async fn write(
        &mut self,
        descriptor: Resource<Descriptor>,
        buffer: Vec<u8>,
        offset: types::Filesize,
    ) -> FsResult<types::Filesize> {
        let _held = self.files.hold(buffer.len())?;
        match self.file(&descriptor)? {
            None => self.wasi.write(descriptor, buffer, offset).await,
            Some((file, folder)) => {
                let written = folder.write(file, buffer.into(), Place::At(offset)).await;
                written.map_err(|error| self.files.failed(&error))
            }
        }
    }

    fn write_via_stream(
        &mut self,
        descriptor: Resource<Descriptor>,
        offset: types::Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        match self.file(&descriptor)? {
            None => self.wasi.write_via_stream(descriptor, offset),
            Some((file, folder)) => self.stream_into(file, folder, Place::At(offset)),
        }
    }

    fn append_via_stream(&mut self, descriptor: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        match self.file(&descriptor)? {
            None => self.wasi.append_via_stream(descriptor),
            Some((file, folder)) => self.stream_into(file, folder, Place::End),
        }
    }

    fn read_via_stream(
        &mut self,
        descriptor: Resource<Descriptor>,
        offset: types::Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        self.stream_out_of(descriptor, offset)
    }

    async fn set_size(&mut self, descriptor: Resource<Descriptor>, size: types::Filesize) -> FsResult<()> {
        match self.file(&descriptor)? {
            None => self.wasi.set_size(descriptor, size).await,
            Some((file, folder)) => {
                let set = folder.change(move |locked, quota| locked.set_length(quota, &file, size)).await;
                set.map_err(|error| self.files.failed(&error))
            }
        }
    }

    async fn open_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
        open_flags: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        if self.files.open.len() >= OPEN_FILES_MAX {
            return Err(self.files.too_many(&format!("a task has at most {OPEN_FILES_MAX} files open at once")));
        }
        let granted = self.files.folders.0.as_ref();
        let place = granted.and_then(|granted| Arc::clone(&granted.open_files).try_acquire_owned().ok());
        if place.is_none() {
            return Err(self.files.too_many("all tasks of this host together have as many files open as they may"));
        }
        let folder = self.files.folder(&descriptor);
        let writable = self.files.writable(&descriptor).cloned();
        let opened = self.open_counted(descriptor, path_flags, path, open_flags, flags).await?;
        if let (Some(writable), Descriptor::File(file)) = (writable, self.wasi.table.get(&opened)?) {
            writable.usage.opened(&file.file);
        }
        if let Some(folder) = folder {
            self.files.open.insert(opened.rep(), Open { folder, _place: place });
        }
        Ok(opened)
    }

    async fn create_directory_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> FsResult<()> {
        let _locked = self.growing(&descriptor, 0).await?;
        self.wasi.create_directory_at(descriptor, path).await
    }

    async fn symlink_at(&mut self, descriptor: Resource<Descriptor>, target: String, path: String) -> FsResult<()> {
        // The sandbox would not follow it, but others may who find it in the folder.
        let leads_inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(&target).components().all(leads_inside) {
            return Err(ErrorCode::NotPermitted.into());
        }
        let bytes = u64::try_from(target.len()).unwrap_or(u64::MAX);
        let _locked = self.growing(&descriptor, bytes).await?;
        self.wasi.symlink_at(descriptor, target, path).await
    }

    async fn link_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
        new_descriptor: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.check_same_folder(&descriptor, &new_descriptor)?;
        let _locked = self.growing(&new_descriptor, 0).await?;
        self.wasi.link_at(descriptor, path_flags, path, new_descriptor, new_path).await
    }

    async fn rename_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        path: String,
        new_descriptor: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.check_same_folder(&descriptor, &new_descriptor)?;
        let _locked = self.shrinking(&descriptor).await;
        self.wasi.rename_at(descriptor, path, new_descriptor, new_path).await
    }

    async fn unlink_file_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> FsResult<()> {
        let _locked = self.shrinking(&descriptor).await;
        self.wasi.unlink_file_at(descriptor, path).await
    }

    async fn remove_directory_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> FsResult<()> {
        let _locked = self.shrinking(&descriptor).await;
        self.wasi.remove_directory_at(descriptor, path).await
    }

    async fn read_directory(
        &mut self,
        descriptor: Resource<Descriptor>,
    ) -> FsResult<Resource<types::DirectoryEntryStream>> {
        if self.files.listings.len() >= LISTINGS_MAX {
            return Err(self.files.too_many(&format!("a task has at most {LISTINGS_MAX} listings of folders at once")));
        }
        let names = self.room_for_listing(&descriptor).await?;
        let listing = self.wasi.read_directory(descriptor).await?;
        self.files.listings.insert(listing.rep(), names);
        Ok(listing)
    }

    fn drop(&mut self, descriptor: Resource<Descriptor>) -> wasmtime::Result<()> {
        if let Ok(Some((file, folder))) = self.file(&descriptor) {
            folder.usage.closed(&file);
        }
        self.files.open.remove(&descriptor.rep());
        HostDescriptor::drop(&mut self.wasi, descriptor)
    }

    // From here on nothing grows.

    async fn advise(
        &mut self,
        descriptor: Resource<Descriptor>,
        offset: types::Filesize,
        length: types::Filesize,
        advice: types::Advice,
    ) -> FsResult<()> {
        self.wasi.advise(descriptor, offset, length, advice).await
    }

    async fn sync_data(&mut self, descriptor: Resource<Descriptor>) -> FsResult<()> {
        self.wasi.sync_data(descriptor).await
    }

    async fn sync(&mut self, descriptor: Resource<Descriptor>) -> FsResult<()> {
        self.wasi.sync(descriptor).await
    }

    async fn get_flags(&mut self, descriptor: Resource<Descriptor>) -> FsResult<types::DescriptorFlags> {
        self.wasi.get_flags(descriptor).await
    }

    async fn get_type(&mut self, descriptor: Resource<Descriptor>) -> FsResult<types::DescriptorType> {
        self.wasi.get_type(descriptor).await
    }

    async fn set_times(
        &mut self,
        descriptor: Resource<Descriptor>,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times(descriptor, accessed, modified).await
    }

    async fn set_times_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times_at(descriptor, path_flags, path, accessed, modified).await
    }

    async fn read(
        &mut self,
        descriptor: Resource<Descriptor>,
        length: types::Filesize,
        offset: types::Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.wasi.read(descriptor, length, offset).await
    }

    async fn stat(&mut self, descriptor: Resource<Descriptor>) -> FsResult<types::DescriptorStat> {
        self.wasi.stat(descriptor).await
    }

    async fn stat_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::DescriptorStat> {
        self.wasi.stat_at(descriptor, path_flags, path).await
    }

    async fn readlink_at(&mut self, descriptor: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.wasi.readlink_at(descriptor, path).await
    }

    async fn is_same_object(
        &mut self,
        one: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        self.wasi.is_same_object(one, other).await
    }

    async fn metadata_hash(&mut self, descriptor: Resource<Descriptor>) -> FsResult<types::MetadataHashValue> {
        self.wasi.metadata_hash(descriptor).await
    }

    async fn metadata_hash_at(
        &mut self,
        descriptor: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        self.wasi.metadata_hash_at(descriptor, path_flags, path).await
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        listing: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        self.wasi.read_directory_entry(listing).await
    }

    fn drop(&mut self, listing: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.files.listings.remove(&listing.rep());
        HostDirectoryEntryStream::drop(&mut self.wasi, listing)
    }
}
