//! What outbound HTTP may take of the host. None of it counts against the agent's memory limit, so all of it is bounded here.

use std::time::Duration;

/// Requests of one task. A task that wants more is a crawler, and better split into tasks.
pub const TASK_REQUESTS_MAX: u32 = 1_000;
/// Requests of one task that are under way at once, until their responses' bodies are read or dropped.
pub const TASK_CONCURRENCY_MAX: usize = 16;
/// Connections of the process at once, all agents together. Each holds up to about 100 KiB: hyper's buffers and TLS's.
pub const CONNECTIONS_MAX: usize = 256;
/// Names that the process looks up at once: the system's resolver holds a thread for each, and cannot be interrupted.
pub const LOOKUPS_MAX: usize = 32;
/// Addresses of one name that are tried, one after the other.
pub const ADDRESSES_TRIED_MAX: usize = 4;

/// Bytes of one request's body: as much as a task's body may have.
pub const REQUEST_BODY_BYTES_MAX: u64 = 16 << 20;
/// Bytes of all request bodies of one task.
pub const TASK_REQUEST_BYTES_MAX: u64 = 64 << 20;
/// Bytes of one response's body. It streams: this bounds traffic, not memory.
pub const RESPONSE_BODY_BYTES_MAX: u64 = 64 << 20;
/// Bytes of all response bodies of one task.
pub const TASK_RESPONSE_BYTES_MAX: u64 = 256 << 20;

/// Bytes of one set of header fields that the guest makes, as wasmtime-wasi-http counts them: with some 70 for each field. A
/// guest can hold a thousand of them; and more than 8 KiB most servers refuse.
pub const FIELDS_BYTES_MAX: usize = 8 << 10;
/// Bytes of a request's path and query.
pub const PATH_BYTES_MAX: usize = 8 << 10;
/// Bytes of a response's header section, and of what is read ahead of its body.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 16 << 10;
/// Fields of a response's header section.
pub const RESPONSE_FIELDS_MAX: usize = 100;
/// Bytes of one write to a request's body.
pub const BODY_CHUNK_BYTES_MAX: usize = 64 << 10;
/// Writes to one body that wait in the host.
pub const BODY_CHUNKS_MAX: usize = 2;
/// Bytes of one write to a body that is one of too many which are not sent, or for which memory has no room.
pub const BODY_CHUNK_BYTES_MIN: usize = 1 << 10;

/// How long name, connection and TLS may take together where the guest sets no connect timeout. A server that is there
/// answers within a few round trips.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after its task's time a request ends by itself. The task's own end takes its requests with it, and is what the
/// agent shall end of; this is for what would be forgotten.
pub const AFTER_TASK: Duration = Duration::from_secs(1);
