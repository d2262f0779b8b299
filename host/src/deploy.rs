//! Deployed agents on this host: checks uploads, keeps revisions, starts consumers, follows the rest of the fleet.

mod canary;
mod change;
mod check;
mod elsewhere;
mod follow;
mod plan;
mod report;
mod room;
mod shelf;
mod told;
mod vouched;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};

use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::elsewhere::Elsewhere;
use self::follow::NotLoaded;
pub use self::report::Seen;
use self::room::Room;
use crate::agent::{Loader, Revision, Runner};
use crate::agents::{Activation, AgentInfo, Agents, ChangeError, DeployError, Deployed, Plan, Upload};
use crate::capability::Capabilities;
use crate::capability::files::FilesRoot;
use crate::catalog::{Actor, Added, AgentEntry, Catalog, CatalogError, Change, Tally, Traffic};
use crate::delivery::{Broker, BrokerError};
use crate::dispatch::{AgentSlot, Dispatcher, prefetch};
use crate::manifest::Manifest;
use crate::signature::TrustedKeys;
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
    pub files: Arc<FilesRoot>,
    /// What runs their tasks.
    pub dispatcher: Arc<Dispatcher>,
    /// Most instances of one agent alive at once on this host, whatever its manifest says.
    pub concurrency_max: u32,
    /// Whose modules run here.
    pub trusted: TrustedKeys,
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
    /// Agents that could not be brought to what the catalog says so far: while there are any, this host is not ready.
    not_loaded: std::sync::Mutex<BTreeMap<AgentName, NotLoaded>>,
    /// How often operators had changed secrets at the last look.
    secret_changes: AtomicU64,
    stopping: CancellationToken,
    /// Something of what this host tells the fleet is new.
    moved: Notify,
    /// For modules that are loaded.
    room: Arc<Room>,
    /// What other hosts have.
    elsewhere: Elsewhere,
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

    fn put(&self, agent: AgentName, deployed: DeployedAgent) {
        self.agents.write().unwrap_or_else(PoisonError::into_inner).insert(agent, Arc::new(deployed));
    }
}

struct DeployedAgent {
    slot: Arc<AgentSlot>,
    /// Its consumer here; none while it is paused.
    consuming: Option<Consuming>,
    /// The fleet's counts of the split that there is.
    tallies: std::sync::Mutex<Vec<(u64, Tally)>>,
}

#[derive(Clone)]
struct Consuming {
    live: watch::Receiver<bool>,
    prefetch: u16,
    stop: CancellationToken,
}

impl DeployedAgent {
    fn new(slot: Arc<AgentSlot>, consuming: Option<Consuming>) -> Self {
        Self { slot, consuming, tallies: std::sync::Mutex::default() }
    }

    /// Whether it is as the catalog says.
    fn is_at(&self, entry: &AgentEntry) -> bool {
        let (traffic, change) = self.slot.traffic();
        entry.traffic == Some(traffic) && entry.change == change && entry.is_paused == self.consuming.is_none()
    }

    fn stop(&self) {
        if let Some(consuming) = &self.consuming {
            consuming.stop.cancel();
        }
    }
}

impl Deployer {
    /// Says that everything that was to be deployed at the start is.
    pub fn start_is_over(&self) {
        self.deployed.loaded.store(true, Ordering::Relaxed);
    }

    /// Cancels all consumers and waits until they have handed their deliveries over or back.
    pub async fn stop_intake(&self) {
        self.deployed.stopping.cancel();
        for deployed in self.all() {
            deployed.stop();
        }
        self.deployed.consumers.close();
        self.deployed.consumers.wait().await;
    }

    /// The active revision of each agent.
    #[must_use]
    pub fn active(&self) -> Vec<Arc<Revision>> {
        self.all().iter().filter_map(|deployed| deployed.slot.active()).collect()
    }

    /// Makes this host do what the catalog says of an agent. `fresh` is a revision that is loaded already.
    async fn apply(&self, entry: &AgentEntry, fresh: Option<Arc<Revision>>) -> Result<(), DeployError> {
        match entry.traffic {
            None => self.forget(&entry.agent),
            Some(traffic) => {
                let revisions = self.revisions(&entry.agent, traffic, fresh).await.map_err(|(_, error)| error)?;
                // Loading takes its time. What was changed meanwhile is followed next: nothing starts on what it withdrew.
                let now = self.entry(&entry.agent).await?;
                if now.is_none_or(|now| now.change != entry.change) {
                    return Ok(());
                }
                self.cut_over(entry, traffic, revisions).await.map_err(DeployError::Broker)?;
            }
        }
        // Whoever asked for the change: what failed before it is past.
        self.deployed.not_loaded().remove(&entry.agent);
        self.deployed.moved.notify_one();
        Ok(())
    }

