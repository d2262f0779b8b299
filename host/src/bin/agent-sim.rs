//! The `agent-sim` command.

use std::process::ExitCode;

use agent_host::agent::GuestThreads;
use agent_host::sim::{self, cli};
use clap::Parser as _;
use tracing_subscriber::layer::SubscriberExt as _;

/// As in the host.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no mistake.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { cli::Exit::Usage as u8 } else { 0 });
        }
    };
    let recorder = sim::Recorder::default();
    let subscriber = tracing_subscriber::registry().with(recorder.clone());
    // Nothing else is started in this process that could have set one.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let io = tokio::runtime::Builder::new_multi_thread().thread_name("io").enable_all().build();
    let (io, guests) = match (io, GuestThreads::start()) {
        (Ok(io), Ok(guests)) => (io, guests),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("agent-sim: the runtime does not start: {error}");
            return ExitCode::from(70);
        }
    };
    let exit = io.block_on(cli::run(cli, guests.handle(), recorder));
    ExitCode::from(exit as u8)
}
