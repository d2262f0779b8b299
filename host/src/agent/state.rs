//! What lives in the store of one instance. No behaviour of its own: it lends its parts to WASI and the capabilities.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::WasiFilesystemCtxView;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::limits::{Clock, MemoryMeter};
use super::shape::Gathered;
use crate::capability::files::{FilesView, TaskFiles};
use crate::capability::{self, log::Stdio, outbound_http::OutboundHttp};
use crate::trace::Span;

/// The data of one instance's store.
pub(super) struct InstanceState {
    pub(super) wasi: WasiCtx,
    pub(super) table: ResourceTable,
    pub(super) session: capability::Session,
    pub(super) http: OutboundHttp,
    pub(super) files: TaskFiles,
    /// What the agent prints to standard error, for the message of a trap.
    pub(super) stderr: Stdio,
    /// What it has answered so far, in the shapes whose answer comes bit by bit.
    pub(super) gathered: Option<Gathered>,
    pub(super) memory: MemoryMeter,
    pub(super) clock: Arc<Clock>,
    /// What the instance is at, in the task's trace: starting, then running.
    pub(super) span: Span,
    /// How long instantiation took, once it is over. Kept here because a call that is stopped returns nothing.
    pub(super) init: Option<Duration>,
}

impl InstanceState {
    pub(super) fn capabilities(&mut self) -> capability::View<'_> {
        capability::View { session: &mut self.session, table: &mut self.table }
    }

    pub(super) fn files(&mut self) -> FilesView<'_> {
        let wasi = WasiFilesystemCtxView { ctx: self.wasi.filesystem(), table: &mut self.table };
        FilesView { wasi, files: &mut self.files }
    }
}

impl WasiView for InstanceState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for InstanceState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.http.view(&mut self.table)
    }
}
