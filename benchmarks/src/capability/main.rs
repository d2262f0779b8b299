//! What a call of an agent to sql, key-value or cache takes, against the same statement or command through the native client,
//! on the same PostgreSQL and Redis.
//!
//! An agent makes many calls in one task, one after the other; the host's own record of the task tells how long it ran, and a
//! task without calls how much of that is not theirs. The native client makes as many, one after the other, on a connection
//! that it has taken out of its pool before. Rounds alternate.

mod native;

use std::path::PathBuf;

use anyhow::{Context, Result};
use benchmarks::client::Client;
use benchmarks::figures::{self, median};
use benchmarks::host::{self, Agent, Host, Services};
use clap::Parser;
use serde_json::{Value, json};

use native::Native;

/// Compares an agent's calls to sql, key-value and cache with those of the native clients.
#[derive(Parser)]
struct Options {
    /// Calls of a round.
    #[arg(long, default_value_t = 500)]
    calls: u32,
    /// Rounds of each side.
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// The module that makes the calls.
    #[arg(long, default_value = "agents/fixtures/manifest/fixtures.wasm")]
    module: PathBuf,
}

const AGENT: &str = "caller";
const LIMITS_AND_GRANTS: &str = r#"
[limits]
memory = "32MiB"
timeout = "60s"
cpu = "30s"
[grants]
sql = [{ name = "main" }]
key_value = ["default"]
cache = true
"#;

/// What is called.
#[derive(Clone, Copy)]
pub(crate) enum Call {
    /// A statement.
    Sql,
    /// A counter in a bucket.
    KeyValue,
    /// A counter in the cache.
    Cache,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::KeyValue => "key-value",
            Self::Cache => "cache",
        }
    }

    /// A step of the module's script, see `agents/fixtures/src/script.rs`.
    fn step(self) -> Value {
        match self {
            Self::Sql => json!({ "sql": native::STATEMENT }),
            Self::KeyValue => json!({ "key-value": "calls" }),
            Self::Cache => json!({ "cache": "calls" }),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let (database, redis) = (benchmarks::service("DATABASE_URL")?, benchmarks::service("REDIS_URL")?);
    let mut native = Native::connect(&database, &redis).await?;
    let manifest = format!(
        "manifest_version = 1\n[agent]\nname = \"{AGENT}\"\ndescription = \"Calls\"\nmodule = \"{}\"{LIMITS_AND_GRANTS}",
        host::MODULE
    );
    let agent = Agent { name: AGENT.to_owned(), manifest, module: host::read(&options.module)? };
    let host = Host::new(benchmarks::program(options.agent_host)?, &[agent], Services { redis, ..Services::named()? })?;
    let running = host.start().await?;
    let mut client = host.client().await?;

    println!("call        agent, µs each   native client, µs each   in relation");
    for call in [Call::Sql, Call::KeyValue, Call::Cache] {
        let (mut hosted, mut others) = (Vec::new(), Vec::new());
        // The first of each connects and prepares.
        for round in 0..=options.rounds {
            let with = ran_us(&mut client, call, options.calls).await?;
            let without = ran_us(&mut client, call, 0).await?;
            let other = native.took(call, options.calls).await?.as_secs_f64() * 1e6;
            if round > 0 {
                hosted.push((with - without) / f64::from(options.calls));
                others.push(other / f64::from(options.calls));
            }
        }
        let ratio = median(hosted.iter().zip(&others).map(|(hosted, other)| hosted / other).collect());
        println!("{:<10} {:>15.1}   {:>22.1}   {ratio:>11.2}", call.name(), median(hosted), median(others));
        figures::note(&format!("capability.{}", call.name()), ratio)?;
    }
    running.stop().await
}

/// How long a task with so many calls ran, in microseconds.
async fn ran_us(client: &mut Client, call: Call, calls: u32) -> Result<f64> {
    let steps = vec![call.step(); usize::try_from(calls)?];
    let answer = client.run(AGENT, json!({ "do": "script", "steps": steps }).to_string()).await?;
    let id = answer.headers.get("task-id").context("the answer has no Task-Id")?.to_str()?;
    let record = client.get(&format!("/v1/tasks/{id}")).await?.json()?;
    record.pointer("/usage/wall_us").and_then(Value::as_f64).context("the record has no usage.wall_us")
}
