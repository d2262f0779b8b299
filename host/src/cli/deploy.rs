//! `agent-host deploy PATH`.

use std::path::PathBuf;

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use super::Format;
use super::client::Client;
use super::converge::{self, Wait};
use super::failed::Failed;
use super::output::{Console, one_line};
use super::show::field;
use crate::package::{self, MANIFEST_NAME, Package};

/// `deploy`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Deploy {
    /// The agent's folder, or its agent.toml
    path: PathBuf,
    /// Add the revision, and leave new tasks on the one that they go to now
    #[arg(long)]
    no_activate: bool,
    /// Check it and print what would change, and change nothing
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    wait: Wait,
}

impl Deploy {
    fn check_not_a_folder_of_agents(&self) -> Result<(), Failed> {
        if !self.path.is_dir() || self.path.join(MANIFEST_NAME).exists() {
            return Ok(());
        }
        let agents: Vec<_> = package::find(&self.path)?.iter().map(|path| path.display().to_string()).collect();
        if agents.is_empty() {
            return Ok(());
        }
        let (path, agents) = (self.path.display(), agents.join(", "));
        Err(Failed::usage(format!("{path} has no {MANIFEST_NAME}, but agents below it; deploy one of them: {agents}")))
    }

    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        self.check_not_a_folder_of_agents()?;
        let package = Package::read(&self.path)?;
        let agent = package.manifest.agent.name.as_str();
        let mut form = Form::new()
            .part("module", Part::stream(package.upload.module).file_name("module.wasm"))
            .text("manifest", package.upload.manifest);
        for migration in package.upload.migrations {
            form = form.part("migration", Part::text(migration.sql).file_name(migration.name));
        }
        let mut request = client.request(Method::POST, &["v1", "agents", agent, "revisions"]).multipart(form);
        if self.no_activate {
            request = request.query(&[("activate", "false")]);
        }
        if self.plan {
            return print_plan(&client.json(request.query(&[("plan", "true")])).await?, console);
        }
        let response = client.send(request).await?;
        let unchanged = response.status() == reqwest::StatusCode::OK;
        let body = client.bytes(response).await?;
        let mut deployed: Value = serde_json::from_slice(&body).unwrap_or_default();
        let status = field(&deployed, "status");
        if console.format == Format::Text {
            let (revision, digest) = (field(&deployed, "revision"), field(&deployed, "digest"));
            let what = if unchanged { "is deployed already as" } else { "is deployed as" };
            console.line(&format!("{agent} {what} revision {revision} ({status}), {digest}"))?;
        }
        // Where new tasks stay where they are, no host has anything to follow.
        let followed =
            if status == "active" { self.wait.until_followed(agent, client, console).await } else { Ok(None) };
        if console.format == Format::Json {
            converge::add_hosts(&mut deployed, &followed);
            console.json(&deployed)?;
        }
        followed.map(drop).map_err(Failed::from)
    }
}

fn print_plan(plan: &Value, console: &mut Console<'_>) -> Result<(), Failed> {
    if console.format == Format::Json {
        return Ok(console.json(plan)?);
    }
    let mut text = String::new();
    match (plan.get("active").and_then(Value::as_u64), plan.get("known").and_then(Value::as_u64)) {
        (None, _) => text.push_str("nothing is deployed under this name yet\n"),
        (Some(active), Some(known)) if active == known => text.push_str(&format!("revision {active} is this one\n")),
        (Some(active), Some(known)) => text.push_str(&format!("revision {known} would follow on {active} again\n")),
        (Some(active), None) => text.push_str(&format!("a new revision would follow on {active}\n")),
    }
    for difference in plan.get("differences").and_then(Value::as_array).into_iter().flatten() {
        let (what, from, to) = (field(difference, "what"), field(difference, "from"), field(difference, "to"));
        match (difference.get("from"), difference.get("to")) {
            (Some(Value::Null) | None, _) => text.push_str(&format!("+ {what}: {}\n", one_line(&to))),
            (_, Some(Value::Null) | None) => text.push_str(&format!("- {what}: {}\n", one_line(&from))),
            _ => text.push_str(&format!("~ {what}: {} -> {}\n", one_line(&from), one_line(&to))),
        }
    }
    Ok(console.text(&text)?)
}
