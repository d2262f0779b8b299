//! How long a host takes from its start until it consumes every agent's queue, on real services: the first time, when it
//! compiles the modules, and again, when their code is known.
//!
//! Each agent is `echo` with a few bytes of its own, so that each has a digest and code of its own.

use std::path::PathBuf;

use anyhow::Result;
use benchmarks::host::{Agent, Echo, Host, Services};
use clap::Parser;

/// Measures the start of a host with many agents.
#[derive(Parser)]
struct Options {
    /// Agents.
    #[arg(long, default_value_t = 100)]
    agents: u32,
    /// Restarts.
    #[arg(long, default_value_t = 5)]
    restarts: u32,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// Folder of the built echo agent.
    #[arg(long, default_value = "agents/echo")]
    agent: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let echo = Echo::read(&options.agent)?;
    let agents: Vec<Agent> =
        (1..=options.agents).map(|number| echo.distinct(&format!("start-{number}"), number)).collect();
    let mut host = Host::new(benchmarks::program(options.agent_host)?, &agents, Services::named()?)?;
    let first = host.start().await?;
    println!("first start, {} modules compiled: {:.2} s", options.agents, first.took().as_secs_f64());
    first.crash().await?;
    // The agents come from the catalog, their code from the data folder.
    host.forget_folder();
    for restart in 1..=options.restarts {
        let again = host.start().await?;
        println!("restart {restart}: {:.2} s", again.took().as_secs_f64());
        again.crash().await?;
    }
    Ok(())
}
