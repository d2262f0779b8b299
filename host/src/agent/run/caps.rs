//! Caps of the host that no manifest changes, and how reaching one is told from a crash.

use std::time::Duration;

use wasmtime::component::ResourceTableError;
use wasmtime_wasi_http::FieldMapError;

use crate::capability::CapReached;
use crate::capability::outbound_http::limits::FIELDS_BYTES_MAX;
use crate::task::Limit;
use crate::units::ByteSize;

/// Component resources that one instance may hold. wasmtime's default is 100,000, charged to no memory limit.
pub(super) const HANDLES_MAX: usize = 1_000;
/// Random bytes of one call; wasmtime-wasi's default is 64 MiB.
pub(super) const RANDOM_BYTES_MAX: ByteSize = ByteSize(64 << 10);
/// Names and values of an output's headers and its content type, [`HEADER_BYTES`] more for each: all headers of a result
/// share one AMQP frame of 128 KiB with what the host adds.
pub(super) const OUTPUT_HEADERS_BYTES_MAX: ByteSize = ByteSize(64 << 10);
/// What a header takes in the host's memory beside its text.
pub(super) const HEADER_BYTES: usize = 16;
/// Longest message of a failure, a paragraph with a trap's frames; what is longer is cut.
pub(super) const FAILURE_BYTES_MAX: usize = 4 << 10;
/// How long a module may take to start when it is deployed, whatever its manifest says: other deploys wait for this one.
pub(super) const START_TIME_MAX: Duration = Duration::from_secs(10);

/// What wasmtime says of the caps for whose errors it has no public types.
const HANDLES_WORDS: &str = "store handle limit exceeded";
const CALL_BYTES_WORDS: &str = "fuel allocated for hostcalls has been exhausted";
const RANDOM_BYTES_WORDS: &str = "requested len";

/// The cap that a call ran into, if that is what the error says. `call_bytes_max` is the store's hostcall fuel.
pub(super) fn reached(error: &wasmtime::Error, call_bytes_max: usize) -> Option<Limit> {
    if let Some(CapReached(limit)) = error.downcast_ref() {
        return Some(limit.clone());
    }
    let cap = |name, allowed| Some(Limit { name, allowed });
    if matches!(error.downcast_ref(), Some(FieldMapError::TotalSizeTooBig | FieldMapError::TooManyFields)) {
        return cap("host.http_fields_bytes", ByteSize(FIELDS_BYTES_MAX as u64).to_string());
    }
    let cause = error.root_cause().to_string();
    if matches!(error.downcast_ref(), Some(ResourceTableError::Full)) || cause.contains(HANDLES_WORDS) {
        return cap("host.handles", HANDLES_MAX.to_string());
    }
    if cause.contains(CALL_BYTES_WORDS) {
        return cap("host.call_bytes", ByteSize(call_bytes_max as u64).to_string());
    }
    if cause.contains(RANDOM_BYTES_WORDS) {
        return cap("host.random_bytes", RANDOM_BYTES_MAX.to_string());
    }
    None
}
