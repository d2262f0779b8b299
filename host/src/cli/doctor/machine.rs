//! Checks of this machine: kernel, limits, folders, the port, the agents on disk.

use std::net::SocketAddr;
use std::path::Path;

use super::{Exit, Finding};
use crate::package::{self, Package};
use crate::task::AgentName;

/// First kernel with `PAGEMAP_SCAN`, which lets an instance's memory be reset by its touched pages alone.
const PAGEMAP_SCAN_KERNEL: (u32, u32) = (6, 7);
/// Open files below which a busy host runs out: connections of clients, broker, database and cache, and pooled memory.
const FILES_MIN: u64 = 4_096;

/// The kernel's version and the limit on open files.
pub(super) fn kernel() -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        findings.push(kernel_release(release.trim()));
    }
    if let Ok(limits) = std::fs::read_to_string("/proc/self/limits") {
        findings.extend(open_files(&limits));
        findings.extend(address_space(&limits));
    }
    findings
}

fn kernel_release(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= PAGEMAP_SCAN_KERNEL {
        return Finding::ok("kernel", format!("{release} has PAGEMAP_SCAN"));
    }
    Finding::warning(
        "kernel",
        format!("{release} lacks PAGEMAP_SCAN, so resetting an instance's memory takes several times as long"),
        "Linux 6.7 or newer; nothing else depends on it",
    )
}

/// From the text of `/proc/self/limits`.
fn open_files(limits: &str) -> Option<Finding> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    let count = if soft == "unlimited" { u64::MAX } else { soft.parse().ok()? };
    if count >= FILES_MIN {
        return Some(Finding::ok("open files", format!("limit {soft}")));
    }
    Some(Finding::warning(
        "open files",
        format!("limit {soft}; under load a host needs about {FILES_MIN}"),
        format!("ulimit -n {FILES_MIN}, or LimitNOFILE={FILES_MIN} in the systemd unit"),
    ))
}

/// From the text of `/proc/self/limits`: instances get their address space from a pool that is reserved at the start.
fn address_space(limits: &str) -> Option<Finding> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" {
        return Some(Finding::ok("address space", "unlimited"));
    }
    Some(Finding::problem(
        "address space",
        Exit::Unavailable,
        format!("limited to {soft} bytes; the pool of instances reserves terabytes of it, and touches little"),
        "ulimit -v unlimited, or LimitAS=infinity in the systemd unit",
    ))
}

/// Free bytes of the data folder below which compiled code and an embedded database may not fit for long.
const ROOM_MIN: u64 = 2 << 30;
/// And below which nothing works.
const ROOM_NEEDED: u64 = 100 << 20;

/// Whether there is room where the data folder is or will be, and whether code can be mapped from it.
pub(super) fn room(folder: &Path) -> Vec<Finding> {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists());
    let Some(about) = existing.and_then(|existing| rustix::fs::statvfs(existing).ok()) else { return Vec::new() };
    let mut findings = vec![disk(&absolute, about.f_bavail.saturating_mul(about.f_frsize))];
    if about.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        findings.push(Finding::warning(
            "data folder",
            format!("{} is on a file system without executable mappings: code is held in memory", absolute.display()),
            format!(
                "sudo mount -o remount,exec \"$(df --output=target {} | tail -1)\", or another --data-dir",
                absolute.display()
            ),
        ));
    }
    findings
}

fn disk(folder: &Path, free: u64) -> Finding {
    let found = format!("{} of {} free", crate::units::ByteSize(free), folder.display());
    let mend = format!(
        "du -xh {} | sort -h | tail shows what takes it; a smaller compile_cache_max keeps less code",
        folder.display()
    );
    match free {
        0..ROOM_NEEDED => Finding::problem("disk", Exit::Unavailable, found, mend),
        ROOM_NEEDED..ROOM_MIN => Finding::warning("disk", found, mend),
        _ => Finding::ok("disk", found),
    }
}

/// Names of the agents that a start deploys, as far as they can be read.
pub(super) fn agent_names(folder: Option<&Path>) -> Vec<AgentName> {
    let found = folder.and_then(|folder| package::find(folder).ok()).unwrap_or_default();
    found.iter().filter_map(|folder| package::manifest(folder).ok()).map(|manifest| manifest.agent.name).collect()
}

/// Whether the API's port is free.
pub(super) async fn listen(address: SocketAddr) -> Finding {
    match tokio::net::TcpListener::bind(address).await {
        Ok(_) => Finding::ok("listen", format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::problem(
            "listen",
            Exit::Unavailable,
            format!("{address} is in use, perhaps by a host that runs already"),
            format!("stop it (ss -ltnp 'sport = :{}' names it), or serve on another port: --listen", address.port()),
        ),
        Err(error) => Finding::problem(
            "listen",
            Exit::Unavailable,
            format!("{address} cannot be listened on: {error}"),
            "an address of this machine, and a port above 1023 unless the host may use lower ones: --listen",
        ),
    }
}

/// Whether the data folder can be written, or made.
pub(super) fn data_dir(folder: &Path) -> Finding {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists());
    let shown = absolute.display();
    // The folder itself is left to `serve` to make: a check should leave nothing behind.
    match existing.map(tempfile::tempfile_in) {
        Some(Ok(_)) if existing == Some(&absolute) => Finding::ok("data folder", format!("{shown} can be written")),
        Some(Ok(_)) => Finding::ok("data folder", format!("{shown} can be made")),
        Some(Err(error)) => Finding::problem(
            "data folder",
            Exit::Unavailable,
            format!("{shown} cannot be written: {error}"),
            format!("sudo install -d -o \"$USER\" {shown}, or name another with --data-dir"),
        ),
        None => Finding::problem(
            "data folder",
            Exit::Unavailable,
            format!("{shown} has no parent"),
            "name another with --data-dir",
        ),
    }
}

