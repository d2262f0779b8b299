//! The server's process: started, watched, stopped.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::watch;

use super::user::ServerUser;
use super::{StartError, file};

/// How long a fast shutdown may take before the server is stopped at once; it then recovers at its next start.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How much of a log is shown when a program failed.
const TAIL_BYTES: u64 = 2048;

/// A running server process.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    ended: watch::Receiver<bool>,
}

impl Process {
    pub(super) fn spawn(
        postgres: &Path,
        data: &Path,
        socket_dir: &Path,
        settings: &[&str],
        port: u16,
        user: Option<ServerUser>,
        log: &Path,
    ) -> Result<Self, StartError> {
        // Each start has its own log: what is older is of no use, and it cannot grow for ever.
        let output = std::fs::File::create(log).map_err(file("writing", log))?;
        let mut command = Command::new(postgres);
        command.arg("-D").arg(data).arg("-k").arg(socket_dir).arg("-p").arg(port.to_string());
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let errors = output.try_clone().map_err(file("writing", log))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).current_dir(data);
        // Its own group: a Ctrl-C in the host's terminal is the host's to handle, which then stops the server in its turn.
        command.process_group(0);
        run_as(&mut command, user);
        end_with_parent(&mut command);
        let (ended_sender, ended) = watch::channel(false);
        let (started_sender, started) = std::sync::mpsc::channel();
        // The kernel sends the parent-death signal when the *thread* that started the process ends, so that thread is kept
        // until the process is gone.
        let watch =
            std::thread::Builder::new().name("embedded-postgres".to_owned()).spawn(move || match command.spawn() {
                Ok(mut child) => {
                    let _ = started_sender.send(Ok(child.id()));
                    let status = child.wait();
                    tracing::debug!(status = %status.map(shown).unwrap_or_default(), "embedded PostgreSQL has ended");
                    let _ = ended_sender.send(true);
                }
                Err(error) => {
                    let _ = started_sender.send(Err(error));
                }
            });
        watch.map_err(file("starting a thread for", postgres))?;
        let started = started.recv().unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()));
        Ok(Self { pid: started.map_err(file("starting", postgres))?, ended })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// A fast shutdown, then an immediate one; returns when the process is gone.
    pub(super) async fn stop(&self) {
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            self.signal(signal);
            let mut ended = self.ended.clone();
            if tokio::time::timeout(STOP_TIMEOUT, ended.wait_for(|ended| *ended)).await.is_ok() {
                return;
            }
            tracing::warn!("embedded PostgreSQL takes long to stop");
        }
    }

    fn signal(&self, signal: libc::c_int) {
        let Ok(pid) = libc::pid_t::try_from(self.pid) else { return };
        if !self.has_ended() {
            // SAFETY: plain numbers. The process is our child and the watching thread has not told of its end, so the
            // number is still its own but for the moment between the end and the telling.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGINT);
    }
}

/// Runs a program to its end with the folder as its last argument.
pub(super) fn run(
    name: &'static str,
    program: &Path,
    arguments: &[&str],
    folder: &Path,
    user: Option<&ServerUser>,
) -> Result<(), StartError> {
    let mut command = Command::new(program);
    command.args(arguments).arg(folder).stdin(Stdio::null()).current_dir(folder);
    run_as(&mut command, user.copied());
    let output = command.output().map_err(file("starting", program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(StartError::Program { program: name, said: last_lines(&said) })
}

fn run_as(command: &mut Command, user: Option<ServerUser>) {
    // What the host has in its environment (secrets, `PGDATA`, …) is not the server's business.
    let keep = ["PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"];
    command.env_clear().envs(keep.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    if let Some(ServerUser { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
}

/// Has the kernel stop the process when its parent dies, however that happens.
fn end_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; `prctl` and `getppid` are, and nothing
        // is allocated. It runs after the change of user, which would clear the setting.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The parent may have died before the signal was asked for.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// The process that holds this data folder, if there is one.
pub(super) fn server_of(data: &Path) -> Option<i32> {
    let lock = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = lock.lines().next()?.trim().parse().ok()?;
    // A number that was used again by another program is not a server of this folder.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = command.split(|byte| *byte == 0);
    let folder = data.as_os_str().as_encoded_bytes();
    words.any(|word| word == folder).then_some(pid)
}

/// The end of a log file.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut log = std::fs::File::open(log)?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| last_lines(&bytes)).unwrap_or_default()
}

fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(8);
    lines.get(from..).unwrap_or_default().join("; ")
}

fn shown(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => status.to_string(),
    }
}
