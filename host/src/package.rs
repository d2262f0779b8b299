//! An agent on disk: a folder with `agent.toml`, the module that it names, its migrations, and the module's signature where it
//! has one. What `deploy` uploads and
//! what `AGENT_HOST_AGENTS_DIR` deploys at start is read here.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::agents::{MANIFEST_BYTES_MAX, MIGRATION_BYTES_MAX, MIGRATIONS_MAX, MODULE_BYTES_MAX, Upload};
use crate::catalog::Migration;
use crate::manifest::{Manifest, ManifestErrors};
use crate::signature::{InvalidSignature, SIGNATURE_BYTES_MAX, Signature};
use crate::task::AgentName;
use crate::units::ByteSize;

/// The manifest's file name.
pub const MANIFEST_NAME: &str = "agent.toml";

/// What the name of a module's signature ends with, after the module's own name.
pub const SIGNATURE_SUFFIX: &str = ".sig";

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
    /// What lies beside the module is no signature.
    #[error("{path}")]
    Signature {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: InvalidSignature,
    },
    /// Likewise.
    #[error("{path}: more than {SIGNATURE_BYTES_MAX} bytes, which no signature has")]
    SignatureTooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file is larger than any that a host takes.
    #[error("{path}: more than {bytes_max}, the most that a host takes of a {what}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it is: a module, a manifest or a migration.
        what: &'static str,
        /// How much a host takes of such.
        bytes_max: ByteSize,
    },
    /// There are more migrations than a host takes.
    #[error(
        "{path}: more than {MIGRATIONS_MAX} migrations, the most that a host takes; put some of them into one file"
    )]
    TooManyMigrations {
        /// The folder.
        path: PathBuf,
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
        let module = read_at_most(&module_path, MODULE_BYTES_MAX.0);
        let module = module.map_err(unreadable(&module_path, || match &manifest.build {
            Some(build) => format!("the module is not there; build it first: {}", build.command),
            None => "the module is not there; build it first, or correct agent.module".to_owned(),
        }))?;
        let module = module.ok_or_else(|| too_large(&module_path, "module", MODULE_BYTES_MAX))?;
        let migrations = read_migrations(folder, &manifest)?;
        let signatures = read_signature(&signature_path(&module_path))?.into_iter().collect();
        Ok(Self { manifest, upload: Upload { module: module.into(), manifest: text, migrations, signatures } })
    }
}

fn too_large(path: &Path, what: &'static str, bytes_max: ByteSize) -> PackageError {
    PackageError::TooLarge { path: path.to_path_buf(), what, bytes_max }
}

/// The text of a file that `what` names, which has so many bytes at most.
fn read_text(
    path: &Path,
    what: &'static str,
    bytes_max: ByteSize,
    expected: &'static str,
) -> Result<String, PackageError> {
    let unreadable = unreadable(path, || expected.to_owned());
    let bytes = match read_at_most(path, bytes_max.0) {
        Ok(bytes) => bytes.ok_or_else(|| too_large(path, what, bytes_max))?,
        Err(error) => return Err(unreadable(error)),
    };
    String::from_utf8(bytes).map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))
}

/// What a file holds; nothing where that is more. No more of it is read.
fn read_at_most(path: &Path, bytes_max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = std::fs::File::open(path)?;
    let expected = file.metadata()?.len().min(bytes_max);
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

/// Where the signature of a module lies, if it has one: beside it.
fn signature_path(module: &Path) -> PathBuf {
    let mut path = module.as_os_str().to_owned();
    path.push(SIGNATURE_SUFFIX);
    PathBuf::from(path)
}

/// An agent without its module.
#[derive(Clone, Debug)]
pub struct Described {
    /// What the manifest says.
    pub manifest: Manifest,
    /// Its text.
    pub text: String,
    /// Its migrations, in order.
    pub migrations: Vec<Migration>,
}

/// What lies beside a module that is elsewhere: its manifest and migrations.
///
/// # Errors
/// A missing or wrong manifest or migration.
pub fn described(path: &Path) -> Result<Described, PackageError> {
    let (manifest_path, text, manifest) = read_manifest(path)?;
    let migrations = read_migrations(manifest_path.parent().unwrap_or(Path::new(".")), &manifest)?;
    Ok(Described { manifest, text, migrations })
}

/// The signature in a file; nothing where there is no such file.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read_signature(path: &Path) -> Result<Option<Signature>, PackageError> {
    let text = match read_at_most(path, SIGNATURE_BYTES_MAX) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(PackageError::SignatureTooLarge { path: path.to_path_buf() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(path, || "expected a signature of the module".to_owned())(error)),
    };
    match Signature::parse(&String::from_utf8_lossy(&text)) {
        Ok(signature) => Ok(Some(signature)),
        Err(source) => Err(PackageError::Signature { path: path.to_path_buf(), source }),
    }
}

