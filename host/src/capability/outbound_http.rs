//! Outbound HTTP: `wasi:http` is linked, since many toolchains import what they never call, and every request is denied.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks};

use super::log::{GuestLog, Level};

/// Bytes of one set of header fields that a guest holds in the host. It can hold a thousand: no request is sent, so this is
/// what toolchains make while they start.
const FIELDS_BYTES_MAX: usize = 8 << 10;
/// Bytes of a request's body that wait in the host, for the same reason.
const BODY_CHUNK_BYTES_MAX: usize = 8 << 10;

/// Something of an outgoing exchange, as `wasmtime-wasi-http` has it.
type Exchange<T> = Box<dyn Future<Output = Result<T>> + Send>;

/// The HTTP state of one task.
#[derive(Debug)]
pub struct OutboundHttp {
    ctx: WasiHttpCtx,
    refusal: Refusal,
}

impl OutboundHttp {
    /// For a task with this log.
    #[must_use]
    pub fn new(log: &Arc<GuestLog>) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(FIELDS_BYTES_MAX);
        Self { ctx, refusal: Refusal { log: Arc::clone(log) } }
    }

    /// What a host call works on.
    pub fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.refusal, table, ctx: &mut self.ctx }
    }
}

/// Denies every request, and says so in the task's log: the guest's error carries no words.
#[derive(Debug)]
struct Refusal {
    log: Arc<GuestLog>,
}

impl WasiHttpHooks for Refusal {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _processed: Exchange<()>,
    ) -> Exchange<(http::Response<WasiBody>, Exchange<()>)> {
        let host = request.uri().authority().map_or("", http::uri::Authority::as_str);
        let message = format!("the request to {host} was denied: this version gives agents no outbound HTTP");
        self.log.line(Level::Warn, "wasi:http", &message);
        Box::new(async { Err(Error::HttpRequestDenied) })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }
}
