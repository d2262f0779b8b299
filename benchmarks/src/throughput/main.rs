//! Tasks per second from a full queue to a confirmed result and an acknowledgement: `agent-host serve` with a fresh
//! sandbox per task, against a bare consumer that does the same work in process.
//!
//! Both consume a quorum queue of the same shape, publish each result persistently with a publisher confirm, and
//! acknowledge after it. The host also records every task in PostgreSQL, which the bare consumer does not. Rounds
//! alternate, so that a drifting machine hits both; each round's figure is the rate between its first and its last
//! result, so that neither pays for its start.

mod bare;
mod broker;
mod cpu;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use benchmarks::host::{Echo, Host};
use clap::Parser;

use broker::Round;

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
    let amqp_url = benchmarks::service("AMQP_URL")?;
    let echo = Echo::read(&options.agent)?;
    let host = Host::new(benchmarks::program(options.agent_host)?, &echo, &[echo.named("echo")])?;
    let broker = broker::Broker::connect(&amqp_url).await?;
    // A first start declares the agent's queue with the host's own arguments.
    host.start().await?.stop().await?;
    broker.declare_like_an_agents(BARE_QUEUE).await?;

    let mut rounds = Vec::new();
    println!("        tasks per second                     processor time per task in µs");
    println!("round   bare consumer   agent-host   ratio   bare + broker   agent-host + broker + database");
    for round in 1..=options.rounds {
        broker.fill(BARE_QUEUE, options.messages, options.body_bytes).await?;
        // Counted from before the first result: what arrived earlier would count as having taken no time.
        let (_, this) = tokio::sync::watch::channel(std::process::id());
        let results = tokio::spawn(broker.results(options.messages).await?.count(this));
        let consumer = tokio::spawn(bare::consume(amqp_url.clone(), BARE_QUEUE));
        let bare = results.await?.context("the bare consumer did not finish")?;
        consumer.abort();

        broker.fill(HOST_QUEUE, options.messages, options.body_bytes).await?;
        let (tell_pid, host_pid) = tokio::sync::watch::channel(0);
        let results = tokio::spawn(broker.results(options.messages).await?.count(host_pid));
        let running = host
            .start_telling(|pid| {
                tell_pid.send_replace(pid);
            })
            .await?;
        let hosted = results.await?.context("the host did not finish")?;
        running.stop().await?;

        print_line(&round.to_string(), &bare, &hosted, hosted.rate / bare.rate);
        rounds.push((bare, hosted));
    }
    broker.delete(BARE_QUEUE).await?;
    let ratio = median(rounds.iter().map(|(bare, hosted)| hosted.rate / bare.rate));
    let (bare, hosted) = (medians(rounds.iter().map(|round| &round.0)), medians(rounds.iter().map(|round| &round.1)));
    print_line("median", &bare, &hosted, ratio);
    Ok(())
}

fn print_line(round: &str, bare: &Round, hosted: &Round, ratio: f64) {
    let ([bare_us, bare_broker_us, _], [host_us, broker_us, database_us]) = (bare.micros_each, hosted.micros_each);
    println!(
        "{round:>6}  {:>11.0}/s   {:>8.0}/s   {ratio:>5.2}   {bare_us:>4.0} + {bare_broker_us:<6.0}   {host_us:>10.0} + {broker_us:.0} + {database_us:.0}",
        bare.rate, hosted.rate
    );
}

/// How long a round may take before it counts as hung.
const ROUND_MAX: Duration = Duration::from_secs(300);

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn medians<'a>(rounds: impl Iterator<Item = &'a Round> + Clone) -> Round {
    let micros = |process: usize| median(rounds.clone().filter_map(|round| round.micros_each.get(process).copied()));
    Round { rate: median(rounds.clone().map(|round| round.rate)), micros_each: [micros(0), micros(1), micros(2)] }
}
