//! What a run was made on: a figure without its machine says nothing.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::k6::K6;
use crate::process;
use crate::workspace::Workspace;

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The time, such as `2026-01-02T03:04:05Z`.
pub(super) fn now_utc() -> Result<String> {
    said(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).context("`date` did not tell the time")
}

/// The commit that was measured; a `+` behind it says that files differ from it.
pub(super) fn commit(workspace: &Workspace) -> Option<String> {
    let git = |arguments: &[&str]| said(Command::new("git").current_dir(&workspace.root).args(arguments));
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|files| !files.is_empty());
    Some(if changed { format!("{commit}+") } else { commit })
}

/// All memory of the machine, in MiB.
pub(super) fn memory_mib() -> Option<u64> {
    of_file("/proc/meminfo", "MemTotal")?.split(' ').next()?.parse::<u64>().ok().map(|kib| kib >> 10)
}

/// What a file of the kernel's says under a name.
fn of_file(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?.split_once(':')?.1.trim().to_owned();
    Some(line)
}

/// The machine and the programs on it.
pub(super) fn describe(k6: &K6) -> Value {
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    json!({
        "cores": cores(),
        "processor": of_file("/proc/cpuinfo", "model name"),
        "memory_gb": memory_mib().map(|mib| ((mib << 20) + 500_000_000) / 1_000_000_000),
        "kernel": said(Command::new("uname").args(["-sr"])),
        "system": of_release(),
        "rustc": said(Command::new("rustc").arg("--version")),
        "rabbitmq": rabbitmq_version(),
        "postgresql": said(Command::new("psql").arg("--version")),
        "redis": said(Command::new("redis-server").arg("--version")),
        "k6": k6.version(),
        // Above 0 something else ran: read the figures with care.
        "load_average_before": load.and_then(|load| load.split(' ').next().map(str::to_owned)),
        "generator": "k6, the host and its servers share the machine",
    })
}

/// By the folder of its installation: `rabbitmqctl version` would leave a daemon behind.
fn rabbitmq_version() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib/rabbitmq/lib").ok()?.flatten();
    let names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_prefix("rabbitmq_server-")?.to_owned())).max()
}

fn of_release() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The first line of what a program prints; nothing where it does not run.
fn said(command: &mut Command) -> Option<String> {
    let output = process::output("a look at the machine", command).ok()?;
    Some(String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned())
}
