//! Config: the manifest's `[config]`, read through `wasi:config/store`. It needs no grant: it is the agent's own.

mod host;
