//! `cargo xtask bench`: the criterion benches, then the end-to-end comparison on real services.

use anyhow::Result;

use crate::services::Services;
use crate::workspace::Workspace;
use crate::{agents, process, ui};

/// Runs both; `args` go to the comparison.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    agents::build(workspace, &[])?;

    ui::step("benches: one instance and one call, against bare wasmtime");
    process::run("cargo bench", workspace.cargo().args(["bench", "--package", "benchmarks"]))?;

    ui::step("building the host and the throughput comparison");
    process::run(
        "cargo build",
        workspace.cargo().args(["build", "--release", "--package", "agent-host", "--package", "benchmarks", "--bins"]),
    )?;
    ui::step("starting the services");
    let services = Services::start(workspace)?;
    ui::step("throughput: agent-host against a bare consumer");
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--release", "--package", "benchmarks", "--bin", "throughput", "--"]).args(args);
    services.apply(&mut command);
    process::run("the throughput comparison", &mut command)
}
