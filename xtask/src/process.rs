//! Child processes that do not outlive us.
//!
//! Contract: every child leads its own process group, is ended with the whole group when its [`Child`] is dropped, and is
//! ended by the kernel when we die without dropping (Linux). Ctrl-C and SIGTERM make every wait here return
//! [`Interrupted`], so the stack unwinds and the drops run; a second signal exits at once.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::ui;

/// How often waits look again. Short enough not to be felt, long enough not to be seen in `top`.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long an ordinary child has between the polite signal and SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long something that our children left behind may take to go by itself.
const STRAY_PATIENCE: Duration = Duration::from_secs(2);
/// How long it then has between SIGTERM and SIGKILL.
const STRAY_GRACE: Duration = Duration::from_secs(3);

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The user asked us to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Takes over the stop signals, and becomes the parent of whatever our children leave behind.
pub(crate) fn prepare() -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // Order matters: the first of the two only acts once the second has run, on an earlier signal.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("could not install a signal handler")?;
    }
    let _ = STOP.set(stop);
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("could not become the reaper of orphaned processes")?;
    Ok(())
}

/// Fails once the user has asked us to stop.
pub(crate) fn check_interrupted() -> Result<()> {
    if STOP.get().is_some_and(|stop| stop.load(Ordering::SeqCst)) { Err(Interrupted.into()) } else { Ok(()) }
}

/// Waits a little; fails if the user asks us to stop.
pub(crate) fn pause(duration: Duration) -> Result<()> {
    let until = Instant::now() + duration;
    loop {
        check_interrupted()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL_INTERVAL));
    }
}

/// A running child and its process group.
pub(crate) struct Child {
    name: String,
    inner: std::process::Child,
    group: Pid,
    stop_signal: Signal,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts `command` as the leader of a new process group; `stop_signal` is what ends it politely.
    ///
    /// Must be called on the main thread: the kernel's death signal follows the thread that started the child.
    pub(crate) fn spawn(name: &str, command: &mut Command, stop_signal: Signal) -> Result<Self> {
        end_with_us(command, stop_signal);
        Self::spawn_again(name, command, stop_signal)
    }

    /// Starts a command that [`Child::spawn`] has started before. On the main thread, as there.
    pub(crate) fn spawn_again(name: &str, command: &mut Command, stop_signal: Signal) -> Result<Self> {
        let inner = command
            .spawn()
            .with_context(|| format!("could not start {name} ({})", command.get_program().to_string_lossy()))?;
        let group = i32::try_from(inner.id()).ok().and_then(Pid::from_raw);
        let group = group.with_context(|| format!("{name} has no usable process id"))?;
        Ok(Self { name: name.to_owned(), inner, group, stop_signal, status: None })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.inner.id()
    }

    /// The status, if it has ended.
    pub(crate) fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.inner.try_wait().with_context(|| format!("could not wait for {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits until it ends. A deadline that passes, or the user's wish to stop, is an error and leaves it running.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                bail!("{} did not end in time", self.name);
            }
            pause(POLL_INTERVAL)?;
        }
    }

    /// Sends its stop signal to the process itself, not to its group.
    pub(crate) fn ask_to_stop(&self) {
        if self.status.is_none() {
            // It may just have ended; then there is nothing to ask.
            let _ = rustix::process::kill_process(self.group, self.stop_signal);
        }
    }

    /// Ends it and its whole group: politely, then not.
    pub(crate) fn stop(&mut self) {
        self.ask_to_stop();
        let until = Instant::now() + STOP_GRACE;
        while self.status.is_none() && Instant::now() < until {
            match self.inner.try_wait() {
                Ok(None) => std::thread::sleep(POLL_INTERVAL),
                Ok(status) => self.status = status,
                Err(_) => break,
            }
        }
        // What is left of the group had its chance; the leader is gone or deaf.
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        if self.status.is_none() {
            self.status = self.inner.wait().ok();
        }
        // Orphans of the group are ours to reap (see `prepare`): wait until the kernel says that none is left.
        while let Ok(Some(_)) = rustix::process::waitpgid(self.group, WaitOptions::empty()) {}
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes what `command` starts the leader of a process group, and has the kernel end it when we die.
fn end_with_us(command: &mut Command, stop_signal: Signal) {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = rustix::process::getpid();
        let die_with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(stop_signal))?;
            // The parent may have gone before the line above took effect; nobody would then end this child.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(std::io::Error::other("orphaned")) }
        };
        // SAFETY: the closure runs between fork and exec and only makes two system calls (prctl, getppid); it does
        // not allocate on the path that succeeds, takes no lock and touches no memory shared with other threads.
        unsafe { command.pre_exec(die_with_parent) };
    }
}

