//! The compiling process: the host's own program, started with one job and ended with it.
//!
//! Standard input brings the length of the module (8 bytes, little-endian) and the module, and stays open for as long as
//! somebody waits for the result: where it ends, so does the process. Standard output takes the code. The exit status says
//! how it went ([`Status`]), standard error why.

use std::io::{Read as _, Write as _};

use super::CompileLimits;
use crate::agent::{engine, preview1};

/// What to compile within.
#[derive(Clone, Debug)]
pub struct CompileJob {
    /// The engine that is to run the code; see `engine::identity`.
    pub engine: String,
    /// What it may take.
    pub limits: CompileLimits,
}

/// Exit status of the process. What is not listed is a crash, or a signal: SIGXCPU and SIGXFSZ are limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Compiled = 0,
    /// The module is not valid.
    Refused = 10,
    /// The memory did not suffice.
    Memory = 11,
    /// This program makes code for another engine.
    OtherEngine = 12,
    /// The code could not be written, or the module not read.
    Io = 13,
    /// Nobody waits for the result.
    Orphaned = 14,
}

/// How far compiling gives way to the host's own threads, as a nice value.
const NICENESS: i32 = 10;
/// Address space beyond the memory limit: reserved by allocators and not used. The limit itself is of resident memory.
const ADDRESS_SPACE_SLACK_BYTES: u64 = 512 << 20;
/// Exceeding the processor time by this much ends the process even if it ignores the first signal, in seconds.
const PROCESSOR_TIME_MARGIN_S: u64 = 2;
/// How often resident memory is looked at. The compiler takes about 1 MB in this time.
#[cfg(target_os = "linux")]
const MEMORY_PERIOD: std::time::Duration = std::time::Duration::from_millis(5);

/// Does a job and gives the exit status. Sets limits for the whole process: for a process that does nothing else.
#[must_use]
pub fn work(job: &CompileJob) -> u8 {
    let (status, message) = compile(job).map_or_else(|ended| ended, |()| (Status::Compiled, String::new()));
    if !message.is_empty() {
        // Nothing is left to do where even this cannot be said.
        let _ = writeln!(std::io::stderr(), "{message}");
    }
    status as u8
}

fn compile(job: &CompileJob) -> Result<(), (Status, String)> {
    bound_time_and_files(&job.limits);
    let module = read_module().map_err(|error| (Status::Io, format!("reading the module: {error}")))?;
    let watching = watch_parent().and_then(|()| watch_memory(job.limits.memory.0));
    watching.map_err(|error| (Status::Io, format!("starting threads: {error}")))?;
    bound_address_space(job.limits.memory.0);
    let engine = engine::compiling().map_err(|error| (Status::Io, format!("starting the compiler: {error:#}")))?;
    if engine::identity(&engine) != job.engine {
        let message = "this program was replaced since the host started: restart the host";
        return Err((Status::OtherEngine, message.to_owned()));
    }
    let component = preview1::component(&module).map_err(|why| (Status::Refused, why))?;
    let code = engine.precompile_component(&component).map_err(|error| (Status::Refused, format!("{error:#}")))?;
    let mut output = std::io::stdout().lock();
    let written = output.write_all(&code).and_then(|()| output.flush());
    written.map_err(|error| (Status::Io, format!("writing the code: {error}")))
}

fn read_module() -> std::io::Result<Vec<u8>> {
    let mut input = std::io::stdin().lock();
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let mut module = Vec::new();
    input.by_ref().take(length).read_to_end(&mut module)?;
    if module.len() as u64 == length { Ok(module) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Ends the process with its parent, which holds the other end of standard input.
fn watch_parent() -> std::io::Result<()> {
    std::thread::Builder::new().name("parent".into()).spawn(|| {
        // A result of any kind means that nobody will send more.
        let _ = std::io::stdin().lock().read(&mut [0]);
        exit(Status::Orphaned);
    })?;
    Ok(())
}

/// Ends the process where its resident memory passes the limit: a failed allocation would end it too, but not say why.
#[cfg(target_os = "linux")]
fn watch_memory(bytes_max: u64) -> std::io::Result<()> {
    std::thread::Builder::new().name("memory".into()).spawn(move || {
        loop {
            std::thread::sleep(MEMORY_PERIOD);
            if memory().is_some_and(|(_, resident)| resident > bytes_max) {
                exit(Status::Memory);
            }
        }
    })?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn watch_memory(_bytes_max: u64) -> std::io::Result<()> {
    Ok(())
}

/// Address space and resident memory of this process, in bytes.
fn memory() -> Option<(u64, u64)> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = pages.split(' ').map(|count| count.parse::<u64>().ok());
    // SAFETY: it has no effects, and its argument is a constant that it knows.
    let page_bytes = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some((pages.next()??.checked_mul(page_bytes)?, pages.next()??.checked_mul(page_bytes)?))
}

/// Ends the process at once, whatever its other threads are doing.
fn exit(status: Status) -> ! {
    // SAFETY: it runs nothing of this process any more; other threads just end.
    unsafe { libc::_exit(status as i32) }
}

/// Bounds processor time and written bytes, leaves no core file, and gives way to others. Where the system refuses, the
/// parent's clock still ends the process.
fn bound_time_and_files(limits: &CompileLimits) {
    let limit = |soft: u64, hard: u64| libc::rlimit { rlim_cur: soft, rlim_max: hard };
    let seconds = limits.processor_time.as_secs().max(1);
    let time = limit(seconds, seconds + PROCESSOR_TIME_MARGIN_S);
    let files = limit(limits.code.0, limits.code.0);
    let none = limit(0, 0);
    // SAFETY: each call reads one struct that lives beyond it, or takes integers, and changes limits of this process only.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CPU, &raw const time);
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const files);
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
    }
}

/// Bounds the memory for good: the watch above could be late.
fn bound_address_space(memory_bytes_max: u64) {
    let Some((now, _)) = memory() else { return };
    let bytes = now.saturating_add(memory_bytes_max).saturating_add(ADDRESS_SPACE_SLACK_BYTES);
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: it reads one struct that lives beyond the call, and changes a limit of this process only.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
}
