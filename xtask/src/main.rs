//! The project's commands, run as `cargo xtask <command>`.
//!
//! Contract: every command says what it does, sets up what it needs or names what to install, leaves no process behind
//! (also when it fails or is interrupted), and exits 0 only when everything it set out to do was done.

mod agents;
mod apt;
mod bench;
mod chaos;
mod check;
mod check_api;
mod client;
mod conformance;
mod demo;
mod fuzz;
mod host;
mod instructions;
mod load;
mod peers;
mod process;
mod python;
mod report;
mod services;
mod test;
mod toolchain;
mod ui;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// What a shell reports for a command ended by Ctrl-C (128 + SIGINT).
const EXIT_INTERRUPTED: u8 = 130;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's commands", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the agents and the host, run a few hundred tasks from nothing, and print what ran
    Demo,
    /// Run every test, starting the real RabbitMQ, PostgreSQL and Redis that they need
    Test {
        /// Passed on to `cargo test`, for example `-p agent-host --test voting`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Kill hosts and servers at random while tasks flow, then count what was lost or done twice
    Chaos(chaos::Options),
    /// Formatting, lints, documentation, dependency rules, what operators deploy
    Check,
    /// Ask a running host for everything that its OpenAPI document allows, and more, and compare the answers with it
    CheckApi,
    /// Feed the host anything that a client can send or upload, and check what must always hold
    Fuzz {
        /// Which of the targets in fuzz/
        #[arg(long, default_value = fuzz::TARGET_DEFAULT, value_parser = fuzz::TARGETS)]
        target: String,
        /// For how long
        #[arg(default_value_t = fuzz::SECONDS_DEFAULT)]
        seconds: u32,
        /// Files to run instead, such as one from fuzz/artifacts
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Start private services, print their addresses, and stop them on Ctrl-C
    Services {
        /// Keep the folder with data and logs after stopping
        #[arg(long)]
        keep: bool,
    },
    /// Build the sample agents to where their manifests expect the modules
    Agents {
        /// Crate names; all of them when none is given
        names: Vec<String>,
    },
    /// Run the same scenarios for an agent of each SDK, and print a table of them
    Conformance {
        /// Also write the table to docs/conformance.md
        #[arg(long)]
        write: bool,
    },
    /// Run the benchmarks, and hold their figures against the targets
    Bench {
        /// Names of benchmarks, such as `growth`; all of them when none is given
        names: Vec<String>,
        /// Passed on to the throughput comparison
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Count the instructions of the host's hot path, and compare them with what they may be
    Instructions,
    /// Put the reference load on a real host and servers, and write a report with plots
    Load(load::Options),
    /// Make a run's report again, or compare two runs, or a run and the reference
    Report(report::Options),
}

fn main() -> ExitCode {
    let result = process::prepare().and_then(|()| run(&Cli::parse().command));
    process::end_strays();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<process::Interrupted>() => {
            ui::say("interrupted; everything that was started has been stopped");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            ui::fail(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    match command {
        Command::Demo => demo::run(&workspace),
        Command::Test { args } => test::run(&workspace, args),
        Command::Chaos(options) => chaos::run(&workspace, options),
        Command::Check => check::run(&workspace),
        Command::CheckApi => check_api::run(&workspace),
        Command::Fuzz { target, seconds, args } => fuzz::run(&workspace, target, *seconds, args),
        Command::Services { keep } => services::run(&workspace, *keep),
        Command::Agents { names } => agents::build(&workspace, names),
        Command::Conformance { write } => conformance::run(&workspace, *write),
        Command::Bench { names, args } => bench::run(&workspace, names, args),
        Command::Instructions => instructions::run(&workspace),
        Command::Load(options) => load::run(&workspace, options),
        Command::Report(options) => report::run(&workspace, options),
    }
}
