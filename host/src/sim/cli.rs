//! The command line of `agent-sim`.

mod replay;

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Parser, Subcommand};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::fixtures::World;
use super::{Call, Faults, KillAt, Machine, Ran, Recorder, SimError, Simulation, Slow, junit, price, suite};
use crate::capability::recording::CannotRead;
use crate::package::{Package, PackageError};
use crate::task::{Outcome, Task, TaskId, guessed_content_type};

/// Runs agents on this machine as a host would: the same engine, the same limits, everything else embedded
#[derive(Clone, Debug, Parser)]
#[command(name = "agent-sim", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value = "text")]
    format: Format,
    /// Where compiled code is kept [default: the user's cache folder]
    #[arg(long, global = true, value_name = "DIR", env = "AGENT_SIM_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run one task: the output goes to standard output; log lines and the price tag go to standard error
    Run(RunCommand),
    /// Run the scenarios of a folder, each in a world of its own
    Test(TestCommand),
    /// Run a dead letter's recording again, and say whether it came to the same
    Replay(replay::ReplayCommand),
}

#[derive(Clone, Debug, clap::Args)]
struct RunCommand {
    /// The agent's folder, or its manifest
    path: PathBuf,
    /// The task's body: as it stands, `@FILE` for a file's content, or `-` for standard input; empty where not given
    body: Option<String>,
    /// Media type of the body; where not given application/json for JSON, text/plain for other text
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header of the task, NAME=VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Which attempt it is
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: u32,
    /// The task's id, instead of a new one
    #[arg(long, value_name = "ID", value_parser = TaskId::parse)]
    id: Option<TaskId>,
    /// The folder that `grants.files` are folders of
    #[arg(long, value_name = "DIR")]
    files_root: Option<PathBuf>,
    #[command(flatten)]
    faults: FaultFlags,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Faults")]
struct FaultFlags {
    /// Let a call fail as if the other side were away: sql, kv, cache or http, and which call of it, such as sql:2
    #[arg(long, value_name = "CALL")]
    fail: Vec<Call>,
    /// Make calls slow, such as kv=200ms
    #[arg(long, value_name = "CALL=TIME")]
    slow: Vec<Slow>,
    /// Let the host die: at the `commit`, or at a call such as sql:2; the task is then delivered again
    #[arg(long, value_name = "WHEN")]
    kill_at: Option<KillAt>,
    /// Have somebody cancel the task at a call such as kv:1
    #[arg(long, value_name = "CALL")]
    cancel_at: Option<Call>,
}

#[derive(Clone, Debug, clap::Args)]
struct TestCommand {
    /// The folder of scenarios, or one of them
    scenarios: PathBuf,
    /// The agent's folder [default: the folder of scenarios, or the first above it with agent.toml]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Write the results as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    if name.is_empty() {
        Err("the name is empty".to_owned())
    } else {
        Ok((name.to_ascii_lowercase(), value.to_owned()))
    }
}

/// Why a command could not do what it was to do.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Sim(#[from] SimError),
    #[error("{}", crate::capability::chain(.0))]
    Package(#[from] PackageError),
    #[error("{path}: {source}")]
    Recording { path: String, source: CannotRead },
    #[error("{0}")]
    Usage(String),
    #[error("the result cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The task succeeded; every scenario passed; a replay came to the same.
    Fine = 0,
    /// The task failed; a scenario did not pass; a replay came to something else, or that cannot be told.
    NotFine = 1,
    /// What was asked for cannot be done.
    Usage = 64,
}

/// Does what the command line says. Guests run on these threads; the recorder hears what is logged.
pub async fn run(cli: Cli, guests: Handle, recorder: Recorder) -> Exit {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let done = match &cli.command {
        Command::Run(command) => command.run(&cli, guests, recorder, &mut out, &mut err).await,
        Command::Test(command) => command.run(&cli, guests, recorder, &mut out).await,
        Command::Replay(command) => command.run(&cli, guests, recorder, &mut out, &mut err).await,
    };
    done.unwrap_or_else(|failed| {
        // Nothing is left to do where even this cannot be said.
        let _ = writeln!(err, "agent-sim: {failed}");
        Exit::Usage
    })
}

/// The user's folder for what can be made again.
fn cache_dir(given: Option<&PathBuf>) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let users = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    given.cloned().or_else(|| users().map(|folder| folder.join("agent-sim"))).unwrap_or_else(|| ".agent-sim".into())
}

fn machine(cli: &Cli, data: &TempDir, guests: Handle, recorder: Recorder) -> Result<Machine, Failed> {
    let code = cache_dir(cli.cache_dir.as_ref()).join("code");
    Ok(Machine::start(&code, data.path(), guests, recorder)?)
}

