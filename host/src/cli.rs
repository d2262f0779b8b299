//! The `agent-host` command (contract, section 7).
//!
//! `serve` and `dev` start a host, which [`Composition`] makes; everything else is a client of a running one over HTTP, or
//! looks at this machine. Results go to standard output, everything else to standard error.

mod build;
mod client;
mod compile;
mod converge;
mod dead_letters;
mod deploy;
mod doctor;
mod failed;
mod flags;
mod lifecycle;
mod new;
mod output;
mod registry;
mod secrets;
mod show;
mod submit;
mod tasks;
mod topology;

#[cfg(test)]
mod tests;

pub use compile::CompileArguments;
pub use failed::{Exit, Failed, StartError};
pub use flags::ConfigFlags;
pub use output::Console;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::{Backend, Config};
use client::Client;

/// Where a host listens by default.
const URL_DEFAULT: &str = "http://127.0.0.1:8080";

/// Runs tasks from a message broker in sandboxed WebAssembly agents.
#[derive(Clone, Debug, Parser)]
#[command(name = "agent-host", version, arg_required_else_help = true)]
pub struct Cli {
    /// The host to talk to [env: AGENT_HOST_URL] [default: http://127.0.0.1:8080]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Its bearer token [env: AGENT_HOST_ADMIN_TOKEN; for reading AGENT_HOST_READ_TOKEN, for tasks AGENT_HOST_SUBMIT_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN")]
    token: Option<String>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines: the API's JSON.
    Json,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Run a host
    Serve {
        #[command(flatten)]
        flags: ConfigFlags,
    },
    /// Run a host with embedded services; build and redeploy the agents under DIR as they change, and run their last tasks again
    Dev {
        /// An agent's folder, or one with agents in it
        #[arg(default_value = ".")]
        dir: PathBuf,
        #[command(flatten)]
        flags: ConfigFlags,
    },
    /// Make an agent to start from
    New(new::New),
    /// Build an agent, as its manifest says
    Build(build::Build),
    /// Deploy an agent to a running host, from a folder or out of an OCI registry
    Deploy(deploy::Deploy),
    /// Push an agent to an OCI registry, with its agent.toml and migrations
    Push(registry::Push),
    /// Direct new tasks to the revision that was active before
    Rollback(lifecycle::Rollback),
    /// Split new tasks between two revisions of an agent; the newer one is rolled back where it fails clearly more often
    Traffic(lifecycle::Traffic),
    /// See who changed what
    Events(lifecycle::Events),
    /// See the deployed agents, pause, resume and remove them
    #[command(subcommand)]
    Agents(show::Agents),
    /// Set, see and remove the secrets of an agent
    #[command(subcommand)]
    Secrets(secrets::Secrets),
    /// Submit a task
    Submit(submit::Submit),
    /// See, follow and cancel tasks
    #[command(subcommand)]
    Tasks(tasks::Tasks),
    /// See why tasks failed for good, run them again, drop them
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLetters),
    /// Check the configuration, the services and this machine, and say how to mend what is wrong
    Doctor {
        #[command(flatten)]
        flags: ConfigFlags,
    },
    /// See the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the exchanges and queues that hosts use, with all their arguments; as JSON for `rabbitmqctl import_definitions`
    Topology(topology::Topology),
    /// Compile one module, from standard input to standard output: what a host starts for each
    #[command(hide = true)]
    Compile(CompileArguments),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting in force and where it came from, without secrets
    Show {
        #[command(flatten)]
        flags: ConfigFlags,
    },
}

/// What the commands need from the composition root.
#[async_trait::async_trait(?Send)]
pub trait Composition {
    /// Runs a host until it is told to stop.
    async fn serve(&self, config: Config) -> Result<(), StartError>;

    /// Runs a host whose services are embedded, and redeploys the agents under `dir` as they change.
    async fn dev(&self, config: Config, dir: PathBuf) -> Result<(), StartError>;

    /// Compiles one module, and gives the exit status that the host which started this knows.
    fn compile(&self, arguments: &CompileArguments) -> u8;
}

