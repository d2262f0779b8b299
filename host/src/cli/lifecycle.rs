//! `rollback`, `traffic`, `agents pause|resume|remove`, `events`.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use super::Format;
use super::client::Client;
use super::failed::Failed;
use super::output::{Console, table};
use super::show::{field, shown};

/// Events that are printed where no limit is given.
const EVENTS_DEFAULT: usize = 20;

/// `rollback`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Rollback {
    /// The agent
    agent: String,
    /// The revision that new tasks go to; without it, the one that was active before
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

/// `traffic`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Traffic {
    /// The agent
    agent: String,
    /// Percent of new tasks by revision, such as 3=90 4=10; together 100
    #[arg(required = true, value_name = "REVISION=PERCENT", value_parser = weight)]
    weights: Vec<(u64, u32)>,
}

/// `events`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Events {
    /// Only of this agent
    #[arg(long)]
    agent: Option<String>,
    /// Most of them
    #[arg(long, default_value_t = EVENTS_DEFAULT)]
    limit: usize,
}

fn weight(text: &str) -> Result<(u64, u32), String> {
    let expected = || format!("{text:?}: expected REVISION=PERCENT, such as 4=10");
    let (revision, percent) = text.split_once('=').ok_or_else(expected)?;
    Ok((revision.parse().map_err(|_| expected())?, percent.parse().map_err(|_| expected())?))
}

impl Rollback {
    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let body = self.revision.map_or_else(|| json!({}), |revision| json!({ "revision": revision }));
        let request = client.request(Method::POST, &["v1", "agents", &self.agent, "rollback"]).json(&body);
        print_agent(&client.json(request).await?, console)
    }
}

impl Traffic {
    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let mut weights = BTreeMap::new();
        for (revision, percent) in &self.weights {
            if weights.insert(revision.to_string(), *percent).is_some() {
                return Err(Failed::usage(format!("revision {revision} is named twice")));
            }
        }
        let request = client.request(Method::PUT, &["v1", "agents", &self.agent, "traffic"]).json(&weights);
        print_agent(&client.json(request).await?, console)
    }
}

impl Events {
    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let query: Vec<_> = self.agent.iter().map(|agent| ("agent", agent.as_str())).collect();
        let (events, _) = client.pages(&["v1", "events"], &query, self.limit).await?;
        if console.format == Format::Json {
            return Ok(console.json(&events)?);
        }
        let columns = ["at", "action", "agent", "actor", "detail"];
        let rows: Vec<_> = events.iter().map(|event| columns.map(|column| shown(event, column))).collect();
        Ok(console.text(&table(["AT", "ACTION", "AGENT", "BY", "DETAIL"], &rows))?)
    }
}

/// `agents pause` and `agents resume`.
pub(super) async fn change(agent: &str, verb: &str, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
    print_agent(&client.json(client.request(Method::POST, &["v1", "agents", agent, verb])).await?, console)
}

/// `agents remove`.
pub(super) async fn remove(agent: &str, force: bool, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
    let mut request = client.request(Method::DELETE, &["v1", "agents", agent]);
    if force {
        request = request.query(&[("force", "true")]);
    }
    client.send(request).await?;
    match console.format {
        Format::Json => Ok(console.json(&json!({ "agent": agent, "status": "removed" }))?),
        Format::Text => Ok(console.text(&format!("{agent} is removed"))?),
    }
}

/// How an agent is after a change, on one line.
fn print_agent(agent: &Value, console: &mut Console<'_>) -> Result<(), Failed> {
    if console.format == Format::Json {
        return Ok(console.json(agent)?);
    }
    let traffic = agent.get("traffic").and_then(Value::as_object).into_iter().flatten();
    let parts: Vec<_> = traffic.map(|(revision, percent)| format!("revision {revision}: {percent} %")).collect();
    let (name, state) = (field(agent, "name"), field(agent, "state"));
    Ok(console.text(&format!("{name} is {state}; new tasks go to {}", parts.join(", ")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read() {
        assert_eq!(weight("4=10"), Ok((4, 10)));
        for wrong in ["4", "4=", "=10", "a=10", "4=10%", "-1=10"] {
            assert!(weight(wrong).is_err(), "{wrong}");
        }
    }
}
