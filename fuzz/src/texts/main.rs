//! A libFuzzer target for every other text that people and programs write: manifests, settings, sizes, durations, names, the
//! headers and the query of a submission, batches, and the cursors of lists.
//!
//! Contract: as for the envelope's target, a run ends only with the time it was given.
//!
//! The first byte of an input chooses the parser, so that a seed can be written by hand; the rest is its text.

#![no_main]

#[path = "../memory.rs"]
mod memory;
mod properties;
#[allow(dead_code, reason = "settings are filled; nothing here reads all of them")]
mod stand_ins;

// The host's own files, as in the envelope's target.
#[path = "../../../host/src"]
#[allow(dead_code, unused_imports, reason = "the host uses the rest")]
mod host {
    pub(crate) mod config;
    pub(crate) mod manifest;
    pub(crate) mod task;
    pub(crate) mod trace;
    pub(crate) mod units;
}
#[path = "../../../host/src/http"]
#[allow(dead_code, reason = "the host uses the rest")]
mod parsers {
    use super::stand_ins::http::{DELAY_MAX, PREFER_WAIT_MAX, problem};

    #[path = "dead_letters/cursor.rs"]
    pub(crate) mod cursor;
    #[path = "batch/lines.rs"]
    pub(crate) mod lines;
    pub(crate) mod submission;
}
#[path = "../../../host/src/telemetry/otlp/settings.rs"]
#[allow(dead_code, reason = "the host uses the rest")]
mod otlp;
use host::{config, manifest, task, trace, units};
// Where those files name parts of the host that need drivers or an HTTP server.
use stand_ins::{http, records, secrets, telemetry};
// Of axum the headers' files use this alone, which is a crate of its own.
extern crate self as axum;

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus { run(data) });

fn run(data: &[u8]) -> Corpus {
    let Some((kind, rest)) = data.split_first() else { return Corpus::Reject };
    if *kind == b'b' {
        properties::of_a_batch(rest);
        return Corpus::Keep;
    }
    let Ok(text) = std::str::from_utf8(rest) else { return Corpus::Reject };
    match kind {
        b'm' => properties::of_a_manifest(text),
        b'u' => properties::of_units(text),
        b'n' => properties::of_names(text),
        b'h' => properties::of_a_submission(text),
        b'c' => properties::of_a_cursor(text),
        b'f' => properties::of_a_config_file(text),
        b'e' => properties::of_an_environment(text),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
}
