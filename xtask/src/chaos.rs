//! `cargo xtask chaos`: two hosts on real servers, all of them killed again and again while tasks flow, and an audit.
//!
//! This side starts the servers, brings killed ones back and leaves no process behind; the `chaos` program does the rest
//! (`chaos/src/main.rs`). Contract: exits 0 only if no task was lost and none had a second effect.

use std::process::Command;

use anyhow::Result;

use crate::services::Supervised;
use crate::workspace::Workspace;
use crate::{agents, process, ui};

/// How many tasks `cargo xtask test` sends: the run takes under a minute, most of it RabbitMQ's restart.
const TEST_TASKS: u64 = 2_000;

/// What the `chaos` program is told. It chooses what is not given.
///
/// Named like the options of `chaos/src/main.rs`, and not shared with them: this program is to build in seconds, so it
/// depends on nothing of the host's tests.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many tasks are sent
    #[arg(long, default_value_t = TEST_TASKS)]
    tasks: u64,
    /// The seed of an earlier run, to repeat its schedule
    #[arg(long)]
    seed: Option<u64>,
    /// How often a host is killed; 1 in 500 tasks unless given
    #[arg(long)]
    kills: Option<u64>,
    /// How often a server is restarted; 1 in 5,000 tasks, but each server once, unless given
    #[arg(long)]
    restarts: Option<u64>,
    /// How often connections are cut; 1 in 1,000 tasks unless given
    #[arg(long)]
    cuts: Option<u64>,
    /// How many submissions are made a second time under the same id; 1 in 25 tasks unless given
    #[arg(long)]
    duplicates: Option<u64>,
}

impl Options {
    /// What is part of `cargo xtask test`.
    pub(crate) fn small() -> Self {
        Self { tasks: TEST_TASKS, seed: None, kills: None, restarts: None, cuts: None, duplicates: None }
    }

    fn apply(&self, command: &mut Command) {
        for (name, value) in [
            ("--tasks", Some(self.tasks)),
            ("--seed", self.seed),
            ("--kills", self.kills),
            ("--restarts", self.restarts),
            ("--cuts", self.cuts),
            ("--duplicates", self.duplicates),
        ] {
            if let Some(value) = value {
                command.arg(name).arg(value.to_string());
            }
        }
    }
}

/// Builds what it needs and runs it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    // Before anything is built, which takes minutes.
    Supervised::require()?;
    agents::build(workspace, &["fixtures".to_owned()])?;
    ui::step("building the host and the chaos test");
    // The whole workspace's features, as `cargo xtask test` builds with: dependencies are not built twice.
    let bins = ["build", "--workspace", "--bin", "agent-host", "--bin", "chaos"];
    process::run("cargo build", workspace.cargo().args(bins))?;
    run_built(workspace, options)
}

/// Runs it with the host that was built last.
pub(crate) fn run_built(workspace: &Workspace, options: &Options) -> Result<()> {
    process::check_interrupted()?;
    ui::step("starting RabbitMQ, PostgreSQL and Redis, to be killed");
    let mut servers = Supervised::start()?;
    ui::step("chaos");
    let mut command = Command::new(workspace.target.join("debug/chaos"));
    command.arg("--host").arg(workspace.target.join("debug/agent-host"));
    command.arg("--agent").arg(workspace.root.join("agents/fixtures/ledger"));
    command.arg("--pids").arg(servers.pids());
    options.apply(&mut command);
    servers.apply(&mut command);
    let result = process::run_tending("the chaos test", &mut command, || servers.tend());
    ui::step("stopping the servers");
    drop(servers);
    result
}
