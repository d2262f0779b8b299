//! `agent-host submit AGENT [BODY]`.

use std::io::Read as _;

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use super::Format;
use super::client::{Client, ClientError, is_accepted};
use super::failed::{Exit, Failed};
use super::output::Console;
use super::show::{field, print_document};
use crate::task::guessed_content_type;

/// How long the host is asked to hold one request of `--wait`; afterwards the task's events are followed.
const WAIT: &str = "wait=60";

/// `submit`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Submit {
    /// The agent's name
    agent: String,
    /// The task's body: as it stands, `@FILE` for a file's content, or `-` for standard input; empty where not given
    body: Option<String>,
    /// Wait for the result and print it as it is; the exit status is 1 where the task failed
    #[arg(long)]
    wait: bool,
    /// Media type of the body; where not given application/json for JSON, text/plain for other text
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header of the task, NAME=VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// The same key and body for the same agent are the same task
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Deliver it after this time, such as 10s
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    /// Attempts in all, instead of those of the agent's manifest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: Option<u32>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("the name may have letters, digits, '-' and '_'".to_owned());
    }
    if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err("the value may have printable ASCII characters".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn read_body(given: Option<&str>) -> Result<Bytes, Failed> {
    match given {
        None => Ok(Bytes::new()),
        Some("-") => {
            let mut body = Vec::new();
            let read = std::io::stdin().read_to_end(&mut body);
            read.map_err(|error| Failed::usage(format!("standard input cannot be read: {error}")))?;
            Ok(body.into())
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let body = std::fs::read(path).map_err(|error| Failed::usage(format!("{path}: {error}")))?;
                Ok(body.into())
            }
            None => Ok(Bytes::copy_from_slice(text.as_bytes())),
        },
    }
}

impl Submit {
    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let body = read_body(self.body.as_deref())?;
        let content_type = self.content_type.as_deref().unwrap_or_else(|| guessed_content_type(&body));
        let mut request =
            client.request(Method::POST, &["v1", "agents", &self.agent, "tasks"]).header("content-type", content_type);
        for (name, value) in &self.headers {
            request = request.header(format!("task-header-{name}"), value);
        }
        if let Some(key) = &self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(delay) = &self.delay {
            request = request.query(&[("delay", delay)]);
        }
        if let Some(attempts) = self.max_attempts {
            request = request.query(&[("max_attempts", attempts)]);
        }
        if self.wait {
            request = request.header("prefer", WAIT);
        }
        match client.send(request.body(body)).await {
            Ok(response) if !is_accepted(&response) => {
                let id = response.headers().get("task-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
                match (console.format, id) {
                    (Format::Json, Some(id)) => print_document(&client.task(&id).await?, console),
                    _ => Ok(console.raw(&client.bytes(response).await?)?),
                }
            }
            Ok(response) => {
                let body = client.bytes(response).await?;
                let accepted: Value = serde_json::from_slice(&body).unwrap_or_default();
                if self.wait {
                    follow(client, &field(&accepted, "id"), console).await
                } else {
                    accept(&accepted, console)
                }
            }
            Err(ClientError::Refused(refused)) if refused.failure.is_some() => {
                let id = refused.task_id.unwrap_or_else(|| "-".to_owned());
                if console.format == Format::Json {
                    print_document(&client.task(&id).await?, console)?;
                }
                let (kind, message) = refused.failure.map_or_else(Default::default, |why| (why.kind, why.message));
                Err(task_failed(&id, "failed", &kind, &message))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn accept(accepted: &Value, console: &mut Console<'_>) -> Result<(), Failed> {
    match console.format {
        Format::Json => console.json(accepted)?,
        // The id alone, so that a script can use it.
        Format::Text => console.text(&field(accepted, "id"))?,
    }
    Ok(())
}

async fn follow(client: &Client, id: &str, console: &mut Console<'_>) -> Result<(), Failed> {
    let task = client.ended(id).await?;
    let succeeded = task.get("status").and_then(Value::as_str) == Some("succeeded");
    if console.format == Format::Json {
        print_document(&task, console)?;
    } else if succeeded {
        let output = client.send(client.request(Method::GET, &["v1", "tasks", id, "output"])).await?;
        console.raw(&client.bytes(output).await?)?;
    }
    if succeeded {
        return Ok(());
    }
    let failure = task.get("failure").unwrap_or(&Value::Null);
    Err(task_failed(id, &field(&task, "status"), &field(failure, "type"), &field(failure, "message")))
}

fn task_failed(id: &str, status: &str, kind: &str, message: &str) -> Failed {
    Failed::new(Exit::TaskFailed, format!("task {id} {status}: {kind}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_name_and_value() {
        assert_eq!(header("a-b=c=d"), Ok(("a-b".to_owned(), "c=d".to_owned())));
        for bad in ["", "a", "=b", "a b=c", "ä=b", "a=\n"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn content_types_are_guessed_from_the_body() {
        for (body, guessed) in [
            (&b"{\"a\":1}"[..], "application/json"),
            (b"hello", "text/plain; charset=utf-8"),
            (b"\xff", "application/octet-stream"),
            (b"", "application/octet-stream"),
        ] {
            assert_eq!(guessed_content_type(body), guessed);
        }
    }
}
