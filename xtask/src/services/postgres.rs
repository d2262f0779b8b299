//! A private PostgreSQL: durable settings as in production (fsync on), loopback only, a password of its own.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::server::{Probe, Server, free_ports, loopback};
use crate::process;

/// The superuser of the private server.
const USER: &str = "agent_host";
/// Its password. The server lives for one run, on loopback; a password all the same, so that agents' own logins are told apart.
const PASSWORD: &str = "agent-host-test";
/// Tests run many hosts side by side, each with a pool.
const CONNECTIONS_MAX: &str = "300";

/// A start-up message (length 25, protocol 3.0, user `agent_host`). A server that serves clients answers `R`: it wants
/// to authenticate us. One that is still starting answers `E`.
pub(super) const PROBE: Probe = Probe {
    send: b"\x00\x00\x00\x19\x00\x03\x00\x00user\x00agent_host\x00\x00",
    answer_bytes: 1,
    ready: |answer| answer == b"R",
};

/// The same for a server that is not ours, and may well refuse this user.
pub(super) const PROBE_ANY: Probe = Probe { ready: |answer| answer == b"R" || answer == b"E", ..PROBE };

/// The installed server: a folder with it and `initdb`, in `PATH` or where packages keep their versions. The host looks
/// in the same places (`host/src/embedded/postgres/binaries.rs`): what is found here it finds too.
pub(super) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versioned = ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"];
    let mut folders =
        std::env::split_paths(&path).chain(versioned.iter().flat_map(|root| versions_in(Path::new(root))));
    let folder = folders.find(|folder| ["postgres", "initdb"].iter().all(|name| folder.join(name).is_file()))?;
    Some(folder.join("postgres"))
}

/// `bin` of each version's folder, newest first.
fn versions_in(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.trim_start_matches("postgresql@").parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, folder)| folder).collect()
}

/// Starts one in `folder`.
pub(super) fn start(folder: &Path) -> Result<Server> {
    let postgres = program().context("postgres was not found")?;
    let user = unprivileged_user();
    if let Some((uid, gid)) = user {
        chown(folder, Some(uid), Some(gid)).context("could not give the folder to the database's user")?;
    }
    let command = |program: &Path| {
        let mut command = Command::new(program);
        command.current_dir(folder).env("HOME", folder);
        if let Some((uid, gid)) = user {
            // Setting the user from root also drops root's other groups.
            command.uid(uid).gid(gid);
        }
        command
    };
    let password = folder.join("password");
    std::fs::write(&password, PASSWORD).context("could not write the password file")?;
    // Readable by the database's user; the folder above it is closed to all others.
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644))
        .context("could not open the password file")?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).context("could not close the folder")?;

    let data = folder.join("data");
    let mut initdb = command(&postgres.with_file_name("initdb"));
    // --no-sync: what initdb writes need not survive a power cut; the server itself runs with fsync.
    initdb.args(["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=scram-sha-256", "--username", USER]);
    initdb.arg("--pwfile").arg(&password).arg("--pgdata").arg(&data);
    process::output("initdb", &mut initdb)?;

    let [port] = free_ports()?;
    let mut server = command(&postgres);
    server.arg("-D").arg(&data).arg("-p").arg(port.to_string());
    let max_connections = format!("max_connections={CONNECTIONS_MAX}");
    for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=on", &max_connections] {
        server.args(["-c", setting]);
    }
    let url = format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres");
    // SIGINT is PostgreSQL's fast shutdown: it ends sessions and gives back shared memory.
    Server::spawn("postgres", server, Signal::INT, folder, loopback(port), url, &PROBE)
}

/// Whom to run as, when we are root (PostgreSQL refuses root): `postgres` where the package made that user, else `nobody`.
fn unprivileged_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |name: &str| {
        let mut fields = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    // 65534 is `nobody` on Linux wherever /etc/passwd does not say so.
    find("postgres").or_else(|| find("nobody")).or(Some((65534, 65534)))
}