/// Whether the folder under which folders are granted can be read.
pub(super) fn files_root(folder: Option<&Path>) -> Option<Finding> {
    let folder = folder?;
    let shown = folder.display();
    Some(match std::fs::read_dir(folder) {
        Ok(_) => Finding::ok("files root", format!("{shown} can be read")),
        Err(error) => Finding::problem(
            "files root",
            Exit::Usage,
            format!("{shown} cannot be read as a folder: {error}"),
            "name a folder with --files-root",
        ),
    })
}

/// Whether the agents that a start deploys can be read.
pub(super) fn agents(folder: Option<&Path>) -> Vec<Finding> {
    let Some(folder) = folder else {
        return Vec::new();
    };
    let found = match package::find(folder) {
        Ok(found) => found,
        Err(error) => {
            let mend = "name a folder of agents with --agents-dir";
            return vec![Finding::problem("agents", Exit::Usage, error.to_string(), mend)];
        }
    };
    if found.is_empty() {
        let found = format!("{} has no sub-folder with an agent.toml", folder.display());
        return vec![Finding::warning("agents", found, "name a folder of agents with --agents-dir")];
    }
    found.iter().map(|folder| agent(folder)).collect()
}

fn agent(folder: &Path) -> Finding {
    match Package::read(folder) {
        Ok(package) => {
            let name = &package.manifest.agent.name;
            Finding::ok(
                "agents",
                format!("{name} in {}, module of {} bytes", folder.display(), package.upload.module.len()),
            )
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            let mend = "correct it, or the host starts without this agent";
            Finding::problem("agents", Exit::Usage, format!("{error}{cause}"), mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, level) in [
            ("6.7.0-rc1", Level::Ok),
            ("6.12.3-amd64", Level::Ok),
            ("10.0", Level::Ok),
            ("6.6.87-generic", Level::Warning),
            ("5.15.0", Level::Warning),
            ("", Level::Warning),
        ] {
            assert_eq!(kernel_release(release).level, level, "{release}");
        }
    }

    #[test]
    fn the_limit_on_open_files_is_read_from_proc() {
        let level = |soft: &str| {
            let limits =
                format!("Limit   Soft Limit  Hard Limit  Units\nMax open files            {soft}    524288    files\n");
            open_files(&limits).map(|finding| finding.level)
        };
        assert_eq!(level("1024"), Some(Level::Warning));
        assert_eq!(level("65536"), Some(Level::Ok));
        assert_eq!(level("unlimited"), Some(Level::Ok));
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn address_space_has_to_be_unlimited() {
        let level = |soft: &str| {
            address_space(&format!("Max address space         {soft}  unlimited  bytes\n")).map(|finding| finding.level)
        };
        assert_eq!(level("unlimited"), Some(Level::Ok));
        assert_eq!(level("8589934592"), Some(Level::Problem));
        assert_eq!(address_space(""), None);
    }

    #[test]
    fn a_disk_without_room_is_a_problem_and_one_with_little_a_warning() {
        for (free, level) in [(0, Level::Problem), (ROOM_NEEDED, Level::Warning), (ROOM_MIN, Level::Ok)] {
            assert_eq!(disk(Path::new("/data"), free).level, level, "{free}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(room(&folder.path().join("a/b"))[0].check, "disk");
        assert!(!folder.path().join("a").exists());
    }

    #[tokio::test]
    async fn a_busy_port_is_a_problem_and_a_free_one_is_not() {
        let busy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = busy.local_addr().unwrap();
        let finding = listen(address).await;
        assert_eq!((finding.level, finding.exit), (Level::Problem, Exit::Unavailable));
        drop(busy);
        assert_eq!(listen(address).await.level, Level::Ok);
    }

    #[test]
    fn a_missing_data_folder_is_fine_and_stays_missing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("a/b");
        assert_eq!(data_dir(&missing).level, Level::Ok);
        assert!(!missing.exists());
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(data_dir(&file.join("below")).level, Level::Problem);
    }

    #[test]
    fn a_files_root_has_to_be_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(files_root(Some(folder.path())).unwrap().level, Level::Ok);
        let missing = files_root(Some(&folder.path().join("missing"))).unwrap();
        assert_eq!((missing.level, missing.exit), (Level::Problem, Exit::Usage));
        assert_eq!(files_root(None), None);
    }

    #[test]
    fn each_agent_on_disk_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(agents(Some(folder.path()))[0].level, Level::Warning);
        for (name, module) in [("good", true), ("unbuilt", false)] {
            let agent = folder.path().join(name);
            std::fs::create_dir(&agent).unwrap();
            let manifest = format!("manifest_version = 1\n[agent]\nname = \"{name}\"\nmodule = \"m.wasm\"\n");
            std::fs::write(agent.join("agent.toml"), manifest).unwrap();
            if module {
                std::fs::write(agent.join("m.wasm"), b"\0asm").unwrap();
            }
        }
        let levels: Vec<_> = agents(Some(folder.path())).iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Problem]);
        assert_eq!(agents(None), []);
    }
}
