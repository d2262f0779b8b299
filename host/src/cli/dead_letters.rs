//! `dead-letters list|show|recording|redrive|drop`.

use std::path::{Path, PathBuf};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::Format;
use super::client::{Client, ClientError};
use super::failed::Failed;
use super::output::{Console, one_line, table};
use super::show::{field, print_document, shown};

/// `dead-letters`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum DeadLetters {
    /// List the tasks that failed for good, the newest first
    List {
        /// Only those of this agent
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show why a task failed, and what it was given
    Show {
        /// The task's id
        id: String,
    },
    /// Get the recording of a task's last run, for `agent-sim replay`; to standard output unless a file is named
    Recording {
        /// The task's id
        id: String,
        /// Where the recording goes
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Have tasks run again, under the same ids, from the first attempt
    Redrive(Chosen),
    /// Forget dead letters; their tasks stay failed
    Drop(Chosen),
}

/// Which dead letters are meant.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Chosen {
    /// The tasks' ids
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All of this agent that are listed now
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
}

/// What becomes of those that are chosen.
#[derive(Clone, Copy)]
enum Fate {
    Redriven,
    Dropped,
}

impl DeadLetters {
    /// Variables with the tokens that will do, apart from the admin token.
    pub(super) fn narrow_tokens(&self) -> &'static [&'static str] {
        match self {
            Self::List { .. } | Self::Show { .. } | Self::Recording { .. } => &["AGENT_HOST_READ_TOKEN"],
            Self::Redrive(_) | Self::Drop(_) => &[],
        }
    }

    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        match self {
            Self::List { agent, limit } => list(agent.as_deref(), *limit, client, console).await,
            Self::Show { id } => {
                print_document(&client.json(client.request(Method::GET, &["v1", "dead-letters", id])).await?, console)
            }
            Self::Recording { id, output } => recording(id, output.as_deref(), client, console).await,
            Self::Redrive(chosen) => chosen.become_of(Fate::Redriven, client, console).await,
            Self::Drop(chosen) => chosen.become_of(Fate::Dropped, client, console).await,
        }
    }
}

async fn recording(id: &str, output: Option<&Path>, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
    let response = client.send(client.request(Method::GET, &["v1", "dead-letters", id, "recording"])).await?;
    let recording = client.bytes(response).await?;
    match output {
        Some(path) => std::fs::write(path, &recording)
            .map_err(|error| Failed::usage(format!("{} cannot be written: {error}", path.display()))),
        None => Ok(console.raw(&recording)?),
    }
}

async fn list(agent: Option<&str>, limit: u32, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
    let query: Vec<(&str, &str)> = agent.map(|agent| ("agent", agent)).into_iter().collect();
    let items_max = usize::try_from(limit).unwrap_or(usize::MAX);
    let (letters, are_more) = client.pages(&["v1", "dead-letters"], &query, items_max).await?;
    match console.format {
        Format::Json => console.json(&letters)?,
        Format::Text => {
            let rows: Vec<_> = letters.iter().map(row).collect();
            console.text(&table(["ID", "AGENT", "FAILED", "ATTEMPTS", "TYPE", "MESSAGE"], &rows))?;
        }
    }
    if are_more {
        console.complain("there are more; --limit N lists more of them");
    } else if letters.is_empty() {
        let whose = agent.map(|agent| format!(" of agent {agent}")).unwrap_or_default();
        console.complain(&format!("there is no dead letter{whose}"));
    }
    Ok(())
}

fn row(letter: &Value) -> [String; 6] {
    let failure = letter.get("failure").unwrap_or(&Value::Null);
    [
        field(letter, "id"),
        field(letter, "agent"),
        shown(letter, "failed_at"),
        field(letter, "attempts"),
        field(failure, "type"),
        one_line(&field(failure, "message")),
    ]
}

impl Fate {
    /// What the bulk route is called.
    fn all(self) -> &'static str {
        match self {
            Self::Redriven => "dead-letters:redrive",
            Self::Dropped => "dead-letters:drop",
        }
    }

    /// As the answer to the bulk route counts it.
    fn name(self) -> &'static str {
        match self {
            Self::Redriven => "redriven",
            Self::Dropped => "dropped",
        }
    }

    fn one(self, client: &Client, id: &str) -> RequestBuilder {
        match self {
            Self::Redriven => client.request(Method::POST, &["v1", "dead-letters", id, "redrive"]),
            Self::Dropped => client.request(Method::DELETE, &["v1", "dead-letters", id]),
        }
    }

    fn print(self, count: u64, console: &mut Console<'_>) -> Result<(), Failed> {
        match (console.format, count) {
            (Format::Json, _) => console.json(&json!({ self.name(): count }))?,
            (Format::Text, 1) => console.text(&format!("1 dead letter is {}", self.name()))?,
            (Format::Text, _) => console.text(&format!("{count} dead letters are {}", self.name()))?,
        }
        Ok(())
    }
}

impl Chosen {
    async fn become_of(&self, fate: Fate, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let Some(agent) = &self.agent else {
            return self.each(fate, client, console).await;
        };
        let request = client.request(Method::POST, &["v1", fate.all()]).query(&[("agent", agent)]);
        let answer = client.json(request).await?;
        let count = answer.get(fate.name()).and_then(Value::as_u64).unwrap_or(0);
        match console.format {
            Format::Json => console.json(&answer)?,
            Format::Text => fate.print(count, console)?,
        }
        let left = left(&answer);
        if !left.is_empty() {
            return Err(Failed::usage(left.join("\n")));
        }
        if count == 0 {
            console.complain(&format!(
                "there is no dead letter of agent {agent}; `agent-host dead-letters list` lists all"
            ));
        }
        Ok(())
    }

    /// One after the other. One that is not there, or cannot run again, does not keep the others from their fate; whatever
    /// else is wrong would be wrong with the next one too.
    async fn each(&self, fate: Fate, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let mut count = 0;
        let mut left = Vec::new();
        for id in &self.ids {
            match client.send(fate.one(client, id)).await {
                Ok(_) => count += 1,
                Err(ClientError::Refused(refused)) if refused.is_about_one_dead_letter() => {
                    left.push(refused.to_string());
                }
                Err(error) => {
                    fate.print(count, console)?;
                    return Err(error.into());
                }
            }
        }
        fate.print(count, console)?;
        if left.is_empty() { Ok(()) } else { Err(Failed::usage(left.join("\n"))) }
    }
}

/// What stayed of all dead letters of an agent, and why, as the answer to the bulk route counts it.
fn left(answer: &Value) -> Vec<String> {
    let reasons = [
        ("unsendable", "too large to be sent again: `agent-host dead-letters redrive ID` says by how much"),
        ("unreadable", "written by another version of agent-host: a host of that version can redrive them"),
    ];
    let count = |name: &str| answer.get("left").and_then(|left| left.get(name)).and_then(Value::as_u64).unwrap_or(0);
    let counted = reasons.map(|(name, reason)| (count(name), reason));
    counted.into_iter().filter(|(left, _)| *left > 0).map(|(left, reason)| format!("{left} left, {reason}")).collect()
}
