//! `cargo xtask bench`: every benchmark, each that needs servers on servers of its own, and the targets at the end.

mod targets;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::peers::Peers;
use crate::services::Plan;
use crate::workspace::Workspace;
use crate::{agents, process, ui};

use targets::Figures;

/// A program of the benchmarks.
struct Bench {
    program: &'static str,
    title: &'static str,
    needs: Needs,
}

/// What it needs beside the host and the agents.
#[derive(PartialEq)]
enum Needs {
    Nothing,
    Services,
    /// Services and the workers in other languages; takes the arguments that were given.
    Peers,
}

const BENCHES: [Bench; 10] = [
    Bench { program: "instance", title: "one instance and one call, against bare wasmtime", needs: Needs::Nothing },
    Bench { program: "settings", title: "what the engine's settings are worth", needs: Needs::Nothing },
    Bench { program: "spinners", title: "short tasks beside guests that compute without end", needs: Needs::Nothing },
    Bench { program: "http", title: "HTTP with a wait, against what wasmtime serve does", needs: Needs::Nothing },
    Bench { program: "throughput", title: "tasks per second, against unsandboxed workers", needs: Needs::Peers },
    Bench { program: "capability", title: "calls of an agent, against native clients", needs: Needs::Services },
    Bench {
        program: "backlog",
        title: "a standing backlog beside single tasks, and tasks that wait",
        needs: Needs::Services,
    },
    Bench { program: "start", title: "from a start to consuming, with 100 agents", needs: Needs::Services },
    Bench { program: "deploy", title: "from a deploy, and from a start, to the first result", needs: Needs::Services },
    Bench {
        program: "growth",
        title: "more tasks at once, larger bodies, more instances, more agents",
        needs: Needs::Services,
    },
];

/// Runs those that are named, or all; `args` go to the comparison of throughput.
pub(crate) fn run(workspace: &Workspace, names: &[String], args: &[String]) -> Result<()> {
    let benches = chosen(names)?;
    // Before anything is built, which takes minutes.
    let plan = if benches.iter().any(|one| one.needs != Needs::Nothing) { Some(Plan::make()?) } else { None };
    let peers = if benches.iter().any(|one| one.needs == Needs::Peers) { Some(Peers::find(workspace)?) } else { None };
    agents::build(workspace, &[])?;

    // One build for all, and each is a program like the host: as bench targets they would pull in the test dependencies, with
    // which everything would be built a second time.
    ui::step("building the host and the benchmarks with optimisation; the first time this takes a while");
    let build = ["build", "--release", "--package", "agent-host", "--package", "benchmarks", "--bins"];
    process::run("cargo build", workspace.cargo().args(build))?;

    let figures = workspace.own_folder()?.join("bench-figures.txt");
    std::fs::write(&figures, "").with_context(|| format!("could not write {}", figures.display()))?;
    // All are run, so that one that misses its aim costs no other's figures.
    let mut failed = Vec::new();
    for bench in &benches {
        ui::step(bench.title);
        let mut command = built(workspace, bench.program, &figures);
        if bench.program == "instance" {
            command.arg("--bench");
        }
        if let Some(peers) = peers.as_ref().filter(|_| bench.needs == Needs::Peers) {
            command.args(args).args(peers.arguments());
        }
        // Of its own: agents stay in a database, and every host that starts on it runs them.
        let services = match &plan {
            Some(plan) if bench.needs != Needs::Nothing => Some(plan.start(workspace)?),
            _ => None,
        };
        if let Some(services) = &services {
            services.apply(&mut command);
        }
        note(&mut failed, process::run(bench.program, &mut command))?;
    }

    ui::step("the targets");
    let missed = targets::print(&workspace.root.join("benchmarks/results"), &Figures::read(&figures)?)?;
    failed.extend(missed.iter().map(|what| format!("target missed: {what}")));
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// The benches that were named, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static Bench>> {
    if let Some(unknown) = names.iter().find(|name| !BENCHES.iter().any(|one| one.program == **name)) {
        bail!("no benchmark is called `{unknown}`; there are: {}", BENCHES.map(|one| one.program).join(", "));
    }
    Ok(BENCHES.iter().filter(|one| names.is_empty() || names.iter().any(|name| name == one.program)).collect())
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

/// The program itself, not `cargo run`: for the one package alone cargo would choose other features and build it anew. It
/// notes its figures in a file.
fn built(workspace: &Workspace, name: &str, figures: &Path) -> Command {
    let mut command = Command::new(workspace.target.join("release").join(name));
    // The samples are found from there.
    command.current_dir(&workspace.root).env("BENCHMARK_FIGURES", figures);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_bench_is_refused_with_what_there_is() {
        assert_eq!(chosen(&[]).unwrap().len(), BENCHES.len());
        assert_eq!(chosen(&["growth".to_owned()]).unwrap().len(), 1);
        let Err(error) = chosen(&["shrink".to_owned()]) else { panic!("`shrink` is no benchmark") };
        assert!(error.to_string().contains("growth"), "{error}");
    }
}