    /// Stops consuming for an agent that is removed. What runs, runs to its end.
    fn forget(&self, agent: &AgentName) {
        let gone = self.deployed.agents.write().unwrap_or_else(PoisonError::into_inner).remove(agent);
        if let Some(gone) = gone {
            gone.stop();
            tracing::info!(%agent, "removed");
        }
    }

    /// The revisions that new tasks go to, loaded; the one that does not load is named.
    async fn revisions(
        &self,
        agent: &AgentName,
        traffic: Traffic,
        fresh: Option<Arc<Revision>>,
    ) -> Result<Vec<Arc<Revision>>, (u64, DeployError)> {
        let mut revisions = Vec::new();
        for (number, _) in traffic.weights() {
            let fresh = fresh.as_ref().filter(|fresh| fresh.number == number).cloned();
            let known = || self.find(agent).and_then(|deployed| deployed.slot.serves(number));
            let revision = match fresh.or_else(known) {
                Some(revision) => revision,
                None => self.load(agent, number).await.map_err(|error| (number, error))?,
            };
            revisions.push(revision);
        }
        Ok(revisions)
    }

    async fn load(&self, agent: &AgentName, number: u64) -> Result<Arc<Revision>, DeployError> {
        let _room = self.deployed.room.for_module(&*self.catalog, agent, number).await?;
        let Some(stored) = self.catalog.get(agent, number).await? else {
            return Err(DeployError::Host(format!("the catalog has no revision {number} of {agent}")));
        };
        let signed_by = vouched::stored(&self.trusted, &stored.content).await?;
        let manifest = Arc::new(Manifest::parse(&stored.content.manifest)?);
        let revision = self.checked(&stored.content, &manifest).await?.number(number, &self.capabilities);
        tracing::info!(%agent, revision = number, digest = %revision.digest, signed_by, "loaded");
        Ok(Arc::new(revision))
    }

    /// Directs new tasks, and starts or stops consuming.
    async fn cut_over(
        &self,
        entry: &AgentEntry,
        traffic: Traffic,
        revisions: Vec<Arc<Revision>>,
    ) -> Result<(), BrokerError> {
        let agent = &entry.agent;
        // Its places are the active revision's, whichever runs in them.
        let active = revisions.iter().find(|revision| revision.number == traffic.active);
        let concurrency = active.map_or(1, |active| active.manifest.limits.concurrency);
        // The longest that a task may keep others waiting; of a split, the slower side's.
        let timeout = revisions.iter().map(|revision| revision.manifest.limits.timeout).max().unwrap_or_default();
        let prefetch = prefetch(concurrency.min(self.concurrency_max), timeout);
        let known = self.find(agent);
        let slot = match &known {
            Some(known) => {
                known.slot.cut_over(traffic, entry.change, revisions);
                Arc::clone(&known.slot)
            }
            None => {
                let shelf = Arc::new(self.shelf());
                let limit = self.concurrency_max;
                Arc::new(AgentSlot::new(agent.clone(), traffic, entry.change, revisions, shelf, limit))
            }
        };
        let consuming = known.as_ref().and_then(|known| known.consuming.clone());
        let consuming = match consuming {
            _ if entry.is_paused => None,
            Some(consuming) if consuming.prefetch == prefetch => Some(consuming),
            _ => Some(self.consume(&slot, prefetch).await?),
        };
        let goes_on = consuming.as_ref().map(|consuming| consuming.prefetch);
        self.deployed.put(agent.clone(), DeployedAgent::new(slot, consuming));
        // A new consumer is there before the old one goes, so that the agent is consumed throughout.
        if let Some(known) = known
            && known.consuming.as_ref().map(|consuming| consuming.prefetch) != goes_on
        {
            known.stop();
        }
        Ok(())
    }

    async fn consume(&self, slot: &Arc<AgentSlot>, prefetch: u16) -> Result<Consuming, BrokerError> {
        let consumer = self.broker.consume(slot.name(), prefetch).await?;
        let consuming = Consuming { live: consumer.live.clone(), prefetch, stop: consumer.stop.clone() };
        self.deployed.consumers.spawn(Arc::clone(&self.dispatcher).serve(Arc::clone(slot), consumer));
        Ok(consuming)
    }

    /// Whether no other revision of the agent is active in the fleet.
    async fn is_nobodys_choice_against(&self, agent: &AgentName, revision: u64) -> Result<bool, CatalogError> {
        let other = self.entry(agent).await?.filter(|entry| {
            entry.traffic.is_some_and(|traffic| traffic.active != revision || traffic.canary.is_some())
        });
        if let Some(traffic) = other.as_ref().and_then(|entry| entry.traffic) {
            tracing::warn!(
                %agent, revision, active = traffic.active,
                "the agents folder has a revision that was deployed before, and another one was activated since: that one \
                 stays; to change it: agent-host deploy"
            );
        }
        Ok(other.is_none())
    }

