//! Folders as a guest has them: through the functions that its imports of `wasi:filesystem` are linked to.

mod escapes;
mod quota;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptor, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

use super::*;
use crate::capability::log::GuestLog;
use crate::manifest::Manifest;
use crate::task::{AgentName, Task};
use crate::units::ByteSize;

fn grant(host: &str, access: FileAccess) -> FileGrant {
    FileGrant { host: host.to_owned(), guest: format!("/{host}"), access, quota: ByteSize(1 << 20), max_files: 1000 }
}

/// A task's files.
struct Guest {
    wasi: WasiCtx,
    table: ResourceTable,
    files: TaskFiles,
    /// The granted folders, in order.
    folders: Vec<u32>,
}

impl Guest {
    fn new(folders: &Folders) -> Self {
        let mut wasi = WasiCtxBuilder::new();
        folders.preopen(&mut wasi).unwrap();
        let mut guest = Self {
            wasi: wasi.build(),
            table: ResourceTable::new(),
            files: TaskFiles::new(folders, &log(), crate::memory::Holder::default()),
            folders: Vec::new(),
        };
        let directories = preopens::Host::get_directories(&mut guest.view()).unwrap();
        guest.folders = directories.iter().map(|(descriptor, _)| descriptor.rep()).collect();
        guest
    }

    fn view(&mut self) -> FilesView<'_> {
        let wasi = WasiFilesystemCtxView { ctx: self.wasi.filesystem(), table: &mut self.table };
        FilesView { wasi, files: &mut self.files }
    }

    fn folder(&self, index: usize) -> Resource<Descriptor> {
        Resource::new_borrow(self.folders[index])
    }

    async fn open(
        &mut self,
        path: &str,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> Result<Resource<Descriptor>, ErrorCode> {
        let folder = self.folder(0);
        answer(self.view().open_at(folder, PathFlags::SYMLINK_FOLLOW, path.to_owned(), open, flags).await)
    }

    /// Opens for writing, and makes the file where there is none.
    async fn create(&mut self, path: &str) -> Result<Resource<Descriptor>, ErrorCode> {
        self.open(path, OpenFlags::CREATE, DescriptorFlags::WRITE).await
    }

    async fn write(&mut self, file: &Resource<Descriptor>, bytes: &[u8], at: u64) -> Result<u64, ErrorCode> {
        answer(self.view().write(borrow(file), bytes.to_vec(), at).await)
    }

    fn close(&mut self, file: Resource<Descriptor>) {
        HostDescriptor::drop(&mut self.view(), file).unwrap();
    }
}

fn borrow(descriptor: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(descriptor.rep())
}

/// What the guest is told; a trap fails the test.
fn answer<T>(result: FsResult<T>) -> Result<T, ErrorCode> {
    result.map_err(|error| error.downcast().unwrap())
}

fn log() -> Arc<GuestLog> {
    let manifest = "manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n";
    let name = AgentName::parse("a").unwrap();
    let capabilities = crate::capability::Capabilities::new(crate::capability::Backends {
        database: Arc::new(crate::capability::sql::LazyDatabase::new("no-such-folder".into())),
        key_value: Arc::new(crate::capability::key_value::MemoryKeyValue::new()),
        cache: Arc::new(crate::capability::cache::MemoryCache::new()),
        secrets: Arc::new(crate::capability::secrets::EnvironmentSecrets::default()),
        outbound: Arc::new(crate::capability::outbound_http::Outbound::new(Arc::new(
            crate::capability::outbound_http::MemoryNetwork::new(),
        ))),
        directory: Arc::new(|_: &AgentName| false),
    });
    let plan = capabilities.plan(&name, 1, Arc::new(Manifest::parse(manifest).unwrap()));
    Arc::clone(capabilities.session(&plan, &Task::new(name, "")).log())
}

#[test]
fn only_folders_under_the_root_are_granted() {
    let outside = tempfile::TempDir::new().unwrap();
    let root = tempfile::TempDir::new().unwrap();
    fs::create_dir(root.path().join("reports")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    symlink(outside.path(), root.path().join("escape")).unwrap();
    let files = FilesRoot::open(Some(root.path())).unwrap();
    for access in [FileAccess::Read, FileAccess::ReadWrite] {
        assert!(files.grant(&[grant("reports", access)]).is_ok());
        for refused in ["nowhere", "file", "escape", "..", "reports/../..", "/etc", outside.path().to_str().unwrap()] {
            assert!(matches!(files.grant(&[grant(refused, access)]), Err(FilesError::NoFolder { .. })), "{refused}");
        }
    }
}

#[test]
fn without_a_root_nothing_is_granted() {
    let files = FilesRoot::open(None).unwrap();
    assert!(files.grant(&[]).is_ok());
    assert!(matches!(files.grant(&[grant("reports", FileAccess::Read)]), Err(FilesError::NoRoot)));
}
