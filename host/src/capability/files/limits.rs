//! What folders may take of the host, beside the quota of each grant (`quota`, `max_files`).

use std::time::Duration;

/// Files and folders that one task has open at once, the granted folders included. Each is a file of the process.
pub const OPEN_FILES_MAX: usize = 64;
/// Files and folders that all tasks have open at once. Linux gives a process 1,024 files where nobody asked for more.
pub const HOST_OPEN_FILES_MAX: usize = 512;
/// Streams over files that one task has at once. Each holds up to 64 KiB of data in the host.
pub const STREAMS_MAX: usize = 64;
/// Listings that one task has at once. Each holds the names of a folder in the host.
pub const LISTINGS_MAX: usize = 4;
/// Entries of a folder that can be listed: names of a few megabytes at most.
pub const LISTED_ENTRIES_MAX: usize = 10_000;
/// Bytes of one write: what wasmtime-wasi gives a stream.
pub const WRITE_BYTES_MAX: usize = 64 << 10;

/// Folders inside each other. Counting what is in use holds a file of the process for each.
pub const DEPTH_MAX: usize = 64;
/// How long a count is believed. Others may write too: an operator, another host on the same disk.
pub const COUNT_AGE_MAX: Duration = Duration::from_secs(60);
/// How long it is believed when it leaves no room.
pub const FULL_AGE_MAX: Duration = Duration::from_secs(1);
