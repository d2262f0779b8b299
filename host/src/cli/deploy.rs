//! `agent-host deploy PATH`.

use std::path::PathBuf;

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use super::Format;
use super::client::Client;
use super::failed::Failed;
use super::output::Console;
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
        let response = client.send(request).await?;
        let unchanged = response.status() == reqwest::StatusCode::OK;
        let body = client.bytes(response).await?;
        let deployed: Value = serde_json::from_slice(&body).unwrap_or_default();
        if console.format == Format::Json {
            return Ok(console.json(&deployed)?);
        }
        let (revision, digest) = (field(&deployed, "revision"), field(&deployed, "digest"));
        let what = if unchanged { "is deployed already as" } else { "is deployed as" };
        let status = field(&deployed, "status");
        Ok(console.text(&format!("{agent} {what} revision {revision} ({status}), {digest}"))?)
    }
}
