//! Deployed agents on this host: checks uploads, keeps revisions, starts consumers, follows the rest of the fleet.

mod check;
mod report;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Loader, Revision, Runner};
use crate::agents::{Activation, AgentInfo, Agents, DeployError, Deployed, Upload};
use crate::capability::Capabilities;
use crate::capability::files::FilesRoot;
use crate::catalog::{Added, Catalog, CatalogError, NewRevision, StoredRevision};
use crate::delivery::{Broker, BrokerError};
use crate::dispatch::{AgentSlot, Dispatcher};
use crate::manifest::Manifest;
use crate::task::AgentName;

/// What deploying needs.
pub struct Deployer {
    /// Compiles modules.
    pub loader: Loader,
    /// Tries a module before the cut-over.
    pub runner: Runner,
    /// Where revisions are kept.
    pub catalog: Arc<dyn Catalog>,
    /// Where agents get their queues.
    pub broker: Arc<dyn Broker>,
    /// What agents may use: their schemas are made here, their secrets looked for.
    pub capabilities: Capabilities,
    /// Where folders are granted.
    pub files: FilesRoot,
    /// What runs their tasks.
    pub dispatcher: Arc<Dispatcher>,
    /// Most instances of one agent alive at once on this host, whatever its manifest says.
    pub concurrency_max: u32,
    /// The agents of this host.
    pub deployed: Arc<DeployedAgents>,
}

/// The agents of this host, by name.
#[derive(Default)]
pub struct DeployedAgents {
    agents: RwLock<BTreeMap<AgentName, Arc<DeployedAgent>>>,
    /// One deploy at a time: compiling takes all of a core, and two deploys of one agent must not cross.
    deploying: Mutex<()>,
    consumers: TaskTracker,
    /// Whether what was deployed at the start has been loaded: before that no host is ready.
    loaded: AtomicBool,
    /// Agents of the catalog that could not be loaded so far: while there are any, this host is not ready.
    not_loaded: std::sync::Mutex<BTreeMap<AgentName, NotLoaded>>,
    stopping: CancellationToken,
}

impl DeployedAgents {
    fn not_loaded(&self) -> MutexGuard<'_, BTreeMap<AgentName, NotLoaded>> {
        self.not_loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an agent of this name is deployed here.
    #[must_use]
    pub fn contains(&self, agent: &AgentName) -> bool {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).contains_key(agent)
    }
}

/// Agents of the catalog that are loaded at once.
const LOADS_AT_ONCE: usize = 8;
/// What their modules may take in memory together while they are loaded, in MiB: as much as the largest one that a host takes.
const LOADING_MIB_MAX: u32 = 128;
/// How long a revision that did not load is left alone, after the first time and at most.
const LOAD_AGAIN_AFTER: Duration = Duration::from_secs(1);
const LOAD_AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// A revision of the catalog that could not be loaded.
struct NotLoaded {
    revision: u64,
    since: Instant,
    again_after: Duration,
}

impl NotLoaded {
    /// It failed, `before` perhaps too.
    fn again(revision: u64, before: Option<&Self>) -> Self {
        let again_after = before.map_or(LOAD_AGAIN_AFTER, |before| before.again_after * 2).min(LOAD_AGAIN_AFTER_MAX);
        Self { revision, since: Instant::now(), again_after }
    }

    fn is_to_be_tried(&self, revision: u64) -> bool {
        self.revision != revision || self.since.elapsed() >= self.again_after
    }
}

struct DeployedAgent {
    slot: Arc<AgentSlot>,
    live: tokio::sync::watch::Receiver<bool>,
    prefetch: u16,
    stop: CancellationToken,
}

