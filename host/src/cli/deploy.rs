//! `agent-host deploy PATH`, and `agent-host deploy oci://…`.

use std::path::PathBuf;

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use super::Format;
use super::client::Client;
use super::converge::{self, Wait};
use super::failed::Failed;
use super::output::{Console, one_line};
use super::registry::{Pulled, SCHEME, Transport};
use super::show::field;
use crate::agents::Upload;
use crate::package::{self, MANIFEST_NAME, Package};
use crate::task::AgentName;

/// `deploy`
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Deploy {
    /// The agent's folder, or its agent.toml, or an image with its digest: oci://REGISTRY/REPOSITORY@sha256:…
    #[arg(value_name = "PATH|oci://…")]
    path: PathBuf,
    /// A signature of the module, as `cosign sign-blob` writes it; the file MODULE.sig beside the module is taken by itself
    #[arg(long, value_name = "FILE")]
    signature: Vec<PathBuf>,
    /// The agent.toml of an image that holds none, or another one than it holds
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    transport: Transport,
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

    /// What is to be deployed, from wherever it is.
    async fn read(&self, console: &mut Console<'_>) -> Result<(AgentName, Upload), Failed> {
        let image = self.path.to_str().filter(|path| path.starts_with(SCHEME));
        let (manifest, mut upload) = match image {
            Some(image) => {
                let pulled = Pulled::from(image, self.transport, self.manifest.as_deref(), console).await?;
                (pulled.manifest, pulled.upload)
            }
            None if self.manifest.is_some() => {
                return Err(Failed::usage("--manifest goes with an image: a folder has its own agent.toml"));
            }
            None => {
                self.check_not_a_folder_of_agents()?;
                let package = Package::read(&self.path)?;
                (package.manifest, package.upload)
            }
        };
        for path in &self.signature {
            let missing = || Failed::usage(format!("{}: there is no such file", path.display()));
            upload.signatures.insert(0, package::read_signature(path)?.ok_or_else(missing)?);
        }
        Ok((manifest.agent.name, upload))
    }

    pub(super) async fn run(&self, client: &Client, console: &mut Console<'_>) -> Result<(), Failed> {
        let (agent, upload) = self.read(console).await?;
        let agent = agent.as_str();
        let mut form = Form::new()
            .part("module", Part::stream(upload.module).file_name("module.wasm"))
            .text("manifest", upload.manifest);
        for migration in upload.migrations {
            form = form.part("migration", Part::text(migration.sql).file_name(migration.name));
        }
        for signature in upload.signatures {
            form = form.text("signature", signature.to_text());
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
            let signed = deployed.get("signed_by").and_then(Value::as_str);
            let signed = signed.map_or(String::new(), |key| format!(", signed by {}", one_line(key)));
            console.line(&format!("{agent} {what} revision {revision} ({status}), {digest}{signed}"))?;
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
