//! Whether a revision can run on this host, found out before it gets any traffic.

use std::sync::Arc;

use super::Deployer;
use crate::agent::{Code, CompileError, LoadError, Revision};
use crate::agents::{DeployError, Deployed, Upload};
use crate::capability::Capabilities;
use crate::capability::files::Folders;
use crate::capability::secrets::{clash, variable};
use crate::capability::sql::ProvisionError;
use crate::catalog::{Actor, NewRevision, Traffic};
use crate::manifest::Manifest;
use crate::signature::digest;
use crate::task::AgentName;
use crate::text::escaped;

/// A revision that compiles, starts, and has its schema and queues.
pub(super) struct Checked {
    code: Code,
    digest: String,
    manifest: Arc<Manifest>,
    folders: Folders,
}

impl Checked {
    /// Gives it its number.
    pub(super) fn number(self, revision: u64, capabilities: &Capabilities) -> Revision {
        self.code.into_revision(revision, self.digest, self.manifest, capabilities, self.folders)
    }
}

/// Longest reason why a module is refused: one that lists a hundred imports.
const REASON_BYTES_MAX: usize = 8 << 10;

/// An upload as a revision without a number. What is wrong with its manifest is told.
pub(super) fn content(agent: &AgentName, upload: Upload) -> Result<(Arc<Manifest>, NewRevision), DeployError> {
    let manifest = Arc::new(Manifest::parse(&upload.manifest)?);
    if manifest.agent.name != *agent {
        return Err(DeployError::OtherAgent { manifest: manifest.agent.name.clone(), path: agent.clone() });
    }
    let content = NewRevision {
        agent: agent.clone(),
        digest: digest(&upload.module),
        manifest: upload.manifest,
        module: upload.module,
        migrations: upload.migrations,
        signatures: upload.signatures,
    };
    Ok((manifest, content))
}

/// What a deploy answers where its module does not load: it is the module's fault, or else the host's. The names in it are
/// the module's own.
fn refused(error: LoadError) -> DeployError {
    let reason = escaped(&error.to_string(), REASON_BYTES_MAX);
    match error {
        LoadError::Compile(CompileError::Host(_)) => DeployError::Host(reason),
        _ => DeployError::Module(reason),
    }
}

impl Deployer {
    /// Answers where exactly this revision is active already: nothing changes then, except that migrations which were
    /// added to it are applied.
    pub(super) async fn running_already(
        &self,
        content: &NewRevision,
        who: &Actor,
    ) -> Result<Option<Deployed>, DeployError> {
        let Some(deployed) = self.find(&content.agent) else { return Ok(None) };
        let Some(active) = deployed.slot.active() else { return Ok(None) };
        if active.digest != content.digest {
            return Ok(None);
        }
        // Not as this host has it: another one may have directed tasks elsewhere a moment ago.
        let traffic = self.entry(&content.agent).await?.and_then(|entry| entry.traffic);
        if traffic != Some(Traffic::all_to(active.number)) {
            return Ok(None);
        }
        let stored = self.catalog.get(&content.agent, active.number).await?;
        let Some(stored) = stored.filter(|stored| stored.content.manifest == content.manifest) else { return Ok(None) };
        // Signatures that it lacks are added to it like to any other that is known.
        if content.signatures.iter().any(|signature| !stored.content.signatures.contains(signature)) {
            return Ok(None);
        }
        if stored.content.migrations != content.migrations {
            self.provision(content, &active.manifest).await?;
            let event = self.event(&content.agent, who, "revision-added", content.digest.clone());
            self.catalog.add(content.clone(), event).await?;
            self.check_kept(&content.agent, active.number).await?;
        }
        Ok(Some(Deployed {
            agent: content.agent.clone(),
            revision: active.number,
            digest: active.digest.clone(),
            known: true,
            active: true,
            signed_by: None,
        }))
    }

    /// Brings the agent's schema up to date. Migrations that were applied before are not applied again, and one that was
    /// changed since is refused.
    async fn provision(&self, content: &NewRevision, manifest: &Manifest) -> Result<(), DeployError> {
        if manifest.grants.sql.is_empty() {
            return Ok(());
        }
        let database = &self.capabilities.backends().database;
        let provisioned = database.provision(&content.agent, &manifest.grants.sql, &content.migrations).await;
        provisioned.map_err(|error| match error {
            ProvisionError::Unavailable { ref source, .. } => {
                tracing::warn!(agent = %content.agent, "{error}: {source}");
                DeployError::Database(error.to_string())
            }
            error => DeployError::Schema(error.to_string()),
        })
    }

    pub(super) async fn checked(
        &self,
        content: &NewRevision,
        manifest: &Arc<Manifest>,
    ) -> Result<Checked, DeployError> {
        let (code, folders) = self.tried(content, manifest).await?;
        self.provision(content, manifest).await?;
        self.broker.declare(&content.agent).await.map_err(DeployError::Broker)?;
        Ok(Checked { code, digest: content.digest.clone(), folders, manifest: Arc::clone(manifest) })
    }

    /// Compiles a revision and starts it for a trial. Leaves nothing behind but its compiled code.
    pub(super) async fn tried(
        &self,
        content: &NewRevision,
        manifest: &Arc<Manifest>,
    ) -> Result<(Code, Folders), DeployError> {
        self.check_grants(manifest).await?;
        let code = self.loader.load(&content.module, manifest).await.map_err(refused)?;
        let folders =
            || self.files.grant(&manifest.grants.files).map_err(|error| DeployError::Grant(error.to_string()));
        let digest = content.digest.clone();
        let trial = code.clone().into_revision(0, digest, Arc::clone(manifest), &self.capabilities, folders()?);
        let trial = Arc::new(trial);
        self.runner.try_start(&trial).await.map_err(refused)?;
        Ok((code, folders()?))
    }

    /// That no other agent's secret would be read as one of this agent's.
    pub(super) fn check_secrets(&self, manifest: &Manifest) -> Result<(), DeployError> {
        let (agent, names) = (&manifest.agent.name, &manifest.secrets.required);
        let clashes = self.all().into_iter().filter_map(|deployed| deployed.slot.active()).filter_map(|other| {
            if other.agent == *agent {
                return None;
            }
            let (mine, theirs) = clash((agent, names), (&other.agent, &other.manifest.secrets.required))?;
            Some(format!(
                "secret {mine:?} would be read from {}, which holds the secret {theirs:?} of the agent {}: choose another name",
                variable(agent, mine),
                other.agent
            ))
        });
        let problems: Vec<String> = clashes.collect();
        if problems.is_empty() { Ok(()) } else { Err(DeployError::Grant(problems.join("; "))) }
    }

    /// What the manifest asks for and this host cannot give.
    async fn check_grants(&self, manifest: &Manifest) -> Result<(), DeployError> {
        let missing = self.capabilities.missing_secrets(manifest).await;
        let missing = missing.map_err(DeployError::Secrets)?;
        let mut problems: Vec<String> = missing.iter().map(|secret| secret.told(&manifest.agent.name)).collect();
        if manifest.pool.max_invocations > 1 {
            problems
                .push("pool.max_invocations: this version runs every task in a fresh instance; set it to 1".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(DeployError::Grant(problems.join("; "))) }
    }
}
