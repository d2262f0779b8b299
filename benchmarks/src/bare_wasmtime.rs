//! A task of the `echo` agent on bare wasmtime: the least that an embedder writes.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a benchmark that does not run measures nothing")]

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated from documented WIT")]
    wasmtime::component::bindgen!({ path: "../wit", world: "host-native", imports: { default: async | trappable }, exports: { default: async } });
}
use bindings::exports::agent::runtime::handler;
use bindings::{HostNative, HostNativePre};

/// What a task is given, and answers.
pub const BODY: &[u8] = &[b'x'; 256];

/// What lives in a store.
pub struct BareState {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for BareState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The agent, compiled and linked.
#[derive(Clone)]
pub struct Agent {
    engine: Engine,
    pre: HostNativePre<BareState>,
}

impl Agent {
    /// Compiles it.
    #[must_use]
    pub fn new(engine: &Engine, module: &[u8]) -> Self {
        let mut linker = Linker::<BareState>::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let component = Component::new(engine, module).unwrap();
        let pre = HostNativePre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
        Self { engine: engine.clone(), pre }
    }

    /// A store.
    #[must_use]
    pub fn store(&self) -> Store<BareState> {
        let state = BareState { wasi: WasiCtxBuilder::new().build(), table: ResourceTable::new() };
        Store::new(&self.engine, state)
    }

    /// A store with an instance.
    pub async fn start(&self) -> Instance {
        let mut store = self.store();
        // Before the start, whose first function would stop to look at it otherwise.
        store.set_epoch_deadline(u64::MAX / 2);
        self.start_in(store).await
    }

    /// An instance in a store.
    pub async fn start_in(&self, mut store: Store<BareState>) -> Instance {
        let instance = self.pre.instantiate_async(&mut store).await.unwrap();
        Instance { store, instance }
    }

    /// A task in an instance of its own.
    pub async fn run(self) {
        self.start().await.call().await;
    }
}

/// A store and the instance in it.
pub struct Instance {
    store: Store<BareState>,
    instance: HostNative,
}

impl Instance {
    /// Hands it a task.
    pub async fn call(&mut self) {
        let output = self.instance.agent_runtime_handler().call_handle(&mut self.store, &task()).await.unwrap();
        assert_eq!(output.unwrap().unwrap().body, BODY);
    }
}

fn task() -> handler::Task {
    handler::Task {
        id: "benchmark".into(),
        agent: "echo".into(),
        revision: 1,
        attempt: 1,
        max_attempts: 1,
        enqueued_at: 0,
        deadline: 0,
        headers: Vec::new(),
        content_type: "application/octet-stream".into(),
        body: BODY.to_vec(),
        traceparent: None,
    }
}
