//! `cargo xtask demo`: the main job from nothing. Builds everything, starts a host with its embedded broker, cache and
//! private PostgreSQL, deploys the sample agents, runs a few hundred tasks through the HTTP API and prints what ran.
//!
//! Contract: installs PostgreSQL where that is ours to do, or else names it before anything is built. Exits 0 only if
//! every task ended as planned and the host drained and exited 0.

mod report;
mod run;
mod work;

use anyhow::{Result, ensure};

use crate::client::Client;
use crate::host::Host;
use crate::workspace::Workspace;
use crate::{agents, process, services, ui};

use report::Report;

/// Runs the demo.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    // Before anything is built, which takes minutes.
    services::require_postgres()?;
    agents::build(workspace, &[])?;

    ui::step("building the host (the first time takes some minutes: it brings a compiler for WebAssembly)");
    process::run("cargo build", workspace.cargo().args(["build", "--package", "agent-host"]))?;

    ui::step("starting the host: broker, cache and database embedded");
    let mut host = Host::embedded(workspace)?;
    let client = Client::new(host.address());
    host.await_ready(&client)?;
    ui::say(&format!("ready on http://{}, agents: {}", host.address(), client.agents()?.join(", ")));

    let mut report = Report::default();
    for stage in work::stages() {
        ui::step(stage.title);
        run::stage(&client, &mut host, &stage, &mut report)?;
    }
    ui::step(&report.headline());
    eprintln!("\n{}\n", report.table());
    ui::say(&format!(
        "p50 and p95: from handing in to result, as {} callers side by side saw it; peak memory: of one instance",
        run::CALLERS
    ));
    report.print_problems();

    ui::step("stopping the host");
    host.stop()?;
    ensure!(report.all_as_planned(), "not every task ended as planned; see above");
    try_next(workspace);
    Ok(())
}

fn try_next(workspace: &Workspace) {
    let program = workspace.target.join("debug/agent-host");
    let program = program.strip_prefix(&workspace.root).unwrap_or(&program).display();
    ui::step("done. To try next:");
    for (what, line) in [
        (
            "a host to play with",
            format!(
                "AMQP_URL=embedded DATABASE_URL=embedded REDIS_URL=embedded AGENT_HOST_AGENTS_DIR=agents {program} serve"
            ),
        ),
        ("  then, elsewhere", format!("{program} submit echo hello --wait")),
        ("  what is deployed", format!("{program} agents list")),
        ("every test, on real servers", "cargo xtask test".to_owned()),
        ("real servers for your own use", "cargo xtask services".to_owned()),
    ] {
        ui::say(&format!("{what:<30} {line}"));
    }
}
