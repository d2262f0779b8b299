//! Answers with the body it was sent, under the same content type: a component of `wasi:http` and nothing else.

// Its exports have names that no other linker takes.
#![cfg(target_family = "wasm")]

#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::semicolon_if_nothing_returned,
    reason = "generated code; its documentation is that of the WIT"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package agent:http-echo;

            world http-echo {
                export wasi:http/incoming-handler@0.2.12;
            }
        ",
        world: "agent:http-echo/http-echo",
        generate_all,
    });
}

use bindings::exports::wasi::http::incoming_handler::Guest;
use bindings::wasi::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

const CONTENT_TYPE: &str = "content-type";
/// Bytes that are read at once, and that a stream takes at once.
const READ_BYTES_MAX: u64 = 64 << 10;
const WRITE_BYTES_MAX: usize = 4_096;

struct Echo;

impl Guest for Echo {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let content_type = request.headers().get(CONTENT_TYPE);
        let body = request.consume().map(|body| read(&body)).unwrap_or_default();
        let fields = Fields::new();
        // What was received can be sent.
        let _ = fields.set(CONTENT_TYPE, &content_type);
        let response = OutgoingResponse::new(fields);
        let answer = response.body();
        ResponseOutparam::set(outparam, Ok(response));
        if let Ok(answer) = answer {
            write(answer, &body);
        }
    }
}

fn read(body: &IncomingBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(stream) = body.stream() {
        while let Ok(more) = stream.blocking_read(READ_BYTES_MAX) {
            bytes.extend(more);
        }
    }
    bytes
}

fn write(body: OutgoingBody, bytes: &[u8]) {
    if let Ok(stream) = body.write() {
        // Whoever asked may have gone.
        let _ = bytes.chunks(WRITE_BYTES_MAX).try_for_each(|piece| stream.blocking_write_and_flush(piece));
    }
    let _ = OutgoingBody::finish(body, None);
}

bindings::export!(Echo with_types_in bindings);
