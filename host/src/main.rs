//! The `agent-host` command.

use std::process::ExitCode;

use agent_host::{app, cli, config};

/// Ten percent less memory under load than the system's allocator, and none of its growth with threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(status) => return status.into(),
    };
    let io =
        tokio::runtime::Builder::new_multi_thread().thread_name("io").worker_threads(io_threads()).enable_all().build();
    let runtime = match io {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("agent-host: the runtime does not start: {error}");
            return cli::Exit::Internal.code().into();
        }
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut console =
        cli::Console { out: &mut out, err: &mut err, vars: &config::ProcessVars, format: cli::Format::Text };
    runtime.block_on(cli::run(cli, &app::Root, &mut console)).into()
}

/// Threads for all but guests, which have as many as there are cores: half of that, for a task takes about as much of the one
/// as of the other. More of them wake each other for every step of a task: two on two cores took a tenth to a fifth more
/// processor time per task than one.
fn io_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}
