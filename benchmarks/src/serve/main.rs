//! What `wasmtime serve` does, without its command line: HTTP requests in, each answered by a fresh instance of a component
//! of `wasi:http/proxy`. With the host's own engine settings, so that a comparison is one of what is around the engine.

use std::net::SocketAddr;
use std::path::PathBuf;

use agent_host::agent::{Engine, EngineConfig};
use anyhow::Result;
use clap::Parser;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Serves a component over HTTP, as `wasmtime serve` does.
#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The component.
    component: PathBuf,
}

const INSTANCES_MAX: u32 = 1_000;
const MEMORY_BYTES_MAX: usize = 500 << 20;

struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoRequests,
    table: ResourceTable,
}

/// The component asks nobody.
struct NoRequests;

impl WasiHttpHooks for NoRequests {
    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _processed: Promise<()>,
    ) -> Promise<(Response<WasiBody>, Promise<()>)> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

type Promise<T> = Box<dyn Future<Output = Result<T, Error>> + Send>;

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let engine = Engine::new(&EngineConfig { instances_max: INSTANCES_MAX, memory_bytes_max: MEMORY_BYTES_MAX })?;
    let component = Component::from_file(engine.inner(), &options.component)?;
    let mut linker = Linker::new(engine.inner());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    let pre = ProxyPre::new(linker.instantiate_pre(&component)?)?;

    let listener = TcpListener::bind(options.listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pre = pre.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(pre.clone(), request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
                eprintln!("a connection broke: {error:?}");
            }
        });
    }
}

async fn answer(pre: ProxyPre<State>, request: Request<Incoming>) -> Result<Response<HyperOutgoingBody>> {
    let state = State {
        wasi: WasiCtxBuilder::new().build(),
        http: WasiHttpCtx::new(),
        hooks: NoRequests,
        table: ResourceTable::new(),
    };
    let mut store = Store::new(pre.engine(), state);
    store.set_epoch_deadline(u64::MAX / 2);
    let (respond, responded) = oneshot::channel();
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let outparam = store.data_mut().http().new_response_outparam(respond)?;
    // In a task of its own: it may write on after the head of its response is sent.
    let called = tokio::spawn(async move {
        let proxy = pre.instantiate_async(&mut store).await?;
        proxy.wasi_http_incoming_handler().call_handle(store, request, outparam).await
    });
    match responded.await {
        Ok(response) => Ok(response?),
        Err(_) => {
            called.await??;
            anyhow::bail!("the component set no response")
        }
    }
}
