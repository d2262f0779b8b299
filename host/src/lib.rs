//! agent-host: runs tasks from a message broker in sandboxed WebAssembly agents.
