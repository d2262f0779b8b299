//! What a standing backlog costs everybody else, and what waiting tasks cost the host.
//!
//! 1. Single tasks of one agent, one after the other, on an idle host and beside a long queue of another agent that the host
//!    works off meanwhile. The time is that from sending a task to its result, so it bounds the delay of its start.
//! 2. The host's resident memory before and after it has taken tasks that are to run much later.

mod broker;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use benchmarks::host::{Echo, Host, RunningHost, Services};
use clap::Parser;

use broker::Broker;

/// Measures what a standing backlog costs other agents, and what delayed tasks cost the host.
#[derive(Parser)]
struct Options {
    /// Messages in the queue of the busy agent.
    #[arg(long, default_value_t = 1_000_000)]
    backlog: u32,
    /// Single tasks of the other agent, on the idle host and beside the backlog each.
    #[arg(long, default_value_t = 200)]
    singles: u32,
    /// Delayed tasks.
    #[arg(long, default_value_t = 100_000)]
    delayed: u32,
    /// Bytes of each body in the backlog.
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// Folder of the built echo agent.
    #[arg(long, default_value = "agents/echo")]
    agent: PathBuf,
}

/// The agent with the backlog, and the one with the single tasks.
const BUSY: &str = "busy";
const SINGLE: &str = "single";
const BUSY_QUEUE: &str = "agent.busy";
const SINGLE_QUEUE: &str = "agent.single";
/// What its tasks may be late by because of the other one's.
const DELAY_MAX: Duration = Duration::from_millis(250);
/// Between two single tasks: none finds the host warm from the one before.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest delay, and the queue of just that.
const DELAY: &str = "?delay=30d";
const DELAY_QUEUE: &str = "agents.delay.2592000000ms";
/// Tasks of a batch, at most.
const BATCH_TASKS: u32 = 10_000;
/// How long one answer may take before it counts as lost.
const ANSWER_MAX: Duration = Duration::from_secs(300);
/// How long the host is left alone before its memory is read, for what it gives back late.
const SETTLING: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let echo = Echo::read(&options.agent)?;
    let agents = [echo.named(BUSY), echo.named(SINGLE)];
    let host = Host::new(benchmarks::program(options.agent_host.clone())?, &agents, Services::named()?)?;
    let broker = Broker::connect(&benchmarks::service("AMQP_URL")?).await?;
    let kept = beside_a_backlog(&options, &host, &broker).await?;
    waiting_tasks(&options, &host, &broker).await?;
    broker.delete(&[BUSY_QUEUE, SINGLE_QUEUE, DELAY_QUEUE]).await?;
    ensure!(kept, "a single task was late by more than {} ms", DELAY_MAX.as_millis());
    Ok(())
}

/// Whether no single task was late by more than it may be.
async fn beside_a_backlog(options: &Options, host: &Host, broker: &Broker) -> Result<bool> {
    let running = host.start().await?;
    // The first ones compile and connect.
    broker.round_trips(SINGLE_QUEUE, 20, PAUSE).await?;
    let idle = Times::of(broker.round_trips(SINGLE_QUEUE, options.singles, PAUSE).await?);
    println!("single task, idle host       {idle}");
    running.stop().await?;

    broker.fill(BUSY_QUEUE, options.backlog, options.body_bytes).await?;
    let running = host.start().await?;
    let before = until_it_shrinks(broker).await?;
    let beside = Times::of(broker.round_trips(SINGLE_QUEUE, options.singles, PAUSE).await?);
    let after = broker.depth(BUSY_QUEUE).await?;
    println!("single task, beside backlog  {beside}");
    println!("the backlog meanwhile        {before} to {after} messages");
    ensure!(after > 0, "the backlog was gone before the last single task: ask for a larger one");
    broker.purge(BUSY_QUEUE).await?;
    running.stop().await?;
    let later = beside.longest.saturating_sub(idle.median);
    println!("later than the idle median   by {} ms at most", later.as_millis());
    Ok(later < DELAY_MAX)
}

/// Waits until the host works the backlog off; its depth then.
async fn until_it_shrinks(broker: &Broker) -> Result<u32> {
    let full = broker.depth(BUSY_QUEUE).await?;
    loop {
        tokio::time::sleep(PAUSE).await;
        let depth = broker.depth(BUSY_QUEUE).await?;
        if full - depth.min(full) > BATCH_TASKS {
            return Ok(depth);
        }
    }
}

async fn waiting_tasks(options: &Options, host: &Host, broker: &Broker) -> Result<()> {
    let running = host.start().await?;
    // A batch is held in memory while it is taken, and one of them shows what for.
    println!("resident, started            {}", resident(&running).await?);
    let mut taken = 0;
    while taken < options.delayed {
        let batch = BATCH_TASKS.min(options.delayed - taken);
        host.client().await?.submit_batch(BUSY, DELAY, "\"later\"\n".repeat(usize::try_from(batch)?)).await?;
        taken += batch;
        if taken == batch || taken == options.delayed {
            println!("resident, {taken:>6} delayed    {}", resident(&running).await?);
        }
    }
    let waiting = broker.depth(DELAY_QUEUE).await?;
    ensure!(waiting == options.delayed, "{waiting} of {} tasks are in {DELAY_QUEUE}", options.delayed);
    running.stop().await
}

async fn resident(host: &RunningHost) -> Result<String> {
    tokio::time::sleep(SETTLING).await;
    Ok(format!("{:.1} MB", f64::from(u32::try_from(host.resident_bytes()? / 1_000)?) / 1_000.0))
}

/// How long single tasks took.
struct Times {
    median: Duration,
    p95: Duration,
    longest: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |index: usize| times.get(index).copied().unwrap_or_default();
        let last = times.len().saturating_sub(1);
        Self { median: at(last / 2), p95: at(last * 95 / 100), longest: at(last) }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let (median, p95, longest) = (ms(self.median), ms(self.p95), ms(self.longest));
        write!(f, "median {median:.1} ms, p95 {p95:.1} ms, longest {longest:.1} ms")
    }
}
