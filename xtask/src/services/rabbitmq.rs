//! A private RabbitMQ: its own node name, folder, cookie and epmd, all on loopback, with the settings that the
//! project measured as the fast ones.
//!
//! `host/tests/broker_amqp/server.rs` starts its own in the same way: what changes here may have to change there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::server::{Probe, Server, free_ports, loopback};
use crate::process::{self, Child};
use crate::workspace::find_program;

/// Erlang's schedulers spin while they wait for work; on a small machine that takes the cores from what is tested.
/// Distribution (unused by a single node, but always on) stays on loopback.
const ERLANG_ARGS: &str = "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
/// epmd listens a few milliseconds after it starts; this only bounds a broken one.
const EPMD_LIMIT: Duration = Duration::from_secs(10);

/// The protocol header; a broker that serves clients answers with `connection.start`: a method frame (1) on channel 0.
pub(super) const PROBE: Probe =
    Probe { send: b"AMQP\x00\x00\x09\x01", answer_bytes: 3, ready: |answer| answer == b"\x01\x00\x00" };

/// The installed server. Debian's `/usr/sbin/rabbitmq-server` insists on the system's user; the program below it does not.
pub(super) fn program() -> Option<PathBuf> {
    let direct = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if direct.is_file() { Some(direct) } else { find_program("rabbitmq-server") }
}

/// Starts one in `folder`.
pub(super) fn start(folder: &Path) -> Result<Server> {
    let [port, distribution_port, epmd_port] = free_ports()?;
    let epmd = start_epmd(epmd_port)?;

    let config = folder.join("rabbitmq.conf");
    let text = format!(
        "listeners.tcp.default = 127.0.0.1:{port}\n\
         # Statistics serve the management plugin, which is off.\n\
         collect_statistics_interval = 30000\n\
         # The folder is temporary: a nearly full disk should not stop the tests.\n\
         disk_free_limit.absolute = 50MB\n"
    );
    std::fs::write(&config, text).context("could not write rabbitmq.conf")?;
    let plugins = folder.join("enabled_plugins");
    std::fs::write(&plugins, "[].\n").context("could not write enabled_plugins")?;

    let mut command = Command::new(program().context("rabbitmq-server was not found")?);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RABBITMQ_")) {
        command.env_remove(name);
    }
    command
        .current_dir(folder)
        // Erlang keeps its cookie in HOME.
        .env("HOME", folder)
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", epmd_port.to_string())
        // Makes the start script become the server (exec) instead of keeping it as a child, so that a signal reaches it.
        .env("RUNNING_UNDER_SYSTEMD", "true")
        .env_remove("NOTIFY_SOCKET")
        .env("RABBITMQ_NODENAME", format!("agent-host-{port}@localhost"))
        .env("RABBITMQ_DIST_PORT", distribution_port.to_string())
        .env("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", &config)
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins)
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_ARGS);
    let url = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let server = Server::spawn("rabbitmq-server", command, Signal::TERM, folder, loopback(port), url, &PROBE)?;
    Ok(server.with_helper(epmd))
}

/// Erlang's port mapper, as our own child: one that RabbitMQ starts is a daemon that outlives it.
fn start_epmd(port: u16) -> Result<Child> {
    let mut command = Command::new(epmd_program());
    command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let epmd = Child::spawn("epmd", &mut command, Signal::TERM)?;
    let until = Instant::now() + EPMD_LIMIT;
    while std::net::TcpStream::connect(loopback(port)).is_err() {
        anyhow::ensure!(Instant::now() < until, "epmd does not listen on port {port}");
        process::pause(Duration::from_millis(10))?;
    }
    Ok(epmd)
}

/// epmd, from `PATH` or from the Erlang runtime's own folder.
fn epmd_program() -> PathBuf {
    let beside = std::fs::read_dir("/usr/lib/erlang").into_iter().flatten().flatten();
    let inside = beside.map(|entry| entry.path().join("bin/epmd")).find(|candidate| candidate.is_file());
    find_program("epmd").or(inside).unwrap_or_else(|| PathBuf::from("epmd"))
}
