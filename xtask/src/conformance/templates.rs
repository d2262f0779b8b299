//! What a newcomer does with each template: makes an agent in an empty folder, builds it, tests it, deploys it to a host and
//! hands it a task.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::tools::Tools;
use crate::client::Client;
use crate::host::Host;
use crate::workspace::Workspace;
use crate::{process, ui};

/// A template, and what brings its tools.
const TEMPLATES: [(&str, &[&str]); 5] = [
    ("rust", &[]),
    ("js", &["npm", "install", "--silent", "--no-audit", "--no-fund"]),
    ("python", &[]),
    ("c", &[]),
    ("go", &[]),
];

/// Goes through all of them.
pub(super) fn run(workspace: &Workspace, tools: &Tools) -> Result<()> {
    ui::step("each template: made, built, tested, deployed and run");
    let folder = tempfile::Builder::new().prefix("agents-").tempdir().context("could not make a temporary folder")?;
    let mut host = Host::embedded(workspace)?;
    let client = Client::new(host.address());
    host.await_ready(&client)?;
    let url = format!("http://{}", host.address());
    for (template, prepare) in TEMPLATES {
        let made = template_works(workspace, tools, folder.path(), (template, prepare), &url);
        made.with_context(|| format!("the template {template}"))?;
        ui::say(&format!("{template} works"));
    }
    host.stop()
}

fn template_works(
    workspace: &Workspace,
    tools: &Tools,
    folder: &Path,
    (template, prepare): (&str, &[&str]),
    url: &str,
) -> Result<()> {
    let name = format!("greet-{template}");
    let agent = folder.join(&name);
    let within = |place: &Path, line: &[&str]| -> Result<Vec<u8>> {
        let (program, args) = line.split_first().context("an empty line")?;
        // A newcomer has no other folder for what cargo makes.
        let mut command = tools.command(program);
        process::output(program, command.env_remove("CARGO_TARGET_DIR").current_dir(place).args(args))
    };
    let sdk = workspace.root.join("agent-sdk");
    let sdk = sdk.to_str().context("the workspace's path is no UTF-8")?;
    within(folder, &["agent-host", "new", "-t", template, "--sdk", sdk, &name])?;
    if !prepare.is_empty() {
        within(&agent, prepare)?;
    }
    within(&agent, &["agent-host", "build"])?;
    within(&agent, &["agent-sim", "test", "scenarios"])?;
    within(&agent, &["agent-host", "--url", url, "deploy", "."])?;
    let answer = within(&agent, &["agent-host", "--url", url, "submit", &name, r#"{"name":"Ada"}"#, "--wait"])?;
    let answer: serde_json::Value = serde_json::from_slice(&answer).context("the agent's answer is no JSON")?;
    ensure!(answer == serde_json::json!({ "greeting": "Hello, Ada!" }), "it answered {answer}");
    Ok(())
}
