//! Tasks per second from a full queue to a confirmed result and an acknowledgement: `agent-host serve` with a fresh
//! sandbox per task, against a bare consumer that does the same work in process.
//!
//! Both consume a quorum queue of the same shape, publish each result persistently with a publisher confirm, and
//! acknowledge after it. The host also records every task in PostgreSQL, which the bare consumer does not. Rounds
//! alternate, so that a drifting machine hits both; each round's figure is the rate between its first and its last
//! result, so that neither pays for its start.

mod bare;

use std::path::PathBuf;

use anyhow::{Context, Result};
use benchmarks::broker::Broker;
use benchmarks::host::Host;
use benchmarks::{agent_host, service};
use clap::Parser;

/// Compares the throughput of agent-host with that of a bare consumer.
#[derive(Parser)]
struct Options {
    /// Messages in the queue at the start of a round.
    #[arg(long, default_value_t = 60_000)]
    messages: u32,
    /// Rounds of each side.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Bytes of each body.
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// Folder of the built echo agent.
    #[arg(long, default_value = "agents/echo")]
    agent: PathBuf,
}

/// The bare consumer's queue.
const BARE_QUEUE: &str = "benchmark.bare";
/// The host's queue: that of the agent `echo`.
const HOST_QUEUE: &str = "agent.echo";

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let program = agent_host(options.agent_host.clone())?;
    let (amqp_url, database_url) = (service("AMQP_URL")?, service("DATABASE_URL")?);
    let host = Host::new(program, &options.agent, &["echo"], &amqp_url, &database_url)?;
    let broker = Broker::connect(&amqp_url).await?;
    // A first start declares the agent's queue with the host's own arguments.
    host.start().await?.stop().await?;
    broker.declare_like_an_agents(BARE_QUEUE).await?;

    let mut rates = Vec::new();
    println!("round   bare consumer   agent-host   ratio");
    for round in 1..=options.rounds {
        broker.fill(BARE_QUEUE, options.messages, options.body_bytes).await?;
        // Counted from before the first result: what arrived earlier would count as having taken no time.
        let results = tokio::spawn(broker.results(options.messages).await?.rate());
        let consumer = tokio::spawn(bare::consume(amqp_url.clone(), BARE_QUEUE));
        let bare = results.await?.context("the bare consumer did not finish")?;
        consumer.abort();

        broker.fill(HOST_QUEUE, options.messages, options.body_bytes).await?;
        let results = tokio::spawn(broker.results(options.messages).await?.rate());
        let running = host.start().await?;
        let hosted = results.await?.context("the host did not finish")?;
        running.stop().await?;

        println!("{round:>5}   {bare:>11.0}/s   {hosted:>8.0}/s   {:>5.2}", hosted / bare);
        rates.push((bare, hosted));
    }
    broker.delete(&[BARE_QUEUE]).await?;
    let ratio = median(rates.iter().map(|(bare, hosted)| hosted / bare));
    let (bare, hosted) = (median(rates.iter().map(|rate| rate.0)), median(rates.iter().map(|rate| rate.1)));
    println!("median  {bare:>11.0}/s   {hosted:>8.0}/s   {ratio:>5.2}");
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
