//! Private servers that may be killed: each is started again with the same port and data, as an init system would.
//!
//! Contract: while a server answers, and only then, a file in [`Supervised::pids`] holds its process id; it is named
//! after the variable with the server's address, in lower case (`amqp_url`). Nothing is restarted but by
//! [`Supervised::tend`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::server::{READY_LIMIT, Server};
use super::{KINDS, Kind, Services, plan};

/// How long a server that has ended stays so before it is started again; systemd's default.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// How often a server that has been started is asked whether it answers.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Servers under supervision.
pub(crate) struct Supervised {
    services: Services,
    pids: PathBuf,
    watches: Vec<Watch>,
}

/// What is known of one server.
struct Watch {
    pid_file: PathBuf,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// It answers, as far as we know.
    Serving,
    /// It has ended, or been started again and does not answer yet. Looked at again after `next`.
    Returning { gone_since: Instant, next: Instant },
}

impl Supervised {
    /// Makes sure that all three are installed here as programs, or says what to install.
    pub(crate) fn require() -> Result<()> {
        plan::require_all()
    }

    /// Starts a private server of each kind; servers that the user named are left alone.
    pub(crate) fn start() -> Result<Self> {
        Self::require()?;
        let kinds: Vec<&Kind> = KINDS.iter().collect();
        let mut services = Services::none();
        services.start_private(&kinds)?;
        let folder = services.folder.as_ref().context("private servers have a folder")?;
        let pids = folder.path().join("pids");
        std::fs::create_dir(&pids).with_context(|| format!("could not make {}", pids.display()))?;
        let mut watches = Vec::new();
        for (kind, server) in KINDS.iter().zip(&services.servers) {
            let watch = Watch { pid_file: pids.join(kind.variable.to_lowercase()), state: State::Serving };
            watch.announce(server)?;
            watches.push(watch);
        }
        Ok(Self { services, pids, watches })
    }

    /// Gives a command the addresses.
    pub(crate) fn apply(&self, command: &mut Command) {
        self.services.apply(command);
    }

    /// The folder with the process ids.
    pub(crate) fn pids(&self) -> &Path {
        &self.pids
    }

    /// Looks after each server once, without waiting. Fails for one that does not come back.
    pub(crate) fn tend(&mut self) -> Result<()> {
        self.watches.iter_mut().zip(&mut self.services.servers).try_for_each(|(watch, server)| watch.tend(server))
    }
}

impl Watch {
    fn tend(&mut self, server: &mut Server) -> Result<()> {
        let now = Instant::now();
        match self.state {
            State::Serving => {
                if server.has_ended()? {
                    std::fs::remove_file(&self.pid_file).context("could not remove a file with a process id")?;
                    self.state = State::Returning { gone_since: now, next: now + RESTART_PAUSE };
                }
            }
            State::Returning { next, .. } if now < next => {}
            State::Returning { gone_since, .. } => {
                if server.has_ended()? {
                    // A PostgreSQL refuses to start while one of its predecessor's processes is still there.
                    server.start_again()?;
                } else if server.answers() {
                    self.announce(server)?;
                    self.state = State::Serving;
                    return Ok(());
                }
                ensure!(now - gone_since < READY_LIMIT, server.not_ready());
                self.state = State::Returning { gone_since, next: now + PROBE_INTERVAL };
            }
        }
        Ok(())
    }

    /// Writes the file with the process id, beside and then renamed: a reader never sees half of it.
    fn announce(&self, server: &Server) -> Result<()> {
        let beside = self.pid_file.with_extension("new");
        std::fs::write(&beside, server.pid().to_string())
            .and_then(|()| std::fs::rename(&beside, &self.pid_file))
            .with_context(|| format!("could not write {}", self.pid_file.display()))
    }
}
