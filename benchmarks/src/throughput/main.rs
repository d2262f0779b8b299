//! Tasks per second from a full queue to a confirmed result and an acknowledgement: `agent-host serve` with a fresh
//! sandbox per task, against workers that do the same work in process: a bare consumer in Rust that acknowledges in two
//! ways, and where they are named one in Node.js and one of Celery.
//!
//! All consume a quorum queue of the same shape, publish each result persistently with a publisher confirm, and
//! acknowledge after it. The host also records every task in PostgreSQL, which the others do not. Rounds alternate, so
//! that a drifting machine hits all; each round's figure is the rate between its first and its last result, so that
//! none pays for its start.

mod bare;
mod broker;
mod peer;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use benchmarks::host::{Echo, Host, Services};
use clap::Parser;

use bare::Acks;
use broker::Broker;
use peer::{Peer, Shape};
use table::Table;

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
    /// The `node` to run the worker in Node.js with, whose packages are installed.
    #[arg(long)]
    node: Option<PathBuf>,
    /// The `celery` to run the worker of Celery with.
    #[arg(long)]
    celery: Option<PathBuf>,
    /// Messages of a round of Celery, which takes longer over each.
    #[arg(long, default_value_t = 6_000)]
    celery_messages: u32,
    /// Folder of the workers in other languages.
    #[arg(long, default_value = "benchmarks/peers")]
    peers: PathBuf,
}

impl Options {
    /// The workers in other languages to compare with.
    fn peers(&self) -> Vec<Peer> {
        let node = self.node.clone().map(|program| Peer::node(program, &self.peers, self.messages));
        let celery = self.celery.clone().map(|program| Peer::celery(program, &self.peers, self.celery_messages));
        node.into_iter().chain(celery).collect()
    }
}

/// The bare consumer's queue.
const BARE_QUEUE: &str = "benchmark.bare";
/// The bare consumers, each with its line and the name of its figure.
const BARE: [(&str, &str, Acks); 2] =
    [("Rust, acks in turn", "one-by-one", Acks::OneByOne), ("Rust, acks at once", "concurrent", Acks::Concurrent)];
/// The host's queue: that of the agent `echo`.
const HOST_QUEUE: &str = "agent.echo";

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let amqp_url = benchmarks::service("AMQP_URL")?;
    let echo = Echo::read(&options.agent)?;
    let peers = options.peers();
    let host = Host::new(benchmarks::program(options.agent_host)?, &[echo.named("echo")], Services::named()?)?;
    let broker = Broker::connect(&amqp_url).await?;
    // A first start declares the agent's queue with the host's own arguments.
    host.start().await?.stop().await?;
    broker.declare_like_an_agents(BARE_QUEUE).await?;
    for peer in &peers {
        broker.declare_like_an_agents(peer.queue).await?;
    }

    let mut table = Table::default();
    for _ in 0..options.rounds {
        for (name, figure, acks) in BARE {
            broker.fill(BARE_QUEUE, Shape::Plain, options.messages, options.body_bytes).await?;
            // Counted from before the first result: what arrived earlier would count as having taken no time.
            let (_, this) = tokio::sync::watch::channel(std::process::id());
            let results = tokio::spawn(broker.results(options.messages).await?.count(this));
            let consumer = tokio::spawn(bare::consume(amqp_url.clone(), BARE_QUEUE, acks));
            let bare = results.await?.context("the bare consumer did not finish")?;
            consumer.abort();
            table.add(name, figure, bare);
        }

        for peer in &peers {
            broker.fill(peer.queue, peer.shape, peer.messages, options.body_bytes).await?;
            let mut running = peer.start(&amqp_url)?;
            let (_, worker) = tokio::sync::watch::channel(running.pid());
            let counted = broker.results(peer.messages).await?.count(worker);
            let round = tokio::select! {
                round = counted => round.with_context(|| format!("{} did not finish", peer.name))?,
                status = running.ended() => bail!("{} ended: {}", peer.name, status?),
            };
            running.stop().await?;
            table.add(peer.name, peer.name, round);
        }

        broker.fill(HOST_QUEUE, Shape::Plain, options.messages, options.body_bytes).await?;
        let (tell_pid, host_pid) = tokio::sync::watch::channel(0);
        let results = tokio::spawn(broker.results(options.messages).await?.count(host_pid));
        let running = host
            .start_telling(|pid| {
                tell_pid.send_replace(pid);
            })
            .await?;
        let hosted = results.await?.context("the host did not finish")?;
        running.stop().await?;
        table.end_round(hosted);
    }
    for queue in peers.iter().map(|peer| peer.queue).chain([BARE_QUEUE]) {
        broker.delete(queue).await?;
    }
    table.print_medians()
}

/// How long a round may take before it counts as hung.
const ROUND_MAX: Duration = Duration::from_secs(300);
