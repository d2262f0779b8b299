//! Kills hosts and servers at random while tasks flow, then counts what was lost or done twice.
//!
//! `cargo xtask chaos` builds what it needs, starts servers that may be killed and come back, and runs this. It knows the
//! hosts only from outside: their program, their HTTP API, the exchange they consume from; and it looks into the database
//! at the end. Contract: exits 0 only if the audit finds nothing.

mod audit;
mod book;
mod database;
mod faults;
mod hosts;
mod progress;
mod queues;
mod relay;
mod run;
mod schedule;
mod servers;
mod submit;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::schedule::{Schedule, Server, Sizes};

/// One kill for so many tasks, unless told otherwise.
const TASKS_PER_KILL: u64 = 500;
/// One restart of a server for so many tasks, unless told otherwise, but each server once.
const TASKS_PER_RESTART: u64 = 5_000;
/// One disturbance of connections for so many tasks, unless told otherwise.
const TASKS_PER_CUT: u64 = 1_000;
/// One submission made again for so many tasks, unless told otherwise.
const TASKS_PER_DUPLICATE: u64 = 25;

/// Kills hosts and servers at random while tasks flow, then counts what was lost or done twice
#[derive(Parser)]
struct Options {
    /// How many tasks are sent
    #[arg(long)]
    tasks: u64,
    /// Repeats the schedule of an earlier run; another one is drawn without it
    #[arg(long)]
    seed: Option<u64>,
    /// How often a host is killed
    #[arg(long)]
    kills: Option<u64>,
    /// How often a server is restarted
    #[arg(long)]
    restarts: Option<u64>,
    /// How often connections are disturbed
    #[arg(long)]
    cuts: Option<u64>,
    /// How many submissions are made a second time under the same id
    #[arg(long)]
    duplicates: Option<u64>,
    /// Prints the schedule in all detail and runs nothing
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    setting: Option<Setting>,
}

/// Where everything is.
#[derive(Clone, clap::Args)]
struct Setting {
    /// The agent-host program
    #[arg(long, required = false, required_unless_present = "plan")]
    host: PathBuf,
    /// The folder of the ledger agent, its module built
    #[arg(long, required = false, required_unless_present = "plan")]
    agent: PathBuf,
    /// The folder where the servers' supervisor keeps their process ids
    #[arg(long, required = false, required_unless_present = "plan")]
    pids: PathBuf,
}

impl Options {
    fn schedule(&self) -> Schedule {
        let drawn = || u64::from(rand_seed());
        let sizes = Sizes {
            tasks: self.tasks,
            kills: self.kills.unwrap_or(self.tasks.div_ceil(TASKS_PER_KILL)),
            restarts: self.restarts.unwrap_or((self.tasks / TASKS_PER_RESTART).max(Server::ALL.len() as u64)),
            cuts: self.cuts.unwrap_or(self.tasks.div_ceil(TASKS_PER_CUT)),
            duplicates: self.duplicates.unwrap_or(self.tasks.div_ceil(TASKS_PER_DUPLICATE)),
        };
        Schedule::new(self.seed.unwrap_or_else(drawn), sizes)
    }
}

/// Another one in each run, short enough to be typed.
fn rand_seed() -> u32 {
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map(|time| time.subsec_nanos()).unwrap_or_default();
    nanos ^ std::process::id().rotate_left(16)
}

fn main() -> ExitCode {
    match start(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was found.
fn start(options: &Options) -> Result<bool> {
    let schedule = options.schedule();
    println!("{}", schedule.summary());
    if options.plan {
        println!("{schedule:#?}");
        return Ok(true);
    }
    let setting = options.setting.as_ref().context("--host, --agent and --pids are needed: see cargo xtask chaos")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    // Dropping the runtime kills the hosts that are left, whatever ended the run.
    runtime.context("could not start the runtime")?.block_on(run::run(schedule, setting))
}
