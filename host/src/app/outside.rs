//! What a start needs from outside of the process. All of it is tried, so that one start tells everything that is missing.

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::backends::{self, Backends};
use crate::capability::files::FilesRoot;
use crate::cli::StartError;
use crate::config::Config;
use crate::deploy::DeployedAgents;
use crate::memory::MemoryLedger;
use crate::package;

/// The API's address, the services, and the folders that the configuration names.
pub(super) struct Outside {
    pub(super) listener: TcpListener,
    pub(super) backends: Backends,
    pub(super) files: FilesRoot,
}

impl Outside {
    /// Opens and connects to everything.
    ///
    /// # Errors
    /// All that is missing: [`StartError::Folders`] where a folder is, [`StartError::Unavailable`] where it is addresses and
    /// services only.
    pub(super) async fn reach(
        config: &Config,
        deployed: &Arc<DeployedAgents>,
        registry: &Registry,
        memory: &MemoryLedger,
        guests: &Handle,
    ) -> Result<Self, StartError> {
        let mut wrong = Vec::new();
        let agents = config.agents_dir.as_deref().map_or_else(|| Ok(Vec::new()), package::find);
        let agents = agents.map_err(|error| wrong.push(format!("AGENT_HOST_AGENTS_DIR: {}", backends::chain(&error))));
        let files = FilesRoot::open(config.files_root.as_deref()).map_err(|error| {
            let root = config.files_root.clone().unwrap_or_default();
            wrong.push(format!("AGENT_HOST_FILES_ROOT: {}: expected a folder: {error}", root.display()));
        });
        let mut unavailable = Vec::new();
        let (listener, backends) =
            tokio::join!(listen(config.listen), Backends::connect(config, deployed, registry, memory, guests));
        let listener = listener.map_err(|problem| unavailable.push(problem));
        let backends = match backends {
            Ok(backends) => Ok(backends),
            Err(StartError::Unavailable(problems)) => {
                unavailable.extend(problems);
                Err(())
            }
            Err(other) => return Err(other),
        };
        match (listener, backends, agents, files) {
            (Ok(listener), Ok(backends), Ok(_), Ok(files)) => Ok(Self { listener, backends, files }),
            _ if wrong.is_empty() => Err(StartError::Unavailable(unavailable)),
            _ => Err(StartError::Folders { wrong, unavailable }),
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = "free the port, or set AGENT_HOST_LISTEN to another address";
        format!("cannot listen on {address}: {error}; {advice}")
    })
}
