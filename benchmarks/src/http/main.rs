//! HTTP in and the answer of a sandboxed component out: `agent-host serve` with everything embedded, where a request is a task
//! that is waited for, against what `wasmtime serve` does with the same component.
//!
//! Both give each request a fresh instance. The host's request also goes through its broker, has a record, and its limits are
//! watched. Rounds alternate, so that a machine that drifts hits both.

mod sides;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benchmarks::figures::{self, median, ms, quantile};
use clap::Parser;

use sides::Side;

/// Compares the host's HTTP path with what `wasmtime serve` does.
#[derive(Parser)]
struct Options {
    /// Connections, each with one request after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    connections: Vec<u32>,
    /// Rounds of each side.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of a round.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The agent-host to measure; the one beside this program by default.
    #[arg(long)]
    agent_host: Option<PathBuf>,
    /// The program to compare it with; `serve` beside this program by default.
    #[arg(long)]
    serve: Option<PathBuf>,
    /// A `wasmtime` of the command line, to compare it with `wasmtime serve` itself.
    #[arg(long, conflicts_with = "serve")]
    wasmtime: Option<PathBuf>,
    /// The component: it answers with the body it was sent.
    #[arg(long, default_value = "agents/http-echo/manifest/http_echo.wasm")]
    component: PathBuf,
}

/// What is sent, and answered with.
const BODY: &[u8] = &[b'x'; 256];
/// The more connections, the more of both sides' work is done at a time; the target is about the most of them.
const FIGURE: &str = "http.rate";

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let served = match &options.wasmtime {
        Some(wasmtime) => sides::Program::Wasmtime(wasmtime.clone()),
        None => sides::Program::Serve(match &options.serve {
            Some(serve) => serve.clone(),
            None => std::env::current_exe()?.with_file_name("serve"),
        }),
    };
    let name = served.name();
    let served = Side::served(served, &options.component).await?;
    let hosted = Side::hosted(benchmarks::program(options.agent_host.clone())?, &options.component).await?;
    println!("connections   side                                   requests per second   p50          p95");
    let mut ratio_last = f64::NAN;
    for &connections in &options.connections {
        let (mut serveds, mut hosteds) = (Vec::new(), Vec::new());
        let length = Duration::from_secs(options.seconds);
        // The first of each is not counted.
        for round in 0..=options.rounds {
            let rounds = (measure(&served, connections, length).await?, measure(&hosted, connections, length).await?);
            if round > 0 {
                serveds.push(rounds.0);
                hosteds.push(rounds.1);
            }
        }
        ratio_last = median(hosteds.iter().zip(&serveds).map(|(hosted, served)| hosted.rate / served.rate).collect());
        for (name, rounds) in [(name, serveds), ("agent-host, embedded, waited for", hosteds)] {
            let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
            let (rate, p50, p95) = (of(|round| round.rate), of(|round| round.p50_ms), of(|round| round.p95_ms));
            println!("{connections:>11}   {name:<36} {rate:>21.0}   {p50:>7.3} ms   {p95:>7.3} ms");
        }
        println!("{connections:>11}   agent-host in relation, median of {} rounds: {ratio_last:.2}", options.rounds);
    }
    figures::note(FIGURE, ratio_last)?;
    hosted.stop().await?;
    served.stop().await
}

/// What a round came to.
struct Round {
    rate: f64,
    p50_ms: f64,
    p95_ms: f64,
}

/// Keeps so many connections busy for so long.
async fn measure(side: &Side, connections: u32, length: Duration) -> Result<Round> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(side.client().await?);
    }
    let begun = Instant::now();
    let busy = clients.into_iter().map(|mut client| {
        let path = side.path;
        tokio::spawn(async move {
            let mut times_ms = Vec::new();
            while begun.elapsed() < length {
                let sent = Instant::now();
                sides::ask(&mut client, path, BODY).await?;
                times_ms.push(ms(sent.elapsed()));
            }
            anyhow::Ok(times_ms)
        })
    });
    let mut times_ms = Vec::new();
    for client in futures::future::join_all(busy).await {
        times_ms.extend(client.context("a client panicked")??);
    }
    let count = u32::try_from(times_ms.len())?;
    let took = begun.elapsed().as_secs_f64();
    Ok(Round {
        rate: f64::from(count) / took,
        p50_ms: quantile(times_ms.clone(), 0.5),
        p95_ms: quantile(times_ms, 0.95),
    })
}
