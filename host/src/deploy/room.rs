//! Room in the host's memory for modules on their way out of the catalog.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::catalog::{Catalog, CatalogError, RevisionSummary};
use crate::signature::SIGNATURES_BYTES_MAX;
use crate::task::AgentName;

/// What they may take together, in MiB: as much as the largest one that a host takes.
const LOADING_MIB_MAX: u32 = 128;

/// Places for their mebibytes.
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(usize::try_from(LOADING_MIB_MAX).unwrap_or(usize::MAX))))
    }
}

impl Room {
    /// Waits until there is room for a revision's module and signatures. It is taken until what this gives is dropped.
    pub(super) async fn for_module(
        &self,
        catalog: &dyn Catalog,
        agent: &AgentName,
        revision: u64,
    ) -> Result<Option<OwnedSemaphorePermit>, CatalogError> {
        let revisions = catalog.revisions(agent).await?;
        // Its signatures come with it; only how many they are is known here.
        let bytes = |one: &RevisionSummary| {
            one.module_bytes.saturating_add(if one.signatures > 0 { SIGNATURES_BYTES_MAX } else { 0 })
        };
        let bytes = revisions.iter().find(|one| one.revision == revision).map_or(0, bytes);
        let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).min(LOADING_MIB_MAX);
        // Never closed.
        Ok(Arc::clone(&self.0).acquire_many_owned(mib).await.ok())
    }
}
