//! Following the catalog: what other hosts deployed, directed elsewhere, paused or removed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::Deployer;
use crate::capability::chain;
use crate::catalog::{AgentEntry, CatalogError, Following};

/// Agents that are brought up to date at once.
const LOADS_AT_ONCE: usize = 8;
/// How long an agent that could not be brought to what the catalog says is left alone, after the first time and at most.
const LOAD_AGAIN_AFTER: Duration = Duration::from_secs(1);
const LOAD_AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);
/// How often the catalog is looked at where nobody tells of a change: twice within the 5 s that the contract allows.
const POLL: Duration = Duration::from_secs(2);
/// Pause between two looks: whoever may use the database may also tell of changes that there are not.
const PAUSE: Duration = Duration::from_millis(50);

/// A change of the catalog that this host could not follow.
pub(super) struct NotLoaded {
    change: u64,
    error: String,
    since: Instant,
    again_after: Duration,
}

impl NotLoaded {
    /// It failed, `before` perhaps too.
    fn again(change: u64, error: String, before: Option<&Self>) -> Self {
        let again_after = before.map_or(Duration::ZERO, |before| before.again_after * 2);
        let again_after = again_after.clamp(LOAD_AGAIN_AFTER, LOAD_AGAIN_AFTER_MAX);
        Self { change, error, since: Instant::now(), again_after }
    }

    /// As the fleet is told of it.
    pub(super) fn following(&self) -> Following {
        Following { change: self.change, error: Some(self.error.clone()) }
    }

    /// Something that it may have lacked has changed.
    fn try_at_once(&mut self) {
        self.again_after = Duration::ZERO;
    }

    fn is_to_be_tried(&self, change: u64) -> bool {
        self.change != change || self.since.elapsed() >= self.again_after
    }
}

impl Deployer {
    /// Follows the catalog until it is told to end: whenever somebody tells of a change, and every 2 s.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let changed = self.catalog.changed();
        tokio::pin!(changed);
        let (mut is_listening, mut is_to_look) = (true, false);
        let mut not_before = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                told = &mut changed, if is_listening => {
                    // Where the catalog is away it is tried again with the next tick.
                    (is_listening, is_to_look) = (told.is_ok(), true);
                    changed.set(self.catalog.changed());
                }
                _ = ticks.tick() => (is_listening, is_to_look) = (true, true),
                () = tokio::time::sleep_until(not_before), if is_to_look => {
                    is_to_look = false;
                    self.follow_secrets().await;
                    if let Err(error) = self.follow_catalog().await {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the catalog of agents cannot be read");
                    }
                    not_before = tokio::time::Instant::now() + PAUSE;
                }
            }
        }
    }

    /// Looks at the secrets that operators set, so that the next tasks get them. Where some changed, agents that could not be
    /// loaded are tried at once: they may have lacked one.
    async fn follow_secrets(&self) {
        match self.capabilities.backends().secrets.look().await {
            Ok(changes) if self.deployed.secret_changes.swap(changes, Ordering::Relaxed) != changes => {
                self.deployed.not_loaded().values_mut().for_each(NotLoaded::try_at_once);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the secrets cannot be read; tasks get those that were"
                );
            }
        }
    }

    /// Brings every agent to what the catalog says. One that cannot be is reported and the rest are; it is tried again, but
    /// less and less often, as compiling it may be what fails.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn follow_catalog(&self) -> Result<(), CatalogError> {
        if self.to_be_changed().await?.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.deployed.deploying.lock().await;
        // Asked again: a deploy that was waited for may have changed it.
        let changed = self.to_be_changed().await?;
        // Loading is mostly waiting for the database and the broker.
        let changes = changed.into_iter().map(|entry| self.follow_one(entry));
        futures::stream::iter(changes).buffer_unordered(LOADS_AT_ONCE).collect::<()>().await;
        Ok(())
    }

    /// Agents that are not here as the catalog says, those included that are there no more.
    async fn to_be_changed(&self) -> Result<Vec<AgentEntry>, CatalogError> {
        let mut entries = self.catalog.entries().await?;
        let here = self.all();
        let gone: Vec<_> = here
            .iter()
            .map(|deployed| deployed.slot.name())
            .filter(|name| !entries.iter().any(|entry| entry.agent == **name))
            .map(|name| AgentEntry::new(name.clone()))
            .collect();
        {
            let mut not_loaded = self.deployed.not_loaded();
            not_loaded.retain(|agent, _| entries.iter().any(|entry| entry.agent == *agent));
            entries.retain(|entry| {
                !here.iter().any(|deployed| *deployed.slot.name() == entry.agent && deployed.is_at(entry))
                    && not_loaded.get(&entry.agent).is_none_or(|failed| failed.is_to_be_tried(entry.change))
            });
        }
        entries.extend(gone);
        Ok(entries)
    }

    async fn follow_one(&self, entry: AgentEntry) {
        let Err(error) = self.apply(&entry, None).await else { return };
        let (agent, cause) = (&entry.agent, &error as &dyn std::error::Error);
        tracing::error!(%agent, traffic = ?entry.traffic, error = cause, "a change of the catalog cannot be followed");
        let mut not_loaded = self.deployed.not_loaded();
        let before = not_loaded.get(agent).filter(|failed| failed.change == entry.change);
        let failed = NotLoaded::again(entry.change, chain(&error), before);
        not_loaded.insert(entry.agent, failed);
        self.deployed.moved.notify_one();
    }
}