fn data_dir() -> Result<TempDir, Failed> {
    let made = tempfile::Builder::new().prefix("agent-sim-").tempdir();
    made.map_err(|error| Failed::Usage(format!("no place for temporary files: {error}")))
}

impl RunCommand {
    async fn run(
        &self,
        cli: &Cli,
        guests: Handle,
        recorder: Recorder,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<Exit, Failed> {
        let package = Package::read(&self.path)?;
        let task = self.task(&package)?;
        let data = data_dir()?;
        let machine = machine(cli, &data, guests, recorder)?;
        let ran = self.runs(&machine, &package, &task).await;
        machine.stop().await;
        let runs = ran?;
        let Some(last) = runs.last() else { return Ok(Exit::NotFine) };
        match cli.format {
            Format::Text => {
                for ran in &runs {
                    tell(ran, err)?;
                }
                tell_price(last, &package, err)?;
                if let Some(output) = last.completion.outcome.output() {
                    out.write_all(&output.body)?;
                    out.flush()?;
                }
            }
            Format::Json => writeln!(out, "{}", document(&runs, last))?,
        }
        Ok(if matches!(last.completion.outcome, Outcome::Succeeded(_)) { Exit::Fine } else { Exit::NotFine })
    }

    async fn runs(&self, machine: &Machine, package: &Package, task: &Task) -> Result<Vec<Ran>, Failed> {
        let agent = machine.load(package).await?;
        let world = World::open(self.files_root.as_deref())?;
        let simulation = Simulation::start(machine, agent, world).await?;
        let FaultFlags { fail, slow, kill_at, cancel_at } = self.faults.clone();
        Ok(simulation.run(task, &Faults { fail, slow, kill_at, cancel_at }).await?)
    }

    fn task(&self, package: &Package) -> Result<Task, Failed> {
        let body = read_body(self.body.as_deref())?;
        let mut task = Task::new(package.manifest.agent.name.clone(), body);
        task.content_type = self.content_type.clone().unwrap_or_else(|| guessed_content_type(&task.body).to_owned());
        task.headers.clone_from(&self.headers);
        task.headers.sort();
        task.attempt = self.attempt;
        if let Some(id) = &self.id {
            task.id = id.clone();
        }
        Ok(task)
    }
}

fn read_body(given: Option<&str>) -> Result<Bytes, Failed> {
    match given {
        None => Ok(Bytes::new()),
        Some("-") => {
            let mut body = Vec::new();
            let read = std::io::stdin().read_to_end(&mut body);
            read.map_err(|error| Failed::Usage(format!("standard input cannot be read: {error}")))?;
            Ok(body.into())
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => Ok(std::fs::read(path).map_err(|error| Failed::Usage(format!("{path}: {error}")))?.into()),
            None => Ok(Bytes::copy_from_slice(text.as_bytes())),
        },
    }
}

/// What a run said and how it ended.
fn tell(ran: &Ran, err: &mut dyn Write) -> std::io::Result<()> {
    for line in &ran.log {
        writeln!(err, "{line}")?;
    }
    for what in &ran.injected {
        writeln!(err, "FAULT {what}")?;
    }
    let outcome = &ran.completion.outcome;
    let message = outcome.failure().map(|failure| format!(": {}", failure.message)).unwrap_or_default();
    writeln!(err, "{}{message}", outcome.name())?;
    for follow_up in &ran.completion.follow_ups {
        let body = String::from_utf8_lossy(&follow_up.task.body);
        let body = crate::text::escaped(&body, 200);
        writeln!(err, "submitted to {}: {body}", follow_up.task.agent)?;
    }
    Ok(())
}

fn tell_price(ran: &Ran, package: &Package, err: &mut dyn Write) -> std::io::Result<()> {
    let log_bytes = price::log_bytes(ran);
    writeln!(err, "\n{}", price::tag(ran, &package.manifest, log_bytes))?;
    if matches!(ran.completion.outcome, Outcome::Succeeded(_)) {
        write!(err, "limits that would fit:\n{}", price::manifest_lines(&price::fitting(ran, log_bytes)))?;
    }
    Ok(())
}

fn document(runs: &[Ran], last: &Ran) -> serde_json::Value {
    let outcome = &last.completion.outcome;
    let output = outcome.output().map(|output| {
        let text = String::from_utf8_lossy(&output.body);
        json!({ "content_type": output.content_type, "body": text, "headers": output.headers })
    });
    let calls: serde_json::Map<String, serde_json::Value> =
        last.tallies.iter().map(|(port, tally)| (port.name().to_owned(), json!(tally))).collect();
    let injected: Vec<&String> = runs.iter().flat_map(|ran| &ran.injected).collect();
    let log: Vec<String> = last.log.iter().map(ToString::to_string).collect();
    let tasks = last.completion.follow_ups.iter().map(|follow_up| {
        let body = String::from_utf8_lossy(&follow_up.task.body);
        json!({ "agent": follow_up.task.agent.as_str(), "body": body })
    });
    json!({
        "outcome": outcome.name(),
        "failure": outcome.failure(),
        "output": output,
        "runs": runs.len(),
        "faults": injected,
        "log": log,
        "tasks": tasks.collect::<Vec<_>>(),
        "usage": last.completion.usage,
        "calls": calls,
        "limits_that_fit": price::fitting(last, price::log_bytes(last)),
    })
}

impl TestCommand {
    async fn run(&self, cli: &Cli, guests: Handle, recorder: Recorder, out: &mut dyn Write) -> Result<Exit, Failed> {
        let unreadable = |error: std::io::Error| Failed::Usage(format!("{}: {error}", self.scenarios.display()));
        let files = suite::files(&self.scenarios).map_err(unreadable)?;
        if files.is_empty() {
            let shown = self.scenarios.display();
            return Err(Failed::Usage(format!("{shown}: expected scenarios, files that end in .toml or .json")));
        }
        let package = Package::read(&self.agent_path()?)?;
        let data = data_dir()?;
        let machine = machine(cli, &data, guests, recorder)?;
        let agent = machine.load(&package).await;
        let mut results = Vec::new();
        if let Ok(agent) = &agent {
            for file in &files {
                let result = suite::run(&machine, agent, file, &self.scenarios).await;
                if cli.format == Format::Text {
                    tell_result(&result, out)?;
                }
                results.push(result);
            }
        }
        machine.stop().await;
        agent?;
        self.conclude(cli, &package, &results, out)
    }