    /// An agent as the fleet has it.
    async fn entry(&self, agent: &AgentName) -> Result<Option<AgentEntry>, CatalogError> {
        Ok(self.catalog.entries().await?.into_iter().find(|entry| entry.agent == *agent))
    }

    fn find(&self, agent: &AgentName) -> Option<Arc<DeployedAgent>> {
        self.deployed.agents.read().unwrap_or_else(PoisonError::into_inner).get(agent).cloned()
    }

    fn all(&self) -> Vec<Arc<DeployedAgent>> {
        self.deployed.agents.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    async fn deploy_one_at_a_time(
        &self,
        agent: &AgentName,
        upload: Upload,
        activation: Activation,
        who: &Actor,
    ) -> Result<Deployed, DeployError> {
        let (manifest, content) = check::content(agent, upload)?;
        let signed_by = vouched::uploaded(&self.trusted, &content).await?;
        let _one_at_a_time = self.deployed.deploying.lock().await;
        if let Some(active) = self.running_already(&content, who).await? {
            return Ok(Deployed { signed_by, ..active });
        }
        // Everything that can be refused is refused before the catalog gives out a number.
        self.check_secrets(&manifest)?;
        let checked = self.checked(&content, &manifest).await?;
        let digest = content.digest.clone();
        let by = signed_by.as_ref().map_or(String::new(), |key| format!(", signed by {key}"));
        let added = self.event(agent, who, "revision-added", format!("{digest}{by}"));
        let (revision, known) = match self.catalog.add(content, added).await? {
            Added::New(revision) => (revision, false),
            Added::Known(revision) => {
                self.check_kept(agent, revision).await?;
                (revision, true)
            }
        };
        let activate = match activation {
            Activation::Always => true,
            Activation::Never => false,
            Activation::IfNew => !known || self.is_nobodys_choice_against(agent, revision).await?,
        };
        if activate {
            let event = self.event(agent, who, "deployed", format!("revision {revision}, {digest}"));
            let entry = self.catalog.change(agent, Change::Activate(revision), event).await?;
            let entry = entry.map_err(|refused| DeployError::Host(refused.to_string()))?;
            let fresh = Arc::new(checked.number(revision, &self.capabilities));
            self.apply(&entry, Some(fresh)).await?;
        }
        tracing::info!(%agent, revision, %digest, active = activate, signed_by, "deployed");
        Ok(Deployed { agent: agent.clone(), revision, digest, known, active: activate, signed_by })
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

    async fn is_elsewhere(&self, agent: &AgentName) -> Result<bool, CatalogError> {
        self.is_elsewhere(agent).await
    }

    fn all_consuming(&self) -> bool {
        let is_live = |consuming: &Consuming| *consuming.live.borrow();
        self.deployed.loaded.load(Ordering::Relaxed)
            && self.deployed.not_loaded().is_empty()
            && !self.deployed.stopping.is_cancelled()
            && self.all().iter().all(|deployed| deployed.consuming.as_ref().is_none_or(is_live))
    }

    async fn list(&self) -> Result<Vec<AgentInfo>, CatalogError> {
        let mut infos = Vec::new();
        for deployed in self.all() {
            infos.extend(self.report(&deployed).await?);
        }
        Ok(infos)
    }

    async fn get(&self, agent: &AgentName) -> Result<Option<AgentInfo>, CatalogError> {
        let Some(deployed) = self.find(agent) else { return Ok(None) };
        let Some(mut info) = self.report(&deployed).await? else { return Ok(None) };
        // As the catalog has it: this host may be behind, too.
        if let Some(entry) = self.entry(agent).await? {
            info.change = entry.change;
        }
        info.hosts = self.catalog.hosts(agent).await?;
        info.history = self.catalog.events(Some(agent), None, report::HISTORY_EVENTS).await?;
        Ok(Some(info))
    }

    async fn deploy(
        &self,
        agent: &AgentName,
        upload: Upload,
        activation: Activation,
        who: Actor,
    ) -> Result<Deployed, DeployError> {
        self.deploy_one_at_a_time(agent, upload, activation, &who).await
    }

    async fn plan(&self, agent: &AgentName, upload: Upload) -> Result<Plan, DeployError> {
        self.planned(agent, upload).await
    }

    async fn change(&self, agent: &AgentName, change: Change, force: bool, who: Actor) -> Result<(), ChangeError> {
        self.change_one_at_a_time(agent, change, force, &who).await
    }
}
