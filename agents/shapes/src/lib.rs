//! One module of all four shapes: answers with what it was given, or as the body says.

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
            package agent:shapes;

            world shapes {
                export agent:runtime/handler@0.1.0;
                export wasi:cli/run@0.2.12;
                export wasi:http/incoming-handler@0.2.12;
                export wasi:messaging/incoming-handler@0.2.0-draft;
            }
        ",
        world: "agent:shapes/shapes",
        generate_all,
    });
}

use std::io::{Read as _, Write as _};

use bindings::exports::agent::runtime::handler as native;
use bindings::exports::wasi::cli::run as command;
use bindings::exports::wasi::http::incoming_handler as http;
use bindings::exports::wasi::messaging::incoming_handler as messaging;
use bindings::wasi::http::types::{
    Fields, IncomingBody, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use bindings::wasi::io::streams::StreamError;
use bindings::wasi::messaging::types::{Error, Message};
use serde::{Deserialize, Serialize};

/// What an agent of whichever shape was given.
#[derive(Debug, Serialize)]
struct Given {
    shape: &'static str,
    body: String,
    content_type: Option<String>,
    /// Arguments of a command.
    arguments: Vec<String>,
    /// Headers, metadata, or variables of the environment.
    about: Vec<(String, String)>,
}

/// What to answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    fail: Option<String>,
    status: Option<u16>,
    text: Option<String>,
    headers: Vec<(String, String)>,
}

impl Given {
    /// What the body wants. One that is not JSON wants nothing.
    fn wanted(&self) -> Wanted {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The answer's text.
    fn answer(&self, wanted: &Wanted) -> String {
        wanted.text.clone().unwrap_or_else(|| serde_json::to_string(self).unwrap_or_default())
    }
}

struct Agent;

impl native::Guest for Agent {
    fn handle(task: native::Task) -> Result<Option<native::Output>, native::Failure> {
        let given = Given {
            shape: "native",
            body: String::from_utf8_lossy(&task.body).into_owned(),
            content_type: Some(task.content_type),
            arguments: Vec::new(),
            about: task.headers,
        };
        let wanted = given.wanted();
        match &wanted.fail {
            Some(why) => Err(native::Failure::Retry(why.clone())),
            None => Ok(Some(native::Output {
                content_type: Some("application/json".into()),
                body: given.answer(&wanted).into_bytes(),
                headers: wanted.headers,
            })),
        }
    }
}

impl command::Guest for Agent {
    fn run() -> Result<(), ()> {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body).map_err(|_| ())?;
        let given = Given {
            shape: "command",
            body: String::from_utf8_lossy(&body).into_owned(),
            content_type: std::env::var("TASK_CONTENT_TYPE").ok(),
            arguments: std::env::args().collect(),
            about: std::env::vars().collect(),
        };
        let wanted = given.wanted();
        if let Some(why) = &wanted.fail {
            eprintln!("{why}");
            return Err(());
        }
        // Nothing flushes for a function that is called as this one is.
        let mut out = std::io::stdout();
        out.write_all(given.answer(&wanted).as_bytes()).and_then(|()| out.flush()).map_err(|_| ())
    }
}

impl messaging::Guest for Agent {
    fn handle(message: Message) -> Result<(), Error> {
        let given = Given {
            shape: "messaging",
            body: String::from_utf8_lossy(&message.data()).into_owned(),
            content_type: message.content_type(),
            arguments: message.topic().into_iter().collect(),
            about: message.metadata().unwrap_or_default(),
        };
        let wanted = given.wanted();
        // The shape has no output: what it was given is said where it can be read.
        eprintln!("{}", given.answer(&wanted));
        wanted.fail.map_or(Ok(()), |why| Err(Error::Other(why)))
    }
}

impl http::Guest for Agent {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let fields = request.headers().entries();
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        let about: Vec<_> = fields.into_iter().map(|(name, value)| (name, text(value))).collect();
        let line = format!("{:?} {}", request.method(), request.path_with_query().unwrap_or_default());
        let given = Given {
            shape: "http",
            body: request.consume().map(|body| text(read(&body))).unwrap_or_default(),
            content_type: about.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value.clone()),
            arguments: vec![line],
            about,
        };
        let wanted = given.wanted();
        let fields = Fields::new();
        for (name, value) in &wanted.headers {
            if let Err(error) = fields.append(name, value.as_bytes()) {
                eprintln!("{name}: {error:?}");
            }
        }
        let response = OutgoingResponse::new(fields);
        if let Some(status) = wanted.status {
            let _ = response.set_status_code(status);
        }
        let body = response.body();
        ResponseOutparam::set(outparam, Ok(response));
        if let Ok(body) = body {
            write(body, given.answer(&wanted).as_bytes());
        }
    }
}

fn read(body: &IncomingBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(stream) = body.stream() {
        while let Ok(more) = stream.blocking_read(64 << 10) {
            bytes.extend(more);
        }
    }
    bytes
}

fn write(body: OutgoingBody, bytes: &[u8]) {
    const PIECE_BYTES_MAX: usize = 4_096;
    if let Ok(stream) = body.write() {
        let written = bytes.chunks(PIECE_BYTES_MAX).try_for_each(|piece| stream.blocking_write_and_flush(piece));
        if let Err(StreamError::LastOperationFailed(error)) = written {
            eprintln!("{}", error.to_debug_string());
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

bindings::export!(Agent with_types_in bindings);
