//! `secrets set|list|remove`.

mod value;

use reqwest::Method;
use serde_json::{Value, json};

use super::Format;
use super::client::Client;
use super::failed::Failed;
use super::output::{Console, one_line, table};
use super::show::{field, shown};

/// `secrets`
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Secrets {
    /// Set a secret, read from standard input, for the next tasks of every host
    ///
    /// One line break at its end is not part of the value. On a terminal the value is asked for, and not shown. It is stored
    /// encrypted with the hosts' AGENT_HOST_SECRETS_KEY.
    Set {
        /// The agent, which need not be deployed yet
        agent: String,
        /// The secret's name, as the agent's manifest requires it
        name: String,
    },
    /// List an agent's secrets, those that it requires and that are not set included; never their values
    List {
        /// The agent
        agent: String,
    },
    /// Remove a stored secret; the agent's next tasks do not get it any more
    Remove {
        /// The agent
        agent: String,
        /// The secret's name
        name: String,
    },
}

impl Secrets {
    /// Variables with the tokens that will do, apart from the admin token.
    pub(super) fn narrow_tokens(&self) -> &'static [&'static str] {
        match self {
            Self::List { .. } => &["AGENT_HOST_READ_TOKEN"],
            Self::Set { .. } | Self::Remove { .. } => &[],
        }
    }

    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        match self {
            Self::Set { agent, name } => {
                let value = value::read(agent, name, console).await?;
                set(agent, name, value, client, console).await
            }
            Self::List { agent } => list(agent, client, console).await,
            Self::Remove { agent, name } => {
                client.send(client.request(Method::DELETE, &["v1", "agents", agent, "secrets", name])).await?;
                match console.format {
                    Format::Json => Ok(console.json(&json!({"agent": agent, "name": name, "status": "removed"}))?),
                    Format::Text => Ok(console.text(&format!("secret {name} of {agent} is removed"))?),
                }
            }
        }
    }
}

async fn set(
    agent: &str,
    name: &str,
    value: value::Read,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<(), Failed> {
    let request = client
        .request(Method::PUT, &["v1", "agents", agent, "secrets", name])
        .header("content-type", "text/plain; charset=utf-8")
        .body(value.to_vec());
    let answer = client.json(request).await?;
    match console.format {
        Format::Json => console.json(&answer)?,
        Format::Text => console.text(&format!("secret {name} of {agent} is {}", field(&answer, "status")))?,
    }
    if let Some(variable) = answer.get("hidden_by").and_then(Value::as_str) {
        console
            .complain(&format!("tasks on this host still get that of the variable {variable}, which wins: unset it"));
    }
    if answer.get("deployed") == Some(&Value::Bool(false)) {
        console.complain(&format!("no agent {agent} is deployed on this host; it gets the secret once it is"));
    }
    Ok(())
}

async fn list(agent: &str, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
    let answer = client.json(client.request(Method::GET, &["v1", "agents", agent, "secrets"])).await?;
    let secrets = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    if console.format == Format::Json {
        return Ok(console.json(&secrets)?);
    }
    let row = |secret: &Value| {
        [
            field(secret, "name"),
            source(secret),
            field(secret, "required"),
            shown(secret, "set_at"),
            field(secret, "set_by"),
            field(secret, "key"),
        ]
    };
    let rows: Vec<_> = secrets.iter().map(row).collect();
    console.text(&table(["NAME", "SOURCE", "REQUIRED", "SET", "BY", "KEY"], &rows))?;
    for secret in &secrets {
        let name = field(secret, "name");
        if let Some(problem) = secret.get("problem").and_then(Value::as_str) {
            console.complain(&format!("{name}: {}", one_line(problem)));
        } else if secret.get("source") == Some(&Value::Null) {
            let variable = field(secret, "variable");
            console.complain(&format!("{name} is not set: agent-host secrets set {agent} {name}, or {variable}"));
        }
    }
    if secrets.is_empty() {
        console.complain(&format!("{agent} requires no secret, and none is stored for it"));
    }
    Ok(())
}

/// Where tasks get it from.
fn source(secret: &Value) -> String {
    match secret.get("source").and_then(Value::as_str) {
        Some("variable") => field(secret, "variable"),
        Some(source) => source.to_owned(),
        None => "not set".to_owned(),
    }
}
