//! Streams over files, and listings of folders.

use std::fs::File;
use std::io;
use std::sync::Arc;

use cap_std::fs::Dir;
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsResult};

use super::FilesView;
use super::types::{self, HostDescriptor};
use crate::capability::files::Writable;
use crate::capability::files::limits::LISTED_ENTRIES_MAX;
use crate::capability::files::stream::{Reading, Writing};
use crate::capability::files::task::code;
use crate::capability::files::usage::Place;
use crate::memory::Held;

/// What an entry of a listing takes in the host beside its name.
const ENTRY_BYTES: usize = 64;

impl FilesView<'_> {
    pub(super) fn stream_into(
        &mut self,
        file: Arc<File>,
        folder: Writable,
        place: Place,
    ) -> FsResult<Resource<DynOutputStream>> {
        let stream = Writing::new(file, folder, place, self.files.stream()?);
        Ok(self.wasi.table.push(Box::new(stream) as DynOutputStream)?)
    }

    pub(super) fn stream_out_of(
        &mut self,
        descriptor: Resource<Descriptor>,
        offset: types::Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let place = self.files.stream()?;
        let stream = HostDescriptor::read_via_stream(&mut self.wasi, descriptor, offset)?;
        let inner = self.wasi.table.delete(stream)?;
        Ok(self.wasi.table.push(Box::new(Reading { inner, _place: place }) as DynInputStream)?)
    }

    /// Makes room for the names of a folder, which wasmtime-wasi takes all at once.
    pub(super) async fn room_for_listing(&mut self, descriptor: &Resource<Descriptor>) -> FsResult<Held> {
        let Descriptor::Dir(dir) = self.wasi.table.get(descriptor)? else { return Ok(Held::default()) };
        let dir = Arc::clone(&dir.dir);
        let counted = tokio::task::spawn_blocking(move || {
            let dir = Dir::from_std_file(dir.try_clone()?);
            let (mut entries, mut bytes) = (0_usize, 0_usize);
            for entry in dir.entries()?.take(LISTED_ENTRIES_MAX + 1) {
                entries += 1;
                bytes = bytes.saturating_add(entry?.file_name().len()).saturating_add(ENTRY_BYTES);
            }
            Ok::<_, io::Error>((entries, bytes))
        });
        let (entries, bytes) = counted.await.map_err(io::Error::other).flatten().map_err(|error| code(&error))?;
        if entries > LISTED_ENTRIES_MAX {
            let message = format!("a folder with more than {LISTED_ENTRIES_MAX} entries cannot be listed");
            return Err(self.files.too_many(&message));
        }
        self.files.hold(bytes)
    }
}
