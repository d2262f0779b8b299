//! Many instances alive at once: tasks that wait on a clock, which need a sandbox each for as long as they do.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benchmarks::client::Client;
use benchmarks::driver::Driver;
use benchmarks::figures::{self, megabytes};
use benchmarks::host::{self, Agent};

use super::{Options, SETTLING};

/// The fixtures' agent under other names, as no agent gets all places of a host.
const AGENTS: [&str; 2] = ["sleeper-a", "sleeper-b"];
/// Waits past any bench.
const SLEEP: &str = "{\"do\":\"sleep\"}\n";
/// How long it may take until all are alive: memory that instances start with is promised for a second.
const ALIVE_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The number of instances that a target is about.
const TARGET: u32 = 1_000;

/// The host's memory with so many of them.
pub(super) async fn run(options: &Options, program: &Path) -> Result<()> {
    let module = host::read(&options.samples.join("fixtures/manifest/fixtures.wasm"))?;
    let agents = AGENTS.map(|name| Agent { name: name.to_owned(), manifest: manifest(name), module: module.clone() });
    println!("instances at once   alive after   resident     per instance   peak resident");
    for &count in &options.instances {
        let host = super::host(program, &agents)?;
        let running = host.start().await?;
        let mut client = host.client().await?;
        tokio::time::sleep(SETTLING).await;
        let idle = running.resident_bytes()?;
        let begun = Instant::now();
        for agent in AGENTS {
            client.submit_batch(agent, "", SLEEP.repeat(usize::try_from(count)? / AGENTS.len())).await?;
        }
        while alive(&mut client).await? < f64::from(count) {
            ensure!(begun.elapsed() < ALIVE_MAX, "only {} of {count} instances are alive", alive(&mut client).await?);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let took = begun.elapsed();
        tokio::time::sleep(SETTLING).await;
        let resident = running.resident_bytes()?;
        let each = megabytes(resident.saturating_sub(idle)) / f64::from(count);
        let peak = megabytes(running.peak_resident_bytes()?);
        println!(
            "{count:>17}   {:>9.2} s   {:>6.1} MB   {each:>9.3} MB   {peak:>10.1} MB",
            took.as_secs_f64(),
            megabytes(resident)
        );
        if count == TARGET {
            figures::note("growth.resident_mb_of_1000", peak)?;
        }
        // They would sleep on for as long as they may.
        for agent in AGENTS {
            client.remove(agent).await?;
        }
        running.crash().await?;
        let driver = Driver::connect(&benchmarks::service("AMQP_URL")?).await?;
        for agent in AGENTS {
            driver.delete(agent).await?;
        }
    }
    println!();
    Ok(())
}

fn manifest(name: &str) -> String {
    format!(
        "manifest_version = 1\n[agent]\nname = \"{name}\"\ndescription = \"Waits\"\nmodule = \"{}\"\n\
         [limits]\nmemory = \"16MiB\"\ntimeout = \"15m\"\nconcurrency = 500\n",
        host::MODULE
    )
}

/// How many instances are alive, as the host says.
async fn alive(client: &mut Client) -> Result<f64> {
    let metrics = client.get("/metrics").await?;
    let text = String::from_utf8_lossy(&metrics.body);
    let line = text.lines().find_map(|line| line.strip_prefix("host_live_instances "));
    line.and_then(|value| value.parse().ok()).context("the host does not tell host_live_instances")
}
