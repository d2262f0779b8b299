//! A RabbitMQ of the test's own, for what no test may do to the one that others use: stopping, killing, starving it.
//!
//! `cargo xtask` starts servers in the same way (`xtask/src/services/rabbitmq.rs`) and shares no code with this: it is to
//! build in seconds, so it depends on nothing of the host's, and tests do not depend on it.
//!
//! Needs the programs of the package `rabbitmq-server`, also where the other tests use a broker from elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a broken expectation ends the test"
)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use agent_host::broker::conformance::wait_until;
use agent_host::broker::topology::Partition;
use agent_host::task::AgentName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A private server; its end is this value's.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    port: u16,
    distribution_port: u16,
    epmd_port: u16,
    epmd: Child,
    broker: Option<Child>,
}

impl Server {
    /// One server for all tests that want one at the same time: they take turns with it.
    pub(crate) async fn lend() -> OwnedMutexGuard<Self> {
        static LENT: Mutex<Weak<AsyncMutex<Server>>> = Mutex::new(Weak::new());
        let server = {
            let mut lent = LENT.lock().unwrap_or_else(PoisonError::into_inner);
            lent.upgrade().unwrap_or_else(|| {
                let server = Arc::new(AsyncMutex::new(Self::new()));
                *lent = Arc::downgrade(&server);
                server
            })
        };
        let mut server = server.lock_owned().await;
        // The last test may have failed with it in pieces.
        server.run().await;
        server.control(&["set_vm_memory_high_watermark", "0.4"]);
        server
    }

    /// One that does not run yet.
    fn new() -> Self {
        let [port, distribution_port, epmd_port] = free_ports();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "listeners.tcp.default = 127.0.0.1:{port}\n\
             disk_free_limit.absolute = 50MB\n"
        );
        std::fs::write(folder.path().join("rabbitmq.conf"), config).unwrap();
        std::fs::write(folder.path().join("enabled_plugins"), "[].\n").unwrap();
        let mut epmd = Command::new(program("epmd"));
        epmd.args(["-port", &epmd_port.to_string(), "-address", "127.0.0.1"]);
        let epmd = epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { folder, port, distribution_port, epmd_port, epmd, broker: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Starts it where it does not run, and waits until it serves clients.
    pub(crate) async fn run(&mut self) {
        let output = self.folder.path().join("output");
        if self.broker.is_none() {
            // A server that finds no epmd starts one that outlives it.
            let epmd = || async { TcpStream::connect(("127.0.0.1", self.epmd_port)).await.ok() };
            wait_until("epmd", epmd).await;
            let mut command = self.command("rabbitmq-server");
            let log = std::fs::File::create(&output).unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            self.broker = Some(command.spawn().unwrap());
        }
        let port = self.port;
        let look = || {
            if let Some(status) = self.broker.as_mut().and_then(|broker| broker.try_wait().unwrap()) {
                let output = std::fs::read_to_string(&output).unwrap_or_default();
                panic!("rabbitmq-server ended ({status}):\n{output}");
            }
            async move { serves(port).await.ok()?.then_some(()) }
        };
        wait_until("rabbitmq-server", look).await;
    }

    /// Ends it with SIGTERM, as an operator does.
    pub(crate) fn terminate(&mut self) {
        self.end("-TERM");
    }

    /// Ends it with SIGKILL.
    ///
    /// RabbitMQ 3.10 writes down which quorum queues there are a moment after it has made them. One that is made and the
    /// server killed within that moment never answers again, to anybody: that is no host's to survive.
    pub(crate) fn kill(&mut self) {
        self.control(&["eval", "[dets:sync(Table) || Table <- dets:all()]."]);
        self.end("-KILL");
    }

    fn end(&mut self, signal: &str) {
        tokio::task::block_in_place(|| {
            let mut broker = self.broker.take().unwrap();
            assert!(Command::new("kill").args([signal, &broker.id().to_string()]).status().unwrap().success());
            broker.wait().unwrap();
        });
    }

    /// Runs `rabbitmqctl`; what it printed.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let output = tokio::task::block_in_place(|| self.command("rabbitmqctl").args(arguments).output().unwrap());
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until every partition of an agent has as many consumers, those included that stand by.
    pub(crate) async fn until_partitions_have(&self, agent: &AgentName, consumers: usize) {
        let wanted = consumers * usize::from(Partition::COUNT);
        let prefix = format!("agent.{agent}.partition.");
        let look = || async {
            let count = self.control(&["list_consumers", "queue_name"]).matches(&prefix).count();
            (count == wanted).then_some(())
        };
        wait_until(&format!("{consumers} consumers of every partition"), look).await;
    }

    /// One of RabbitMQ's programs, of this server alone.
    fn command(&self, name: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(program(name));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        command
            .current_dir(folder)
            // Erlang keeps its cookie there.
            .env("HOME", folder)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            // Makes the start script become the server instead of keeping it as a child, so that a signal reaches it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .env("RABBITMQ_NODENAME", format!("agent-host-test-{}@localhost", self.port))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            // Schedulers that spin while they wait would take the cores from the test.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +sbwtdcpu none +sbwtdio none");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.broker.iter_mut().chain([&mut self.epmd]) {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Whether it answers the protocol header as a broker that serves clients does: with a method frame on channel 0.
async fn serves(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).await?;
    Ok(answer == *b"\x01\x00\x00")
}

/// Where a program of RabbitMQ's or of Erlang's lies.
fn program(name: &str) -> PathBuf {
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    // Debian's scripts in `PATH` insist on the system's user; the programs below them do not.
    let known = [Path::new("/usr/lib/rabbitmq/bin").to_path_buf()];
    let erlang =
        std::fs::read_dir("/usr/lib/erlang").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let folders = known.into_iter().chain(std::env::split_paths(&in_path)).chain(erlang);
    let found = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| panic!("{name} was not found: install the package rabbitmq-server"))
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap().port())
}