    fn conclude(
        &self,
        cli: &Cli,
        package: &Package,
        results: &[suite::Result],
        out: &mut dyn Write,
    ) -> Result<Exit, Failed> {
        let failed = results.iter().filter(|result| !result.problems.is_empty()).count();
        let passed = results.len() - failed;
        match cli.format {
            Format::Text => writeln!(out, "\n{passed} passed, {failed} failed")?,
            Format::Json => {
                let scenarios = results.iter().map(|result| {
                    let passed = result.problems.is_empty();
                    json!({ "name": result.name, "passed": passed, "problems": result.problems })
                });
                writeln!(
                    out,
                    "{}",
                    json!({ "passed": passed, "failed": failed, "scenarios": scenarios.collect::<Vec<_>>() })
                )?;
            }
        }
        if let Some(path) = &self.junit {
            let cases: Vec<_> = results
                .iter()
                .map(|result| junit::Case {
                    name: &result.name,
                    took: result.took,
                    failure: Some(result.problems.as_str()).filter(|problems| !problems.is_empty()),
                })
                .collect();
            let document = junit::document(package.manifest.agent.name.as_str(), &cases);
            std::fs::write(path, document).map_err(|error| Failed::Usage(format!("{}: {error}", path.display())))?;
        }
        Ok(if failed == 0 { Exit::Fine } else { Exit::NotFine })
    }

    /// The agent that the scenarios are of.
    fn agent_path(&self) -> Result<PathBuf, Failed> {
        if let Some(path) = &self.agent {
            return Ok(path.clone());
        }
        let absolute = self.scenarios.canonicalize();
        let absolute = absolute.map_err(|error| Failed::Usage(format!("{}: {error}", self.scenarios.display())))?;
        let has_manifest = |folder: &&Path| folder.join(crate::package::MANIFEST_NAME).is_file();
        let found = absolute.ancestors().find(has_manifest).map(Path::to_owned);
        found.ok_or_else(|| {
            let shown = self.scenarios.display();
            Failed::Usage(format!("{shown}: no agent.toml there or above it; name the agent's folder with --agent"))
        })
    }
}

fn tell_result(result: &suite::Result, out: &mut dyn Write) -> std::io::Result<()> {
    let sign = if result.problems.is_empty() { "ok  " } else { "FAIL" };
    let about = if result.description.is_empty() { String::new() } else { format!(": {}", result.description) };
    writeln!(out, "{sign} {}{about}", result.name)?;
    for line in result.problems.lines() {
        writeln!(out, "     {line}")?;
    }
    Ok(())
}
