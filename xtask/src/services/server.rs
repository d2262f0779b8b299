//! A private server: a child process, its address, its log, and the probe that says when it is ready.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::process::{self, Child};

/// RabbitMQ boots in 4 to 8 s alone; this allows for a machine that is building at the same time.
const READY_LIMIT: Duration = Duration::from_secs(120);
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
    child: Child,
    /// Servers that this one needs, stopped after it.
    _helpers: Vec<Child>,
}

impl Server {
    /// Starts `command` with its output in `folder`'s log.
    pub(super) fn spawn(
        name: &'static str,
        command: &mut Command,
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
        let child = Child::spawn(name, command, stop_signal)?;
        Ok(Self { name, url, address, probe, log, child, _helpers: Vec::new() })
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
            if self.probe.ask(self.address).unwrap_or(false) {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!(
                    "{} does not answer after {} s; its log ends:\n{}",
                    self.name,
                    READY_LIMIT.as_secs(),
                    self.log_tail()
                );
            }
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

/// Distinct free ports on the loopback interface. They are free when this returns; nothing holds them until they are used.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    // All listeners stay open until the last port is known, so that no port comes twice.
    let mut listeners = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind(loopback(0)).context("no free port on 127.0.0.1")?;
        *port = listener.local_addr().context("a listener has no address")?.port();
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
