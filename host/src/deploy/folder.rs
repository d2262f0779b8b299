//! Agents in folders: `agent.toml`, the module beside it, and its migrations.

use std::path::{Path, PathBuf};

use crate::agents::Upload;
use crate::catalog::Migration;
use crate::manifest::{Manifest, ManifestErrors};
use crate::task::AgentName;

/// Name of the manifest in an agent's folder.
const MANIFEST: &str = "agent.toml";

/// Why a folder is no agent.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}{hint}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do, where that is known.
        hint: &'static str,
    },
    /// The manifest is wrong.
    #[error("{path}: {source}")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ManifestErrors,
    },
}

/// Reads what a deploy of the agent in this folder (or of this manifest) sends.
///
/// # Errors
/// A file that cannot be read, or a manifest that is wrong.
pub fn upload_from_folder(path: &Path) -> Result<(AgentName, Upload), FolderError> {
    let manifest_path = if path.is_dir() { path.join(MANIFEST) } else { path.to_owned() };
    let folder = manifest_path.parent().unwrap_or(Path::new("."));
    let text = read(&manifest_path, " (expected an agent's folder or its agent.toml)")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let manifest = Manifest::parse(&text)
        .map_err(|source| FolderError::Manifest { path: manifest_path.clone(), source })?;
    let module = read(&folder.join(&manifest.agent.module), " (is the agent built?)")?;
    let mut migrations = Vec::new();
    for grant in &manifest.grants.sql {
        if let Some(name) = &grant.migrations {
            migrations.extend(read_migrations(&folder.join(name))?);
        }
    }
    let upload = Upload { module: module.into(), manifest: text, migrations };
    Ok((manifest.agent.name, upload))
}

/// The agents of a folder: each direct sub-folder with a manifest, not deeper, in name order.
///
/// # Errors
/// The folder itself cannot be read.
pub fn read_agent_folder(folder: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let mut agents: Vec<PathBuf> = entries(folder, " (set AGENT_HOST_AGENTS_DIR to a folder of agents)")?
        .into_iter()
        .filter(|entry| entry.join(MANIFEST).is_file())
        .collect();
    agents.sort();
    Ok(agents)
}

fn read_migrations(folder: &Path) -> Result<Vec<Migration>, FolderError> {
    let mut files = entries(folder, " (named by the manifest's grants.sql)")?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let sql = String::from_utf8_lossy(&read(&file, "")?).into_owned();
            Ok(Migration { name, sql })
        })
        .collect()
}

fn read(path: &Path, hint: &'static str) -> Result<Vec<u8>, FolderError> {
    std::fs::read(path).map_err(|source| FolderError::Read { path: path.to_owned(), source, hint })
}

fn entries(folder: &Path, hint: &'static str) -> Result<Vec<PathBuf>, FolderError> {
    let failed = |source| FolderError::Read { path: folder.to_owned(), source, hint };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}
