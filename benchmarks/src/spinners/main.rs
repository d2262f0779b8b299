//! What guests that compute without end cost the others: a short task's time beside none, a few and many of them, and how
//! late a timer of their threads is meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that does not run measures nothing"
)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_host::agent::{GuestThreads, Revision, Stops};
use agent_host::manifest::Manifest;
use agent_host::task::Outcome;
use benchmarks::in_process::{self, Guests};
use clap::Parser;
use tokio_util::sync::CancellationToken;

/// How often guests that compute are interrupted: what one of them may cost another task.
const EPOCH: Duration = Duration::from_millis(10);
const INSTANCES_MAX: u32 = 128;
const BODY: &[u8] = &[b'x'; 256];
/// How long the timers run whose lateness is measured.
const TIMER: Duration = Duration::from_millis(1);
/// Computes for ever.
const SPINNER: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $on (br $on))))"#;
const SPINNERS_MANIFEST: &str = r#"
manifest_version = 1
[agent]
name = "spinner"
description = "Computes for ever"
module = "spinner.wasm"
[limits]
memory = "1MiB"
timeout = "10m"
cpu = "10m"
"#;

#[derive(Parser)]
struct Options {
    /// Short tasks, and timers, in a row.
    #[arg(long, default_value_t = 500)]
    singles: usize,
    /// Guests that compute meanwhile.
    #[arg(long, value_delimiter = ',', default_value = "0,2,6,20")]
    spinners: Vec<usize>,
}

/// What a row of waits came to.
struct Waits(Vec<Duration>);

impl Waits {
    fn sorted(mut waits: Vec<Duration>) -> Self {
        waits.sort();
        Self(waits)
    }

    fn at(&self, part: f64) -> Duration {
        // Indices are far below where this is not exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "so")]
        let index = ((self.0.len() - 1) as f64 * part) as usize;
        self.0[index]
    }

    fn print(&self, what: &str, spinners: usize) {
        let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|part| self.at(part).as_secs_f64() * 1e3);
        println!(
            "{what}, beside {spinners:>3} spinning: p50 {p50:8.3} ms   p99 {p99:8.3} ms   longest {longest:8.3} ms"
        );
    }
}

async fn singles(guests: &Guests, echo: &Arc<Revision>, count: usize) -> Waits {
    let mut waits = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        let outcome = in_process::run(&guests.runner, echo, BODY).await;
        waits.push(begun.elapsed());
        assert!(matches!(outcome, Outcome::Succeeded(Some(_))), "{outcome:?}");
        // Not in step with what interrupts guests.
        tokio::time::sleep(Duration::from_micros(100 * (waits.len() as u64 % 37))).await;
    }
    Waits::sorted(waits)
}

/// How late timers are on the guests' threads.
async fn timers(threads: &GuestThreads, count: usize) -> Waits {
    let timers = async move {
        let mut late = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            tokio::time::sleep(TIMER).await;
            late.push(begun.elapsed().saturating_sub(TIMER));
        }
        late
    };
    Waits::sorted(threads.handle().spawn(timers).await.unwrap())
}

fn main() -> ExitCode {
    let options = Options::parse();
    let threads = GuestThreads::start().unwrap();
    // As in a host: who waits for an answer has threads of its own.
    let io = tokio::runtime::Builder::new_multi_thread().thread_name("io").enable_all().build().unwrap();
    let guests = Guests::on(threads.handle(), INSTANCES_MAX);
    let is_kept = io.block_on(async {
        let (module, manifest) = in_process::echo();
        let echo = guests.revision(module, &manifest).await;
        let manifest = Arc::new(Manifest::parse(SPINNERS_MANIFEST).unwrap());
        let spinner = guests.revision(wat::parse_str(SPINNER).unwrap(), &manifest).await;
        singles(&guests, &echo, options.singles).await;
        let (mut idle, mut is_kept) = (None, true);
        for count in options.spinners {
            let stop = CancellationToken::new();
            let spinning: Vec<_> = (0..count)
                .map(|_| {
                    let (runner, spinner) = (guests.runner.clone(), Arc::clone(&spinner));
                    let stops = Stops { cancel: stop.clone(), ..Stops::default() };
                    tokio::spawn(async move { in_process::run_until(&runner, &spinner, BODY, stops).await })
                })
                .collect();
            while guests.runner.live_instances() < count as u64 {
                tokio::time::sleep(EPOCH).await;
            }
            let waits = singles(&guests, &echo, options.singles).await;
            waits.print("short task", count);
            let median = waits.at(0.5);
            is_kept &= median <= *idle.get_or_insert(median) + EPOCH;
            timers(&threads, options.singles).await.print("timer late", count);
            stop.cancel();
            for ended in spinning {
                let outcome = ended.await.unwrap();
                assert!(matches!(outcome, Outcome::Cancelled), "{outcome:?}");
            }
        }
        is_kept
    });
    if is_kept {
        return ExitCode::SUCCESS;
    }
    eprintln!("a short task's median is later than one epoch of {} ms", EPOCH.as_millis());
    ExitCode::FAILURE
}