/// The agent of a folder and the files that it is made of, as far as its manifest can be read.
#[must_use]
pub fn files(folder: &Path) -> (Option<AgentName>, Vec<PathBuf>) {
    let manifest_path = folder.join(MANIFEST_NAME);
    let mut files = vec![manifest_path.clone()];
    let Ok(manifest) = manifest(&manifest_path) else { return (None, files) };
    let module = folder.join(&manifest.agent.module);
    files.extend([signature_path(&module), module]);
    for migrations in manifest.grants.sql.iter().filter_map(|grant| grant.migrations.as_ref()) {
        let migrations = folder.join(migrations);
        let entries = std::fs::read_dir(&migrations).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| entry.path()));
    }
    files.sort();
    (Some(manifest.agent.name), files)
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
    let expected = "expected the agent's manifest, agent.toml, or the folder that has it";
    let text = read_text(&path, "manifest", MANIFEST_BYTES_MAX, expected)?;
    match Manifest::parse(&text) {
        Ok(manifest) => Ok((path, text, manifest)),
        Err(source) => Err(PackageError::Manifest { path, source }),
    }
}

/// The folders of agents directly under `folder`: those with a manifest, in name order. One whose name begins with a dot is
/// none: what is being put together lies there.
///
/// # Errors
/// A folder that cannot be listed.
pub fn find(folder: &Path) -> Result<Vec<PathBuf>, PackageError> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(unreadable(folder, || "expected a folder of agents".to_owned()))?;
    let mut folders: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    let is_hidden = |folder: &Path| folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    folders.retain(|folder| !is_hidden(folder) && folder.join(MANIFEST_NAME).is_file());
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
            if migrations.len() == MIGRATIONS_MAX {
                return Err(PackageError::TooManyMigrations { path: folder });
            }
            let sql = read_text(&path, "migration", MIGRATION_BYTES_MAX, "expected a file of SQL")?;
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
            assert_eq!(package.upload.signatures, []);
        }
        std::fs::write(path.join("a.wasm.sig"), "AAAA\n").unwrap();
        let signed = Package::read(path).unwrap().upload.signatures;
        assert_eq!(signed, [Signature::of_module("AAAA").unwrap()]);
        std::fs::write(path.join("a.wasm.sig"), b"\x30\x45\xff").unwrap();
        let wrong = Package::read(path).unwrap_err();
        assert!(wrong.to_string().contains("a.wasm.sig"), "{wrong}");
        let (agent, files) = files(path);
        assert_eq!(agent.as_ref().map(AgentName::as_str), Some("a"));
        let names: Vec<_> = files.iter().map(|file| file.strip_prefix(path).unwrap().to_owned()).collect();
        let expected = [
            "a.wasm",
            "a.wasm.sig",
            "agent.toml",
            "migrations/0001_a.sql",
            "migrations/0002_b.sql",
            "migrations/README.md",
        ];
        assert_eq!(names, expected.map(PathBuf::from));
    }

    #[test]
    fn no_more_is_read_than_a_host_takes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("agent.toml"), "manifest_version = 1\n[agent]\nname = \"a\"\nmodule = \"a.wasm\"\n")
            .unwrap();
        // Sparse: it takes no room.
        let set_len = |name: &str, bytes: u64| std::fs::File::create(path.join(name)).unwrap().set_len(bytes).unwrap();
        set_len("a.wasm", MODULE_BYTES_MAX.0 + 1);
        let too_large = |what: &str| {
            let error = Package::read(path).unwrap_err().to_string();
            assert!(error.contains("the most that a host takes") && error.ends_with(what), "{error}");
        };
        too_large("module");
        std::fs::write(path.join("a.wasm"), b"\0asm").unwrap();
        assert!(Package::read(path).is_ok());
        std::fs::write(path.join("agent.toml"), MANIFEST).unwrap();
        std::fs::create_dir(path.join("migrations")).unwrap();
        set_len("migrations/0001_a.sql", MIGRATION_BYTES_MAX.0 + 1);
        too_large("migration");
        std::fs::remove_file(path.join("migrations/0001_a.sql")).unwrap();
        for number in 0..=MIGRATIONS_MAX {
            set_len(&format!("migrations/{number}.sql"), 0);
        }
        let many = Package::read(path).unwrap_err();
        assert!(matches!(many, PackageError::TooManyMigrations { .. }), "{many}");
        std::fs::remove_file(path.join("migrations/0.sql")).unwrap();
        assert_eq!(Package::read(path).unwrap().upload.migrations.len(), MIGRATIONS_MAX);
        set_len("agent.toml", MANIFEST_BYTES_MAX.0 + 1);
        too_large("manifest");
        std::fs::write(path.join("agent.toml"), MANIFEST).unwrap();
        set_len("a.wasm.sig", SIGNATURE_BYTES_MAX + 1);
        assert!(matches!(Package::read(path), Err(PackageError::SignatureTooLarge { .. })));
        let small = path.join("small");
        std::fs::write(&small, "four").unwrap();
        assert_eq!(read_at_most(&small, 4).unwrap().as_deref(), Some(&b"four"[..]));
        assert_eq!(read_at_most(&small, 3).unwrap(), None);
    }

    #[test]
    fn agents_are_found_one_level_deep() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c/deeper", "empty", ".hidden"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        for name in ["b/agent.toml", "a/agent.toml", "c/deeper/agent.toml", ".hidden/agent.toml", "agent.toml"] {
            std::fs::write(folder.path().join(name), MANIFEST).unwrap();
        }
        assert_eq!(find(folder.path()).unwrap(), [folder.path().join("a"), folder.path().join("b")]);
        assert!(find(&folder.path().join("missing")).is_err());
        assert!(matches!(Package::read(folder.path()), Err(PackageError::Unreadable { .. })));
    }
}