impl Deployer {
    /// Loads the active revision of every agent in the catalog that is not loaded yet, or is at another revision. A bad
    /// one is reported and the rest load; it is tried again, but less and less often, as compiling it may be what fails.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn follow_catalog(&self) -> Result<(), CatalogError> {
        if self.to_be_loaded().await?.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.deployed.deploying.lock().await;
        // Asked again: a deploy that was waited for may have changed it.
        let changed = self.to_be_loaded().await?;
        // Loading is mostly waiting for the database and the broker.
        let room = Semaphore::new(usize::try_from(LOADING_MIB_MAX).unwrap_or(usize::MAX));
        let loads = changed.into_iter().map(|(agent, revision)| self.follow(agent, revision, &room));
        futures::stream::iter(loads).buffer_unordered(LOADS_AT_ONCE).try_collect::<()>().await
    }

    /// Active revisions that this host does not run.
    async fn to_be_loaded(&self) -> Result<Vec<(AgentName, u64)>, CatalogError> {
        let mut active = self.catalog.active().await?;
        active.retain(|(agent, revision)| {
            let loaded = self.find(agent).map(|deployed| deployed.slot.active().number);
            let not_loaded = self.deployed.not_loaded();
            loaded != Some(*revision) && not_loaded.get(agent).is_none_or(|failed| failed.is_to_be_tried(*revision))
        });
        Ok(active)
    }

    /// Loads a revision of the catalog, once there is room for its module.
    async fn follow(&self, agent: AgentName, revision: u64, room: &Semaphore) -> Result<(), CatalogError> {
        let revisions = self.catalog.revisions(&agent).await?;
        let bytes = revisions.iter().find(|one| one.revision == revision).map_or(0, |one| one.module_bytes);
        let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX).min(LOADING_MIB_MAX);
        // Never closed.
        let _room = room.acquire_many(mib).await;
        let Some(stored) = self.catalog.get(&agent, revision).await? else { return Ok(()) };
        match self.load(stored).await {
            Ok(()) => {
                self.deployed.not_loaded().remove(&agent);
            }
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                tracing::error!(%agent, revision, error = cause, "a revision of the catalog does not load");
                let mut not_loaded = self.deployed.not_loaded();
                let before = not_loaded.get(&agent).filter(|failed| failed.revision == revision);
                let failed = NotLoaded::again(revision, before);
                not_loaded.insert(agent, failed);
            }
        }
        Ok(())
    }

    /// Says that everything that was to be deployed at the start is.
    pub fn start_is_over(&self) {
        self.deployed.loaded.store(true, Ordering::Relaxed);
    }

    /// Cancels all consumers and waits until they have handed their deliveries over or back.
    pub async fn stop_intake(&self) {
        self.deployed.stopping.cancel();
        for deployed in self.all() {
            deployed.stop.cancel();
        }
        self.deployed.consumers.close();
        self.deployed.consumers.wait().await;
    }

    /// The active revision of each agent.
    #[must_use]
    pub fn active(&self) -> Vec<Arc<Revision>> {
        self.all().iter().map(|deployed| deployed.slot.active()).collect()
    }

    async fn load(&self, stored: StoredRevision) -> Result<(), DeployError> {
        let manifest = Arc::new(Manifest::parse(&stored.content.manifest)?);
        let revision = self.checked(&stored.content, &manifest).await?.number(stored.revision, &self.capabilities);
        let (agent, number, digest) = (revision.agent.clone(), revision.number, revision.digest.clone());
        self.cut_over(revision).await.map_err(DeployError::Broker)?;
        tracing::info!(%agent, revision = number, %digest, "loaded");
        Ok(())
    }

    /// Directs new tasks to a revision, and starts consuming where the agent is new here.
    async fn cut_over(&self, revision: Revision) -> Result<(), BrokerError> {
        let (agent, revision) = (revision.agent.clone(), Arc::new(revision));
        let prefetch = Dispatcher::prefetch(revision.manifest.limits.concurrency.min(self.concurrency_max));
        let known = self.find(&agent);
        if let Some(deployed) = &known {
            deployed.slot.cut_over(Arc::clone(&revision));
            if deployed.prefetch == prefetch {
                return Ok(());
            }
        }
        let slot = known
            .as_ref()
            .map_or_else(|| Arc::new(AgentSlot::new(revision, self.concurrency_max)), |known| Arc::clone(&known.slot));
        let consumer = self.broker.consume(&agent, prefetch).await?;
        let deployed = DeployedAgent {
            slot: Arc::clone(&slot),
            live: consumer.live.clone(),
            prefetch,
            stop: consumer.stop.clone(),
        };
        self.deployed.consumers.spawn(Arc::clone(&self.dispatcher).serve(slot, consumer));
        self.deployed.agents.write().unwrap_or_else(PoisonError::into_inner).insert(agent, Arc::new(deployed));
        // The new consumer is there before the old one goes, so that the agent is consumed throughout.
        if let Some(known) = known {
            known.stop.cancel();
        }
        Ok(())
    }

    /// Whether no other revision of the agent is active in the fleet.
    async fn is_nobodys_choice_against(&self, agent: &AgentName, revision: u64) -> Result<bool, CatalogError> {
        let all = self.catalog.active().await?;
        let other = all.iter().find(|(name, active)| name == agent && *active != revision);
        if let Some((_, active)) = other {
            tracing::warn!(
                %agent, revision, active,
                "the agents folder has a revision that was deployed before, and another one was activated since: that one \
                 stays; to change it: agent-host deploy"
            );
        }
        Ok(other.is_none())
    }

    fn find(&self, agent: &AgentName) -> Option<Arc<DeployedAgent>> {
        self.deployed.agents.read().unwrap_or_else(PoisonError::into_inner).get(agent).cloned()
    }

    fn all(&self) -> Vec<Arc<DeployedAgent>> {
        self.deployed.agents.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[async_trait::async_trait]
impl Agents for Deployer {
    fn is_deployed(&self, agent: &AgentName) -> bool {
        self.deployed.contains(agent)
    }

    fn may_be_deployed(&self, agent: &AgentName) -> bool {
        !self.deployed.loaded.load(Ordering::Relaxed) || self.deployed.not_loaded().contains_key(agent)
    }

    fn all_consuming(&self) -> bool {
        self.deployed.loaded.load(Ordering::Relaxed)
            && self.deployed.not_loaded().is_empty()
            && !self.deployed.stopping.is_cancelled()
            && self.all().iter().all(|deployed| *deployed.live.borrow())
    }

    async fn list(&self) -> Result<Vec<AgentInfo>, CatalogError> {
        let mut infos = Vec::new();
        for deployed in self.all() {
            infos.push(self.report(&deployed).await?);
        }
        Ok(infos)
    }

    async fn get(&self, agent: &AgentName) -> Result<Option<AgentInfo>, CatalogError> {
        match self.find(agent) {
            Some(deployed) => Ok(Some(self.report(&deployed).await?)),
            None => Ok(None),
        }
    }

    async fn deploy(&self, agent: &AgentName, upload: Upload, activation: Activation) -> Result<Deployed, DeployError> {
        let manifest = Arc::new(Manifest::parse(&upload.manifest)?);
        if manifest.agent.name != *agent {
            return Err(DeployError::OtherAgent { manifest: manifest.agent.name.clone(), path: agent.clone() });
        }
        let _one_at_a_time = self.deployed.deploying.lock().await;
        let content = NewRevision {
            agent: agent.clone(),
            digest: check::digest(&upload.module),
            manifest: upload.manifest,
            module: upload.module,
            migrations: upload.migrations,
        };
        if let Some(active) = self.running_already(&content).await? {
            return Ok(active);
        }
        // Everything that can be refused is refused before the catalog gives out a number.
        let checked = self.checked(&content, &manifest).await?;
        let digest = content.digest.clone();
        let (revision, known) = match self.catalog.add(content).await? {
            Added::New(revision) => (revision, false),
            Added::Known(revision) => (revision, true),
        };
        let activate = match activation {
            Activation::Always => true,
            Activation::Never => false,
            Activation::IfNew => !known || self.is_nobodys_choice_against(agent, revision).await?,
        };
        if activate {
            self.catalog.activate(agent, revision).await?;
            self.cut_over(checked.number(revision, &self.capabilities)).await.map_err(DeployError::Broker)?;
        }
        tracing::info!(%agent, revision, %digest, active = activate, "deployed");
        Ok(Deployed { agent: agent.clone(), revision, digest, known, active: activate })
    }
}