/// Reads the command line. `Err` is the exit status, for help and for mistakes; both are printed already.
///
/// # Errors
/// The exit status to end with.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, u8> {
    Cli::try_parse_from(arguments).map_err(|error| {
        // Nothing is left to do where even this cannot be printed.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage.code() } else { Exit::Clean.code() }
    })
}

/// Runs a command and returns the exit status.
pub async fn run(cli: Cli, composition: &dyn Composition, console: &mut Console<'_>) -> u8 {
    console.format = cli.format;
    if let Command::Compile(arguments) = &cli.command {
        return composition.compile(arguments);
    }
    let result = execute(&cli, composition, console).await;
    let Err(failed) = result else {
        return Exit::Clean.code();
    };
    if !failed.message.is_empty() {
        console.complain(&failed.message);
    }
    failed.exit.code()
}

async fn execute(cli: &Cli, composition: &dyn Composition, console: &mut Console<'_>) -> Result<(), Failed> {
    match &cli.command {
        Command::Serve { flags } => Ok(composition.serve(load(flags, console)?).await?),
        Command::Dev { dir, flags } => {
            let mut config = load(flags, console)?;
            (config.broker, config.database, config.cache) = (Backend::Embedded, Backend::Embedded, Backend::Embedded);
            Ok(composition.dev(config, dir.clone()).await?)
        }
        Command::New(new) => new.run(console),
        Command::Build(build) => build.run(console).await,
        Command::Deploy(deploy) => deploy.run(&client(cli, console, &[])?, console).await,
        Command::Push(push) => push.run(console).await,
        Command::Rollback(rollback) => rollback.run(&client(cli, console, &[])?, console).await,
        Command::Traffic(traffic) => traffic.run(&client(cli, console, &[])?, console).await,
        Command::Events(events) => events.run(&client(cli, console, &["AGENT_HOST_READ_TOKEN"])?, console).await,
        Command::Agents(agents) => agents.run(&client(cli, console, agents.narrow_tokens())?, console).await,
        Command::Secrets(secrets) => secrets.run(&client(cli, console, secrets.narrow_tokens())?, console).await,
        Command::Submit(submit) => submit.run(&client(cli, console, &["AGENT_HOST_SUBMIT_TOKEN"])?, console).await,
        Command::Tasks(tasks) => tasks.run(&client(cli, console, &["AGENT_HOST_SUBMIT_TOKEN"])?, console).await,
        Command::DeadLetters(letters) => letters.run(&client(cli, console, letters.narrow_tokens())?, console).await,
        Command::Doctor { flags } => doctor::run(flags, console).await,
        Command::Config(ConfigCommand::Show { flags }) => show::config(flags, console),
        Command::Topology(topology) => topology.run(console),
        // Done before: its exit status is no other command's.
        Command::Compile(_) => Ok(()),
        Command::Completions { shell } => {
            // By way of a buffer: the generator panics where the reader of a pipe goes early.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "agent-host", &mut script);
            Ok(console.out.write_all(&script)?)
        }
    }
}

fn load(flags: &ConfigFlags, console: &Console<'_>) -> Result<Config, Failed> {
    Config::load(flags.file.as_deref(), console.vars, &flags.values).map_err(|errors| StartError::from(errors).into())
}

/// A client of the host that the command line or the environment names. Of the tokens the narrowest that will do is sent.
fn client(cli: &Cli, console: &Console<'_>, narrow_tokens: &[&'static str]) -> Result<Client, Failed> {
    let variable = |name: &str| console.vars.get(name).map_err(|error| Failed::usage(error.to_string()));
    let mut token = cli.token.clone();
    for name in narrow_tokens.iter().chain(&["AGENT_HOST_ADMIN_TOKEN"]) {
        if token.is_none() {
            token = variable(name)?;
        }
    }
    let url = cli.url.clone().or(variable("AGENT_HOST_URL")?).unwrap_or_else(|| URL_DEFAULT.to_owned());
    let token_variable = narrow_tokens.first().copied().unwrap_or("AGENT_HOST_ADMIN_TOKEN");
    Ok(Client::new(&url, token, token_variable)?)
}
