//! Revisions of the catalog, for tasks that are pinned to one.

use std::sync::Arc;

use super::room::Room;
use super::{Deployer, vouched};
use crate::agent::{Loader, Revision};
use crate::capability::Capabilities;
use crate::capability::files::FilesRoot;
use crate::catalog::Catalog;
use crate::dispatch::Shelf;
use crate::manifest::Manifest;
use crate::signature::TrustedKeys;
use crate::task::AgentName;

/// Loads revisions that were deployed before, and so were checked then.
pub(super) struct CatalogShelf {
    loader: Loader,
    catalog: Arc<dyn Catalog>,
    capabilities: Capabilities,
    files: Arc<FilesRoot>,
    room: Arc<Room>,
    trusted: TrustedKeys,
}

impl Deployer {
    pub(super) fn shelf(&self) -> CatalogShelf {
        CatalogShelf {
            loader: self.loader.clone(),
            catalog: Arc::clone(&self.catalog),
            capabilities: self.capabilities.clone(),
            files: Arc::clone(&self.files),
            room: Arc::clone(&self.deployed.room),
            trusted: self.trusted.clone(),
        }
    }
}

#[async_trait::async_trait]
impl Shelf for CatalogShelf {
    async fn revision(&self, agent: &AgentName, number: u64) -> Result<Option<Arc<Revision>>, String> {
        let room = self.room.for_module(&*self.catalog, agent, number).await;
        let _room = room.map_err(|error| error.to_string())?;
        let stored = self.catalog.get(agent, number).await.map_err(|error| error.to_string())?;
        let Some(stored) = stored else { return Ok(None) };
        vouched::stored(&self.trusted, &stored.content).await.map_err(|error| error.to_string())?;
        let manifest = Arc::new(Manifest::parse(&stored.content.manifest).map_err(|error| error.to_string())?);
        let code = self.loader.load(&stored.content.module, &manifest).await.map_err(|error| error.to_string())?;
        let folders = self.files.grant(&manifest.grants.files).map_err(|error| error.to_string())?;
        let revision = code.into_revision(number, stored.content.digest, manifest, &self.capabilities, folders);
        tracing::info!(%agent, revision = number, "loaded for a pinned task");
        Ok(Some(Arc::new(revision)))
    }
}
