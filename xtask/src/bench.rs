//! `cargo xtask bench`: the instance bench, guests that spin, then the end-to-end comparison, a backlog and starts, each on services of its own.

use std::process::Command;

use anyhow::Result;

use crate::peers::Peers;
use crate::services::Plan;
use crate::workspace::Workspace;
use crate::{agents, process, ui};

/// A bench that needs the services.
struct EndToEnd {
    title: &'static str,
    program: &'static str,
    /// Takes the arguments that were given, and the other workers.
    compares: bool,
}

const END_TO_END: [EndToEnd; 3] = [
    EndToEnd { title: "throughput: agent-host against unsandboxed workers", program: "throughput", compares: true },
    EndToEnd {
        title: "a standing backlog beside single tasks, and tasks that wait",
        program: "backlog",
        compares: false,
    },
    EndToEnd { title: "from a start to consuming, with 100 agents", program: "start", compares: false },
];

/// Runs all; `args` go to the comparison.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    // Before anything is built, which takes minutes.
    let plan = Plan::make()?;
    let peers = Peers::find(workspace)?;
    agents::build(workspace, &[])?;

    // One build for all, and the instance bench is a program like the other: as a bench target it would pull in the
    // test dependencies, with which everything would be built a second time.
    ui::step("building the host and the benchmarks with optimisation; the first time this takes a while");
    let build = ["build", "--release", "--package", "agent-host", "--package", "benchmarks", "--bins"];
    process::run("cargo build", workspace.cargo().args(build))?;

    ui::step("one instance and one call, against bare wasmtime");
    process::run("the instance bench", built(workspace, "instance").arg("--bench"))?;

    // All are run, so that one that misses its aim costs no other's figures.
    let mut failed = Vec::new();
    ui::step("short tasks beside guests that compute without end");
    note(&mut failed, process::run("spinners", &mut built(workspace, "spinners")))?;

    for bench in &END_TO_END {
        ui::step(bench.title);
        // Of its own: agents stay in a database, and every host that starts on it runs them.
        let services = plan.start(workspace)?;
        let mut command = built(workspace, bench.program);
        if bench.compares {
            command.args(args).args(peers.arguments());
        }
        services.apply(&mut command);
        note(&mut failed, process::run(bench.program, &mut command))?;
    }
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Notes a bench that failed; one that was interrupted ends all.
fn note(failed: &mut Vec<String>, ended: Result<()>) -> Result<()> {
    match ended {
        Err(error) if error.is::<process::Interrupted>() => Err(error),
        Err(error) => {
            failed.push(error.to_string());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The program itself, not `cargo run`: for the one package alone cargo would choose other features and build it anew.
fn built(workspace: &Workspace, name: &str) -> Command {
    Command::new(workspace.target.join("release").join(name))
}
