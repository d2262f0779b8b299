//! A private server: a child process, its address, its log, and the probe that says when it is ready.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::process::{self, Child};

/// RabbitMQ boots in 4 to 8 s alone; this allows for a machine that is building at the same time.
pub(super) const READY_LIMIT: Duration = Duration::from_secs(120);
/// A server that accepts a connection answers its first bytes at once; this only bounds a stuck one.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// How often a server that is not ready is asked again.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// How much of a failed server's log is worth showing, in bytes.
const LOG_TAIL_BYTES: usize = 2000;

/// What a probe sends and what must come back for the server to be ready.
pub(super) struct Probe {
    /// The first bytes that a client sends.
    pub(super) send: &'static [u8],
    /// How many bytes of the answer decide.
    pub(super) answer_bytes: usize,
    /// Whether these bytes mean that clients are served.
    pub(super) ready: fn(&[u8]) -> bool,
}

impl Probe {
    /// Asks once.
    pub(super) fn ask(&self, address: SocketAddr) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)?;
        stream.set_read_timeout(Some(PROBE_LIMIT))?;
        stream.set_write_timeout(Some(PROBE_LIMIT))?;
        stream.write_all(self.send)?;
        let mut answer = vec![0; self.answer_bytes];
        stream.read_exact(&mut answer)?;
        Ok((self.ready)(&answer))
    }
}

/// A private server.
pub(super) struct Server {
    name: &'static str,
    url: String,
    address: SocketAddr,
    probe: &'static Probe,
    log: PathBuf,
    command: Command,
    stop_signal: Signal,
    child: Child,
    /// Servers that this one needs, stopped after it.
    _helpers: Vec<Child>,
}

impl Server {
    /// Starts `command` with its output in `folder`'s log.
    pub(super) fn spawn(
        name: &'static str,
        mut command: Command,
        stop_signal: Signal,
        folder: &Path,
        address: SocketAddr,
        url: String,
        probe: &'static Probe,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("could not make {}", log.display()))?;
        let again = file.try_clone().context("could not share the log")?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        let child = Child::spawn(name, &mut command, stop_signal)?;
        Ok(Self { name, url, address, probe, log, command, stop_signal, child, _helpers: Vec::new() })
    }

    /// Starts it again as it was, with the same port and data, after ending what may be left of it.
    pub(super) fn start_again(&mut self) -> Result<()> {
        self.child.stop();
        self.child = Child::spawn_again(self.name, &mut self.command, self.stop_signal)?;
        Ok(())
    }

    /// The program's name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The process that serves.
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Whether its process has ended.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Whether it answers in its own protocol.
    pub(super) fn answers(&self) -> bool {
        self.probe.ask(self.address).unwrap_or(false)
    }

    /// Why it is not ready, for an error.
    pub(super) fn not_ready(&self) -> String {
        let (name, seconds) = (self.name, READY_LIMIT.as_secs());
        format!("{name} does not answer after {seconds} s; its log ends:\n{}", self.log_tail())
    }

    /// Ties the life of another process to this server's.
    pub(super) fn with_helper(mut self, helper: Child) -> Self {
        self._helpers.push(helper);
        self
    }

    /// Where clients find it.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Waits until it answers in its own protocol.
    pub(super) fn await_ready(&mut self) -> Result<()> {
        let until = Instant::now() + READY_LIMIT;
        loop {
            self.check_alive()?;
            if self.answers() {
                return Ok(());
            }
            ensure!(Instant::now() < until, self.not_ready());
            process::pause(PROBE_INTERVAL)?;
        }
    }

    /// Fails if it has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}); its log ends:\n{}", self.name, self.log_tail()),
        }
    }

    /// Whether its log says that another process holds its port.
    pub(super) fn lost_its_port(&self) -> bool {
        let log = self.log_tail().to_lowercase();
        log.contains("address already in use") || log.contains("eaddrinuse")
    }

    /// Asks it to stop, without waiting.
    pub(super) fn ask_to_stop(&self) {
        self.child.ask_to_stop();
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(LOG_TAIL_BYTES)..).unwrap_or_default();
        String::from_utf8_lossy(tail).trim().to_owned()
    }
}

/// Where the search for free ports starts and ends. Below 32768, from which Linux takes the ports of outgoing
/// connections: none of those may have a server's port when it starts again.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// Distinct free ports on the loopback interface. They are free when this returns; nothing holds them until they are used.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // Searches that follow each other, here or in another run, begin elsewhere: a port just found is not found again.
    static SEARCHES: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(97).wrapping_add(SEARCHES.fetch_add(1, Ordering::Relaxed) * 31);
    let mut candidates = (0..u32::from(PORTS.end - PORTS.start))
        .filter_map(|step| u16::try_from(begin.wrapping_add(step) % u32::from(PORTS.end - PORTS.start)).ok())
        .map(|offset| PORTS.start + offset);
    let mut ports = [0; N];
    // All listeners stay open until the last port is known, so that no port comes twice.
    let mut listeners = Vec::with_capacity(N);
    for port in &mut ports {
        let found = candidates.find_map(|port| Some((port, TcpListener::bind(loopback(port)).ok()?)));
        let (free, listener) = found.context("no free port on 127.0.0.1 between 15000 and 32000")?;
        *port = free;
        listeners.push(listener);
    }
    Ok(ports)
}

/// 127.0.0.1 with a port.
pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Lets other users through a folder to what they own below it (temporary folders are closed to them): a server that
/// refuses to run as root runs as another user.
pub(super) fn make_passable(folder: &Path) -> Result<()> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("could not open {} to other users", folder.display()))
}
