//! What it costs when there is more of something: agents, tasks at once, bytes of a body, instances.
//!
//! Each part is a table; the host is `agent-host serve` on a real RabbitMQ and PostgreSQL.

mod instances;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benchmarks::cpu::Spent;
use benchmarks::driver::{Driver, Load};
use benchmarks::figures::{self, megabytes};
use benchmarks::host::{Agent, Echo, Host, Services};
use clap::Parser;

/// Measures what more agents, more tasks at once, larger bodies and more instances cost.
#[derive(Parser)]
struct Options {
    /// How many agents.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    agents: Vec<u32>,
    /// How many tasks at once.
    #[arg(long, value_delimiter = ',', default_value = "16,64,256,1000,2000")]
    concurrency: Vec<u32>,
    /// Bytes of a body.
    #[arg(long, value_delimiter = ',', default_value = "0,1024,16384,131072,1048576")]
    body_bytes: Vec<usize>,
    /// How many instances alive at once.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    instances: Vec<u32>,
    /// Tasks that a rate is measured over.
    #[arg(long, default_value_t = 20_000)]
    tasks: u32,
    /// Times that rates at a concurrency are measured, in turn; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// Folder of the sample agents, built.
    #[arg(long, default_value = "agents")]
    samples: PathBuf,
}

/// Bytes of a body where these are not what grows.
const BODY_BYTES: usize = 256;
/// Tasks at once where these are not what grows.
const OUTSTANDING: u32 = 64;
/// Fewer tasks of large bodies: so many bytes are enough.
const BYTES_SENT_MAX: usize = 1 << 30;
/// How long the host is left alone before its memory is read, for what it gives back late.
const SETTLING: Duration = Duration::from_secs(3);
/// Tasks of one agent at once, at most: as many as a host gives places to one agent.
const AGENT_CONCURRENCY: &str = "750";

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let program = benchmarks::program(options.agent_host.clone())?;
    let echo = Echo::read(&options.samples.join("echo"))?;
    let mut driver = Driver::connect(&benchmarks::service("AMQP_URL")?).await?;
    rates(&options, &host(&program, &[wide(&echo)])?, &mut driver).await?;
    driver.delete("wide").await?;
    instances::run(&options, &program).await?;
    agents(&options, &program, &echo, &mut driver).await
}

fn host(program: &std::path::Path, agents: &[Agent]) -> Result<Host> {
    Host::new(program.to_owned(), agents, Services::named()?)
}

/// The echo agent with as many places as an agent can have.
fn wide(echo: &Echo) -> Agent {
    let agent = echo.named("wide");
    let manifest = agent.manifest.replace("[limits]", &format!("[limits]\nconcurrency = {AGENT_CONCURRENCY}"));
    Agent { manifest, ..agent }
}

fn queue(agent: &str) -> String {
    format!("agent.{agent}")
}

/// Tasks per second as more of them are under way, and as they get larger.
async fn rates(options: &Options, host: &Host, driver: &mut Driver) -> Result<()> {
    let running = host.start().await?;
    let queues = [queue("wide")];
    let warm = Load { queues: &queues, tasks: options.tasks, outstanding: OUTSTANDING, body_bytes: BODY_BYTES };
    driver.run(&warm).await?;

    println!("tasks at once   tasks per second   per processor second of the host   peak resident so far");
    let mut measured: Vec<Vec<(f64, f64)>> = vec![Vec::new(); options.concurrency.len()];
    for _ in 0..options.rounds {
        for (rates, outstanding) in measured.iter_mut().zip(&options.concurrency) {
            let tasks = options.tasks.max(outstanding * 4);
            let before = Spent::now(running.pid()?);
            let rate = driver.run(&Load { tasks, outstanding: *outstanding, ..warm }).await?;
            let spent = Spent::now(running.pid()?).since(before).consumer.as_secs_f64();
            rates.push((rate, f64::from(tasks) / spent));
        }
    }
    // The most of any lower concurrency, and what is lost of that at a higher one.
    let (mut most, mut lost_percent) = (0.0_f64, 0.0_f64);
    for (rates, outstanding) in measured.into_iter().zip(&options.concurrency) {
        let (rates, effective): (Vec<_>, Vec<_>) = rates.into_iter().unzip();
        let (rate, effective) = (figures::median(rates), figures::median(effective));
        let peak = megabytes(running.peak_resident_bytes()?);
        println!("{outstanding:>13}   {rate:>16.0}   {effective:>32.0}   {peak:>17.1} MB");
        most = most.max(effective);
        lost_percent = lost_percent.max((1.0 - effective / most) * 100.0);
    }
    println!("of the tasks per processor second, at most {lost_percent:.0} % are lost as more are under way\n");
    figures::note("growth.lost_percent", lost_percent)?;

    println!("bytes of a body   tasks per second   MB per second, in and out   peak resident so far");
    for &body_bytes in &options.body_bytes {
        let fitting = u32::try_from(BYTES_SENT_MAX / body_bytes.max(1)).unwrap_or(u32::MAX);
        let tasks = options.tasks.min(fitting).max(2 * OUTSTANDING);
        let rate = driver.run(&Load { tasks, body_bytes, ..warm }).await?;
        let moved = rate * 2.0 * megabytes(body_bytes as u64);
        let peak = megabytes(running.peak_resident_bytes()?);
        println!("{body_bytes:>15}   {rate:>16.0}   {moved:>26.1}   {peak:>17.1} MB");
    }
    println!();
    // The hosts that follow are on the same database, and would have it too.
    host.client().await?.remove("wide").await?;
    running.stop().await
}

/// A host with more and more agents: its start, its memory, and the rate of tasks for all of them in turn.
async fn agents(options: &Options, program: &std::path::Path, echo: &Echo, driver: &mut Driver) -> Result<()> {
    println!("agents   started after   resident when idle   per agent more   tasks per second");
    let mut first: Option<(u32, f64)> = None;
    let names = |count: u32| (1..=count).map(|number| format!("growth-{number}"));
    for &count in &options.agents {
        let agents: Vec<Agent> = names(count).map(|name| echo.named(&name)).collect();
        let host = host(program, &agents)?;
        let running = host.start().await?;
        tokio::time::sleep(SETTLING).await;
        let resident = megabytes(running.resident_bytes()?);
        let (count_first, resident_first) = *first.get_or_insert((count, resident));
        let more = f64::from(count.saturating_sub(count_first));
        let each = if more > 0.0 { format!("{:.3} MB", (resident - resident_first) / more) } else { String::new() };
        let queues: Vec<String> = names(count).map(|name| queue(&name)).collect();
        let load = Load { queues: &queues, tasks: options.tasks, outstanding: OUTSTANDING, body_bytes: BODY_BYTES };
        let rate = driver.run(&load).await?;
        let took = running.took().as_secs_f64();
        println!("{count:>6}   {took:>11.2} s   {resident:>15.1} MB   {each:>14}   {rate:>16.0}");
        running.stop().await?;
    }
    for name in names(options.agents.iter().copied().max().context("no number of agents")?) {
        driver.delete(&name).await?;
    }
    ensure!(first.is_some(), "no number of agents");
    Ok(())
}