/// Runs a command to its end with our stdout and stderr; a status other than 0 is an error.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    run_tending(name, command, || Ok(()))
}

/// The same, calling `tend` again and again while it runs; an error of that ends it.
pub(crate) fn run_tending(name: &str, command: &mut Command, mut tend: impl FnMut() -> Result<()>) -> Result<()> {
    check_interrupted()?;
    let mut child = Child::spawn(name, command.stdin(Stdio::null()), Signal::TERM)?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        tend()?;
        pause(POLL_INTERVAL)?;
    };
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Runs a command that has `limit` to end; gives its stdout. Its stderr becomes part of the error.
pub(crate) fn output_within(name: &str, command: &mut Command, limit: Option<Duration>) -> Result<Vec<u8>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Child::spawn(name, command, Signal::TERM)?;
    let stdout = child.inner.stdout.take().map(read_all);
    let stderr = child.inner.stderr.take().map(read_all);
    let status = child.wait(limit.map(|limit| Instant::now() + limit))?;
    let text =
        |reader: Option<std::thread::JoinHandle<Vec<u8>>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if !status.success() {
        bail!("{name} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(stdout)
}

/// Runs a cleaning-up command to its end, also after the user asked us to stop. Its stderr becomes part of the error.
pub(crate) fn clean_up(name: &str, command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("could not start {name}"))?;
    if !output.status.success() {
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Runs a command to its end; gives its stdout.
pub(crate) fn output(name: &str, command: &mut Command) -> Result<Vec<u8>> {
    output_within(name, command, None)
}

/// Runs a command with its stdout both shown and given line by line to `see`; a status other than 0 is an error, and so
/// is a silence longer than `silence_max`: something in it waits for what never comes.
pub(crate) fn run_seeing(
    name: &str,
    command: &mut Command,
    silence_max: Option<Duration>,
    mut see: impl FnMut(&str),
) -> Result<()> {
    let mut child = Child::spawn(name, command.stdin(Stdio::null()).stdout(Stdio::piped()), Signal::TERM)?;
    let (sender, lines) = std::sync::mpsc::channel::<String>();
    let reader = child.inner.stdout.take().map(|stdout| {
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok) {
                println!("{line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        })
    });
    let mut heard = Instant::now();
    let mut last = String::new();
    let ended = loop {
        for line in lines.try_iter() {
            see(&line);
            (heard, last) = (Instant::now(), line);
        }
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) if status.success() => break Ok(()),
            Ok(Some(status)) => break Err(anyhow::anyhow!("{name} failed ({status})")),
            Err(error) => break Err(error),
        }
        if let Some(limit) = silence_max.filter(|limit| heard.elapsed() > *limit) {
            break Err(anyhow::anyhow!("{name} hangs: it said nothing for {limit:?} after this line: {last}"));
        }
        if let Err(interrupted) = pause(POLL_INTERVAL) {
            break Err(interrupted);
        }
    };
    // A grandchild that keeps the pipe open would keep the reader; end the group before joining.
    child.stop();
    let _ = reader.map(std::thread::JoinHandle::join);
    lines.try_iter().for_each(|line| see(&line));
    ended
}

fn read_all(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Ends whatever our children left behind (their orphans are handed to us, see [`prepare`]), and names it: it is a
/// mistake in whatever started it.
pub(crate) fn end_strays() {
    // A helper whose server has just ended (Erlang's name resolver, say) notices and goes by itself.
    let patience = Instant::now() + STRAY_PATIENCE;
    reap();
    while !strays().is_empty() && Instant::now() < patience {
        std::thread::sleep(POLL_INTERVAL);
        reap();
    }
    let found = strays();
    if found.is_empty() {
        return;
    }
    for (pid, name) in &found {
        ui::warn(&format!("{name} (process {pid}) was left running by something that this command ran; ending it"));
        let _ = rustix::process::kill_process(*pid, Signal::TERM);
    }
    let until = Instant::now() + STRAY_GRACE;
    loop {
        reap();
        let left = strays();
        if left.is_empty() {
            return;
        }
        if Instant::now() >= until {
            for (pid, _) in left {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Takes the status of every child that has ended. Only when no [`Child`] is left, which would miss its own.
fn reap() {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
}

/// Our living children, by the kernel's list (empty where there is no /proc).
fn strays() -> Vec<(Pid, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> =
        lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    let living = pids.into_iter().filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        (!rest.starts_with('Z')).then_some((Pid::from_raw(pid)?, name.to_owned()))
    });
    living.collect()
}
