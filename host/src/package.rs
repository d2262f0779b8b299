//! An agent on disk: a folder with `agent.toml`, the module that it names and its migrations. What `deploy` uploads and
//! what `AGENT_HOST_AGENTS_DIR` deploys at start is read here.

use std::path::{Path, PathBuf};

use crate::agents::Upload;
use crate::catalog::Migration;
use crate::manifest::{Manifest, ManifestErrors};

/// The manifest's file name.
pub const MANIFEST_NAME: &str = "agent.toml";

/// An agent, read from disk.
#[derive(Clone, Debug)]
pub struct Package {
    /// What the manifest says.
    pub manifest: Manifest,
    /// What is deployed.
    pub upload: Upload,
}

/// Why an agent cannot be read from disk.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file or folder cannot be read.
    #[error("{path}: {what}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What it should have been, and what to do.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The manifest is wrong.
    #[error("{path}")]
    Manifest {
        /// The manifest's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ManifestErrors,
    },
    /// Two folders have a migration of the same name.
    #[error("{path}: another folder of migrations has one of this name; names order them, so choose another")]
    MigrationTwice {
        /// The second one.
        path: PathBuf,
    },
}

impl Package {
    /// Reads an agent from its folder, or from its manifest's path.
    ///
    /// # Errors
    /// A missing or wrong manifest, module or migration, with what to do.
    pub fn read(path: &Path) -> Result<Self, PackageError> {
        let (manifest_path, text, manifest) = read_manifest(path)?;
        let folder = manifest_path.parent().unwrap_or(Path::new("."));
        let module_path = folder.join(&manifest.agent.module);
        let module = std::fs::read(&module_path).map_err(unreadable(&module_path, || match &manifest.build {
            Some(build) => format!("the module is not there; build it first: {}", build.command),
            None => "the module is not there; build it first, or correct agent.module".to_owned(),
        }))?;
        let migrations = read_migrations(folder, &manifest)?;
        Ok(Self { manifest, upload: Upload { module: module.into(), manifest: text, migrations } })
    }
}

/// An agent's manifest, from its folder or from its own path; the module need not be there.
///
/// # Errors
/// A missing or wrong manifest.
pub fn manifest(path: &Path) -> Result<Manifest, PackageError> {
    read_manifest(path).map(|(_, _, manifest)| manifest)
}

fn read_manifest(path: &Path) -> Result<(PathBuf, String, Manifest), PackageError> {
    let path = if path.is_dir() { path.join(MANIFEST_NAME) } else { path.to_path_buf() };
    let text = std::fs::read_to_string(&path).map_err(unreadable(&path, || {
        "expected the agent's manifest, agent.toml, or the folder that has it".to_owned()
    }))?;
    match Manifest::parse(&text) {
        Ok(manifest) => Ok((path, text, manifest)),
        Err(source) => Err(PackageError::Manifest { path, source }),
    }
}

/// The folders of agents directly under `folder`: those with a manifest, in name order.
///
/// # Errors
/// A folder that cannot be listed.
pub fn find(folder: &Path) -> Result<Vec<PathBuf>, PackageError> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(unreadable(folder, || "expected a folder of agents".to_owned()))?;
    let mut folders: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join(MANIFEST_NAME).is_file());
    folders.sort();
    Ok(folders)
}

fn unreadable(path: &Path, what: impl FnOnce() -> String) -> impl FnOnce(std::io::Error) -> PackageError {
    move |source| PackageError::Unreadable { path: path.to_path_buf(), what: what(), source }
}

fn read_migrations(folder: &Path, manifest: &Manifest) -> Result<Vec<Migration>, PackageError> {
    let mut migrations = Vec::<Migration>::new();
    for folder in manifest.grants.sql.iter().filter_map(|grant| grant.migrations.as_ref()).map(|name| folder.join(name))
    {
        let entries = std::fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(unreadable(&folder, || "expected a folder of .sql files".to_owned()))?;
        let paths = entries.into_iter().map(|entry| entry.path());
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "sql")) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if migrations.iter().any(|migration| migration.name == name) {
                return Err(PackageError::MigrationTwice { path });
            }
            let sql =
                std::fs::read_to_string(&path).map_err(unreadable(&path, || "expected a file of SQL".to_owned()))?;
            migrations.push(Migration { name, sql });
        }
    }
    migrations.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(migrations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n[build]\ncommand = \"make a\"\n\
                            [grants]\nsql = [{ name = \"main\", migrations = \"migrations/\" }]\n";

    #[test]
    fn a_folder_and_its_manifest_are_the_same_agent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("agent.toml"), MANIFEST).unwrap();
        let missing = Package::read(path).unwrap_err();
        assert!(missing.to_string().contains("build it first: make a"), "{missing}");
        std::fs::write(path.join("a.wasm"), b"\0asm").unwrap();
        assert!(Package::read(path).unwrap_err().to_string().contains("migrations"));
        std::fs::create_dir(path.join("migrations")).unwrap();
        for (name, text) in [("0002_b.sql", "b"), ("0001_a.sql", "a"), ("README.md", "no")] {
            std::fs::write(path.join("migrations").join(name), text).unwrap();
        }
        let read = [Package::read(path).unwrap(), Package::read(&path.join("agent.toml")).unwrap()];
        for package in read {
            assert_eq!(package.manifest.agent.name.as_str(), "a");
            assert_eq!((&package.upload.module[..], package.upload.manifest.as_str()), (&b"\0asm"[..], MANIFEST));
            let names: Vec<_> = package.upload.migrations.iter().map(|migration| migration.name.as_str()).collect();
            assert_eq!(names, ["0001_a.sql", "0002_b.sql"]);
        }
    }

    #[test]
    fn agents_are_found_one_level_deep() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c/deeper", "empty"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in ["b/agent.toml", "a/agent.toml", "c/deeper/agent.toml", "agent.toml"] {
            std::fs::write(folder.path().join(name), MANIFEST).unwrap();
        }
        assert_eq!(find(folder.path()).unwrap(), [folder.path().join("a"), folder.path().join("b")]);
        assert!(find(&folder.path().join("missing")).is_err());
        assert!(matches!(Package::read(folder.path()), Err(PackageError::Unreadable { .. })));
    }
}
