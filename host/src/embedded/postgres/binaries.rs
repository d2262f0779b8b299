//! Where PostgreSQL's programs are.

use std::path::{Path, PathBuf};

use super::StartError;

/// Folders that hold one folder for each installed major version: Debian and Ubuntu, Fedora's PGDG, Homebrew.
const VERSIONED: [&str; 3] = ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt"];

/// The two programs that are needed, of one installation.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    pub(super) initdb: PathBuf,
    pub(super) postgres: PathBuf,
}

impl Binaries {
    /// The binaries of the version that the data is of, or, without data, those on `PATH` or the newest installed.
    pub(super) fn find(data_version: Option<&str>, data: &Path) -> Result<Self, StartError> {
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
        folders.extend(VERSIONED.iter().flat_map(|root| versions_in(Path::new(root))));
        let found: Vec<Self> = folders.iter().filter_map(|folder| Self::in_folder(folder)).collect();
        if found.is_empty() {
            let mut looked_in: Vec<String> = vec!["PATH".to_owned()];
            looked_in.extend(VERSIONED.iter().map(|root| format!("{root}/*/bin")));
            return Err(StartError::NoBinaries { looked_in: looked_in.join(", ") });
        }
        let fits = |binaries: &&Self| data_version.is_none_or(|version| binaries.version().as_deref() == Some(version));
        found.iter().find(fits).cloned().ok_or_else(|| StartError::OtherVersion {
            data: data.to_owned(),
            version: data_version.unwrap_or_default().to_owned(),
        })
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        // On Debian, PATH has wrappers for the clients but not for these two; elsewhere they are links to one folder.
        let (initdb, postgres) = (folder.join("initdb"), folder.join("postgres"));
        (initdb.is_file() && postgres.is_file()).then_some(Self { initdb, postgres })
    }

    /// The major version, as `PG_VERSION` writes it.
    fn version(&self) -> Option<String> {
        let output = std::process::Command::new(&self.postgres).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
        let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
        version.get(..end).map(str::to_owned)
    }
}

/// `bin` of each version's folder, newest first.
fn versions_in(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.trim_start_matches("postgresql@").trim_start_matches('-').parse().ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|(one, _), (other, _)| other.cmp(one));
    versions.into_iter().map(|(_, bin)| bin).collect()
}
