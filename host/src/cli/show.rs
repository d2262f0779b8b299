//! `agents`, `config show`, and how documents are printed.

use reqwest::Method;
use serde_json::Value;

use super::client::Client;
use super::failed::{Exit, Failed};
use super::output::{Console, table};
use super::{ConfigFlags, Format, lifecycle};
use crate::config::Config;

/// `agents`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Agents {
    /// List the deployed agents
    List,
    /// Show one of them
    Show {
        /// Its name
        agent: String,
    },
    /// Stop consuming an agent's queue; its tasks wait
    Pause {
        /// Its name
        agent: String,
    },
    /// Consume a paused agent's queue again
    Resume {
        /// Its name
        agent: String,
    },
    /// Remove an agent for which no tasks wait
    Remove {
        /// Its name
        agent: String,
        /// Also where tasks wait: they stay in its queue, and run if it is deployed again
        #[arg(long)]
        force: bool,
    },
}

/// A field of a document as text; `-` where it is null or not there.
pub(super) fn field(document: &Value, name: &str) -> String {
    match document.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

impl Agents {
    /// The tokens that will do, where one does that is narrower than the admin's.
    pub(super) fn narrow_tokens(&self) -> &'static [&'static str] {
        match self {
            Self::List | Self::Show { .. } => &["AGENT_HOST_READ_TOKEN"],
            Self::Pause { .. } | Self::Resume { .. } | Self::Remove { .. } => &[],
        }
    }

    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        match self {
            Self::List => {
                let agents = client.agents().await?;
                if console.format == Format::Json {
                    return Ok(console.json(&agents)?);
                }
                if agents.is_empty() {
                    console.complain("no agent is deployed; deploy one with `agent-host deploy PATH`");
                }
                let columns = ["name", "revision", "state", "running", "queue_depth", "dead_letters", "description"];
                let rows: Vec<_> = agents.iter().map(|agent| columns.map(|column| field(agent, column))).collect();
                let headings = ["NAME", "REVISION", "STATE", "RUNNING", "QUEUED", "DEAD", "DESCRIPTION"];
                Ok(console.text(&table(headings, &rows))?)
            }
            Self::Show { agent } => {
                let document = client.json(client.request(Method::GET, &["v1", "agents", agent])).await?;
                print_document(&document, console)
            }
            Self::Pause { agent } => lifecycle::change(agent, "pause", client, console).await,
            Self::Resume { agent } => lifecycle::change(agent, "resume", client, console).await,
            Self::Remove { agent, force } => lifecycle::remove(agent, *force, client, console).await,
        }
    }
}

/// A document as it is, or for people one field a line; what is null is left out.
pub(super) fn print_document(document: &Value, console: &mut Console<'_>) -> Result<(), Failed> {
    if console.format == Format::Json {
        return Ok(console.json(document)?);
    }
    let mut text = String::new();
    lines(document, true, 0, &mut text);
    Ok(console.text(&text)?)
}

/// What people look for first; the rest follows in the order of the alphabet.
const FIRST: [&str; 13] = [
    "id",
    "name",
    "agent",
    "revision",
    "status",
    "attempt",
    "attempts",
    "enqueued_at",
    "started_at",
    "finished_at",
    "failed_at",
    "output",
    "failure",
];

/// Fields of the host's documents that are points in time, in Unix milliseconds.
const TIMES: [&str; 7] = ["enqueued_at", "started_at", "finished_at", "failed_at", "created_at", "set_at", "at"];

/// Fields whose content is not the host's: an agent's output, and what a sender gave a task.
const STRANGERS: [&str; 3] = ["output", "headers", "body"];

/// A field for people: times as such.
pub(super) fn shown(document: &Value, name: &str) -> String {
    let time = TIMES.contains(&name).then(|| document.get(name)?.as_i64()).flatten();
    match time.and_then(chrono::DateTime::from_timestamp_millis) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        None => field(document, name),
    }
}

/// `ours` tells the host's own fields, whose meaning is known, from those of agents and senders.
fn lines(document: &Value, ours: bool, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match document {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            if ours {
                fields.sort_by_key(|(name, _)| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
            }
            for (name, value) in fields {
                if value.is_object() || value.is_array() {
                    text.push_str(&format!("{indent}{name}:\n"));
                    lines(value, ours && !STRANGERS.contains(&name.as_str()), depth + 1, text);
                } else {
                    let value = if ours { shown(document, name) } else { field(document, name) };
                    text.push_str(&format!("{indent}{name}: {value}\n"));
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut below = String::new();
                lines(item, ours, depth + 1, &mut below);
                // The dash stands where the first line's last indentation was.
                let first = below.trim_start();
                text.push_str(&format!("{indent}- {first}"));
            }
        }
        scalar => {
            text.push_str(&format!("{indent}{}\n", scalar.as_str().map_or_else(|| scalar.to_string(), str::to_owned)));
        }
    }
}

/// `config show`: prints the settings even where they are wrong, and then says so.
pub(super) fn config(flags: &ConfigFlags, console: &mut Console<'_>) -> Result<(), Failed> {
    let (settings, errors) = Config::show(flags.file.as_deref(), console.vars, &flags.values);
    match console.format {
        Format::Json => console.json(&settings)?,
        Format::Text => {
            let row = |setting: &crate::config::Setting| {
                let value = setting.value.clone().unwrap_or_else(|| "-".to_owned());
                [setting.name.to_owned(), value, setting.source.to_string()]
            };
            let rows: Vec<_> = settings.iter().map(row).collect();
            console.text(&table(["SETTING", "VALUE", "SOURCE"], &rows))?;
        }
    }
    errors.map_or(Ok(()), |errors| Err(Failed::new(Exit::Usage, errors.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_printed_a_field_a_line() {
        let document = serde_json::json!({
            "z": [{"b": 1, "status": "on"}, 2], "id": "x", "none": null, "nested": {"text": "a b"}, "empty": [],
        });
        let mut text = String::new();
        lines(&document, true, 0, &mut text);
        assert_eq!(text, "id: x\nempty:\nnested:\n  text: a b\nz:\n  - status: on\n    b: 1\n  - 2\n");
    }

    #[test]
    fn times_are_shown_as_such_except_in_what_an_agent_said() {
        let document = serde_json::json!({
            "finished_at": 1_795_442_888_559_i64, "enqueued_at": 1_795_442_888_548_i64, "status": "succeeded",
            "output": {"created_at": 1, "status": "x"}, "usage": {"cpu_us": 2}, "failed_at": 0,
            "body": {"failed_at": 1},
        });
        let mut text = String::new();
        lines(&document, true, 0, &mut text);
        let expected = "status: succeeded\nenqueued_at: 2026-11-23T14:08:08.548Z\nfinished_at: 2026-11-23T14:08:08.559Z\n\
                        failed_at: 1970-01-01T00:00:00.000Z\noutput:\n  created_at: 1\n  status: x\nbody:\n  failed_at: 1\n\
                        usage:\n  cpu_us: 2\n";
        assert_eq!(text, expected);
    }
}
