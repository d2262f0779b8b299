//! Whether a module may run here: it is what its digest says, and where this host trusts certain keys, one of them vouches
//! for it. Looked at when it is deployed, and by every host again whenever it comes out of the catalog, as who may write to the
//! database is not thereby who may sign.

use super::Deployer;
use crate::agents::DeployError;
use crate::catalog::NewRevision;
use crate::manifest::Manifest;
use crate::signature::{TrustedKeys, digest};
use crate::task::AgentName;

/// Looks at an upload. Tells which key vouches for it.
pub(super) async fn uploaded(trusted: &TrustedKeys, content: &NewRevision) -> Result<Option<String>, DeployError> {
    if trusted.is_empty() {
        return Ok(None);
    }
    let (trusted, content) = (trusted.clone(), content.clone());
    // Hashing a large module takes a while.
    let looked = tokio::task::spawn_blocking(move || vouching(&trusted, &content)).await;
    looked.map_err(|error| DeployError::Host(error.to_string()))?
}

/// Looks at what comes out of the catalog, likewise.
pub(super) async fn stored(trusted: &TrustedKeys, content: &NewRevision) -> Result<Option<String>, DeployError> {
    let (trusted, content) = (trusted.clone(), content.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let found = digest(&content.module);
        if found != content.digest {
            let expected = &content.digest;
            let why = format!(
                "the catalog's module {expected} is another one, {found}: somebody changed it in the database; restore it \
                 from a backup, or deploy what is meant under another digest"
            );
            return Err(DeployError::Module(why));
        }
        let named = Manifest::parse(&content.manifest)?.agent.name;
        if named != content.agent {
            let why = format!(
                "the catalog's manifest of a revision of {} is one of {named}: somebody changed it in the database; restore \
                 it from a backup, or deploy what is meant again",
                content.agent
            );
            return Err(DeployError::Module(why));
        }
        vouching(&trusted, &content)
    });
    looked.await.map_err(|error| DeployError::Host(error.to_string()))?
}

impl Deployer {
    /// Looks at a revision that was known before, as every host will when it loads it: of its row only a part is what was
    /// uploaded now.
    pub(super) async fn check_kept(&self, agent: &AgentName, number: u64) -> Result<(), DeployError> {
        let _room = self.deployed.room.for_module(&*self.catalog, agent, number).await?;
        let Some(kept) = self.catalog.get(agent, number).await? else {
            return Err(DeployError::Host(format!("the catalog has no revision {number} of {agent}")));
        };
        stored(&self.trusted, &kept.content).await.map(drop)
    }
}

fn vouching(trusted: &TrustedKeys, content: &NewRevision) -> Result<Option<String>, DeployError> {
    let NewRevision { module, manifest, migrations, signatures, .. } = content;
    Ok(trusted.vouching(module, manifest, migrations, signatures)?)
}
