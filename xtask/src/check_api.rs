//! `cargo xtask check-api`: schemathesis asks a running host for everything that its OpenAPI document allows, and for what it
//! does not, and compares the answers with the document: no status of 5xx, no undocumented status, body or header; and what the
//! document does not allow is refused.
//!
//! The same is asked each time. What ends with its client alone is left out: event streams.

use std::process::Command;

use anyhow::{Context, Result};

use crate::client::Client;
use crate::host::Host;
use crate::workspace::Workspace;
use crate::{agents, process, python, services, ui};

/// The version whose checks were seen to pass.
const PACKAGE: &str = "schemathesis==4.32.5";
/// Requests made up for each operation, beside those that try every bound of it: half a minute in all.
const EXAMPLES: &str = "25";
/// A submission may ask to wait for its result, and waits for a minute at most.
const REQUEST_SECONDS_MAX: &str = "70";

/// Runs the check.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    services::require_postgres()?;
    let program = python::program(workspace, "schemathesis", &[PACKAGE], |command| {
        process::output("schemathesis", command.arg("--version")).is_ok_and(|said| {
            PACKAGE.ends_with(String::from_utf8_lossy(&said).rsplit(' ').next().unwrap_or("?").trim())
        })
    })?;
    agents::build(workspace, &[])?;

    ui::step("building the host");
    process::run("cargo build", workspace.cargo().args(["build", "--workspace", "--bin", "agent-host"]))?;

    ui::step("starting the host: broker, cache and database embedded");
    let mut host = Host::embedded(workspace)?;
    host.await_ready(&Client::new(host.address()))?;

    ui::step("asking for everything");
    let own = workspace.own_folder()?.join("schemathesis");
    std::fs::create_dir_all(&own).with_context(|| format!("could not make {}", own.display()))?;
    let serializers = own.join("serializers.py");
    std::fs::write(&serializers, include_str!("check_api/serializers.py"))
        .with_context(|| format!("could not write {}", serializers.display()))?;
    let mut command = Command::new(program);
    command
        .current_dir(&own)
        .env("PYTHONPATH", &own)
        .env("SCHEMATHESIS_HOOKS", "serializers")
        .arg("run")
        .arg(format!("http://{}/openapi.json", host.address()))
        .args(["--exclude-path", "/v1/live", "--exclude-path", "/v1/tasks/{id}/events"])
        .args(["--phases", "coverage,fuzzing,stateful"])
        // Names that a document cannot tell from good ones are refused, and should be.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--generation-deterministic", "--max-examples", EXAMPLES])
        .args(["--request-timeout", REQUEST_SECONDS_MAX, "--continue-on-failure", "--no-color"]);
    process::run("schemathesis", &mut command)?;
    host.check_alive()?;
    host.stop()?;
    ui::step("every answer is as documented");
    Ok(())
}
