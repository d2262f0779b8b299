//! `cargo xtask bench`: the instance bench, then the end-to-end comparison, a backlog and starts on real services.

use std::process::Command;

use anyhow::Result;

use crate::services::Plan;
use crate::workspace::Workspace;
use crate::{agents, process, ui};

/// Runs all; `args` go to the comparison.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    // Before anything is built, which takes minutes.
    let services = Plan::make()?;
    agents::build(workspace, &[])?;

    // One build for all, and the instance bench is a program like the other: as a bench target it would pull in the
    // test dependencies, with which everything would be built a second time.
    ui::step("building the host and the benchmarks with optimisation; the first time this takes a while");
    let build = ["build", "--release", "--package", "agent-host", "--package", "benchmarks", "--bins"];
    process::run("cargo build", workspace.cargo().args(build))?;

    ui::step("one instance and one call, against bare wasmtime");
    process::run("the instance bench", built(workspace, "instance").arg("--bench"))?;

    ui::step("starting the services");
    let services = services.start(workspace)?;
    ui::step("throughput: agent-host against a bare consumer");
    let mut command = built(workspace, "throughput");
    command.args(args);
    services.apply(&mut command);
    process::run("the throughput comparison", &mut command)?;

    ui::step("a standing backlog beside single tasks, and tasks that wait");
    let mut command = built(workspace, "backlog");
    services.apply(&mut command);
    process::run("the backlog bench", &mut command)?;

    // Last: its 100 agents stay in the database, and every host that starts after it runs them too.
    ui::step("from a start to consuming, with 100 agents");
    let mut start = built(workspace, "start");
    services.apply(&mut start);
    process::run("the start bench", &mut start)
}

/// The program itself, not `cargo run`: for the one package alone cargo would choose other features and build it anew.
fn built(workspace: &Workspace, name: &str) -> Command {
    Command::new(workspace.target.join("release").join(name))
}
