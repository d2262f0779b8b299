//! `agents list|show`, `tasks show`, `config show`.

use reqwest::Method;
use serde_json::Value;

use super::client::Client;
use super::failed::{Exit, Failed};
use super::output::{Console, table};
use super::{ConfigFlags, Format};
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
}

/// `tasks`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Tasks {
    /// Show what is known about a task
    Show {
        /// Its id
        id: String,
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
    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        match self {
            Self::List => {
                let agents = client.agents().await?;
                if console.format == Format::Json {
                    return Ok(console.json(&agents)?);
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
        }
    }
}

impl Tasks {
    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let Self::Show { id } = self;
        print_document(&client.task(id).await?, console)
    }
}

/// A document as it is, or for people one field a line; what is null is left out.
pub(super) fn print_document(document: &Value, console: &mut Console<'_>) -> Result<(), Failed> {
    if console.format == Format::Json {
        return Ok(console.json(document)?);
    }
    let mut text = String::new();
    lines(document, 0, &mut text);
    Ok(console.text(&text)?)
}

fn lines(document: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let fields: Vec<(String, &Value)> = match document {
        Value::Object(fields) => fields.iter().map(|(name, value)| (format!("{name}:"), value)).collect(),
        Value::Array(items) => items.iter().map(|item| ("-".to_owned(), item)).collect(),
        _ => return,
    };
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::Object(_) | Value::Array(_) => {
                text.push_str(&format!("{indent}{name}\n"));
                lines(value, depth + 1, text);
            }
            Value::String(value) => text.push_str(&format!("{indent}{name} {value}\n")),
            value => text.push_str(&format!("{indent}{name} {value}\n")),
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
