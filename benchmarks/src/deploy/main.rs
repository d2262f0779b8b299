//! How long it takes from a module to the first result: by a deploy to a running host, and by the start of a host that knows
//! the agents already; on a real RabbitMQ and PostgreSQL.

mod large;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use benchmarks::client::Client;
use benchmarks::figures::{median, ms};
use benchmarks::host::{self, Agent, Echo, Host, Services};
use clap::Parser;

/// Measures the time from a deploy, and from a start, to the first result.
#[derive(Parser)]
struct Options {
    /// Deploys of each module, each with code of its own.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Functions of the large module, of some 300 bytes each.
    #[arg(long, default_value_t = 10_000)]
    large_functions: u32,
    /// Tasks after the first one that tell what a task takes then.
    #[arg(long, default_value_t = 50)]
    tasks: u32,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// Folder of the built echo agent.
    #[arg(long, default_value = "agents/echo")]
    agent: PathBuf,
}

/// Times in milliseconds.
#[derive(Default)]
struct Times {
    deployed: Vec<f64>,
    first: Vec<f64>,
    later: Vec<f64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let echo = Echo::read(&options.agent)?;
    let modules = [("echo", echo.named("echo")), ("large", large::agent(options.large_functions)?)];
    let mut host = Host::new(benchmarks::program(options.agent_host.clone())?, &[], Services::named()?)?;
    let running = host.start().await?;

    println!(
        "module   bytes       deployed after   first result after that   a later task   from deploy to first result"
    );
    let mut deployed = Vec::new();
    for (what, agent) in modules {
        let (mut times, bytes) = (Times::default(), agent.module.len());
        for round in 0..options.rounds {
            let agent = numbered(&agent, round);
            let mut client = host.client().await?;
            let begun = Instant::now();
            client.deploy(&agent.name, &agent.manifest, &agent.module).await?;
            times.deployed.push(ms(begun.elapsed()));
            times.first.push(one(&mut client, &agent.name).await?);
            for _ in 0..options.tasks {
                times.later.push(one(&mut client, &agent.name).await?);
            }
            deployed.push((what, agent.name));
        }
        let all = times.deployed.iter().zip(&times.first).map(|(deployed, first)| deployed + first).collect();
        let [deployed, first, later] = [times.deployed, times.first, times.later].map(median);
        let all = median(all);
        println!("{what:<6} {bytes:>9}   {deployed:>11.1} ms   {first:>20.2} ms   {later:>9.2} ms   {all:>24.1} ms");
    }
    running.crash().await?;
    again(&mut host, &deployed).await
}

/// The first tasks of a host that finds its agents in the catalog and their code in its folder.
async fn again(host: &mut Host, deployed: &[(&'static str, String)]) -> Result<()> {
    host.forget_folder();
    let running = host.start().await?;
    println!("killed and started again: ready after {:.0} ms; then the first result of", ms(running.took()));
    let mut client = host.client().await?;
    for (what, name) in deployed {
        println!("  {name:<10} after {:.2} ms ({what})", one(&mut client, name).await?);
    }
    running.stop().await
}

/// The agent under another name and with code of its own.
fn numbered(agent: &Agent, number: u32) -> Agent {
    let name = format!("{}-{number}", agent.name);
    let manifest = agent.manifest.replace(&format!("name = {:?}", agent.name), &format!("name = {name:?}"));
    Agent { name, manifest, module: host::distinct(&agent.module, number) }
}

/// How long one task takes, from its request to its result.
async fn one(client: &mut Client, agent: &str) -> Result<f64> {
    let begun = Instant::now();
    client.run(agent, "hello").await?;
    Ok(ms(begun.elapsed()))
}
