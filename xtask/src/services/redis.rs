//! A private Redis: in memory only, loopback only.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::server::{Probe, Server, free_ports, loopback};
use crate::workspace::find_program;

/// `PONG`, or the refusal of a server with a password: either way it serves clients.
pub(super) const PROBE: Probe =
    Probe { send: b"PING\r\n", answer_bytes: 5, ready: |answer| answer == b"+PONG" || answer == b"-NOAU" };

/// The installed server.
pub(super) fn program() -> Option<PathBuf> {
    find_program("redis-server").or_else(|| find_program("valkey-server"))
}

/// Starts one in `folder`.
pub(super) fn start(folder: &Path) -> Result<Server> {
    let [port] = free_ports()?;
    let mut command = Command::new(program().context("redis-server was not found")?);
    command.current_dir(folder).arg("--port").arg(port.to_string()).arg("--dir").arg(folder);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    let url = format!("redis://127.0.0.1:{port}/0");
    Server::spawn("redis-server", command, Signal::TERM, folder, loopback(port), url, &PROBE)
}
