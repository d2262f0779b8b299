//! Compiles in a process of its own, a few at a time.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::worker::Status;
use super::{CompileError, CompileLimits, Compiler};
use crate::agent::Engine;

/// Processes at once. Each takes up to the memory limit, beside the host's own.
const PROCESSES_MAX: usize = 2;
/// What is kept of what a process says.
const MESSAGE_BYTES_MAX: u64 = 4 << 10;

/// Compiles in child processes of the host's own program, which has a hidden command for it.
pub struct ChildCompiler {
    program: PathBuf,
    limits: CompileLimits,
    /// What the code is for; see `engine::identity`.
    engine: String,
    places: Semaphore,
}

impl ChildCompiler {
    /// A compiler that starts `program`, which is an agent-host of the same build.
    #[must_use]
    pub fn new(program: PathBuf, limits: CompileLimits, engine: &Engine) -> Self {
        let engine = crate::agent::engine::identity(engine.inner());
        Self { program, limits, engine, places: Semaphore::new(PROCESSES_MAX) }
    }

    /// The program that runs now. On Linux that is true also after an upgrade has replaced its file.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn this_program() -> std::io::Result<PathBuf> {
        if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
    }

    fn command(&self, code: File) -> Command {
        let limits = &self.limits;
        let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
        let mut command = Command::new(&self.program);
        command
            .args(["compile", "--engine", &self.engine])
            .args(["--memory-bytes", &limits.memory.0.to_string()])
            .args(["--processor-seconds", &limits.processor_time.as_secs().to_string()])
            .args(["--code-bytes", &limits.code.0.to_string()])
            // The environment holds secrets, which a compiler has no use for.
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(code)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// What an exit status means.
    fn judge(&self, status: ExitStatus, said: &str) -> Result<(), CompileError> {
        let is = |expected: Status| status.code() == Some(expected as i32);
        let limits = &self.limits;
        let said = said.trim();
        if status.success() {
            Ok(())
        } else if is(Status::Refused) {
            Err(CompileError::Module(said.to_owned()))
        } else if is(Status::Memory) || said.contains("memory allocation of") || said.contains("Cannot allocate memory")
        {
            Err(CompileError::memory(limits))
        } else if status.signal() == Some(libc::SIGXCPU) {
            Err(CompileError::processor_time(limits))
        } else if status.signal() == Some(libc::SIGXFSZ) {
            Err(CompileError::code(limits))
        } else if is(Status::Io) || is(Status::OtherEngine) {
            Err(CompileError::Host(said.to_owned()))
        } else {
            let last = said.lines().next_back().unwrap_or_default();
            Err(CompileError::Crashed(if last.is_empty() { status.to_string() } else { format!("{status}: {last}") }))
        }
    }
}

#[async_trait::async_trait]
impl Compiler for ChildCompiler {
    async fn compile(&self, module: Bytes, code: File) -> Result<(), CompileError> {
        let host = |what: &'static str| move |error: std::io::Error| CompileError::Host(format!("{what}: {error}"));
        let closed = || CompileError::Host("the host is going away".to_owned());
        let _place = self.places.acquire().await.map_err(|_| closed())?;
        let mut child = self.command(code).spawn().map_err(host("starting the compiler"))?;
        // Kept open until the end: the child ends with it, and so with this process.
        let mut input = child.stdin.take().ok_or_else(closed)?;
        let errors = child.stderr.take().ok_or_else(closed)?;
        let finished = async {
            let send = async {
                // Where the child is gone already, its exit status says why.
                let _ = input.write_all(&(module.len() as u64).to_le_bytes()).await;
                let _ = input.write_all(&module).await;
                let _ = input.flush().await;
            };
            let hear = async {
                let (mut said, mut errors) = (Vec::new(), errors);
                let _ = (&mut errors).take(MESSAGE_BYTES_MAX).read_to_end(&mut said).await;
                // What is beyond is read and dropped: a full pipe would hold the child up.
                let _ = tokio::io::copy(&mut errors, &mut tokio::io::sink()).await;
                String::from_utf8_lossy(&said).into_owned()
            };
            let ((), said) = tokio::join!(send, hear);
            Ok((child.wait().await?, said))
        };
        match tokio::time::timeout(self.limits.wall_clock(), finished).await {
            Ok(finished) => {
                let (status, said) = finished.map_err(host("waiting for the compiler"))?;
                self.judge(status, &said)
            }
            Err(_elapsed) => Err(CompileError::wall_clock(&self.limits)),
        }
    }
}
