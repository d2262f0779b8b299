//! Which agents have partitions, and consuming those.
//!
//! An agent's partitions are made by the host that publishes its first task with a partition key. That host consumes them
//! from then on. Others learn of it by the count of markers in [`topology::PARTITIONED`]; whoever starts to consume an
//! agent looks once. The marker is published before the last of the partitions is made, and the first one is what others
//! look for: so a host that dies in between leaves partitions that the next publisher completes, with another marker.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Connection;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::link::{self, Link};
use super::{AmqpConfig, declare};
use crate::broker::topology::{self, Partition};
use crate::delivery::{BrokerError, PublishError};
use crate::task::AgentName;

/// How often the markers are counted: how long a host may not know that it could stand in for another.
const COUNT_INTERVAL: Duration = Duration::from_secs(3);
/// Wait before a question that failed is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// The agents whose partitions exist, as far as this host knows.
pub(super) struct Partitions {
    config: Arc<AmqpConfig>,
    link: Arc<Link>,
    known: Mutex<HashSet<AgentName>>,
    /// One at a time: the first tasks of an agent tend to come together.
    making: tokio::sync::Mutex<()>,
    /// Changes when there may be more to know.
    news: watch::Sender<()>,
}

impl Partitions {
    pub(super) fn new(config: Arc<AmqpConfig>, link: Arc<Link>) -> Self {
        let (known, making) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { config, link, known, making, news: watch::channel(()).0 }
    }

    fn known(&self) -> MutexGuard<'_, HashSet<AgentName>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an agent's partitions are known to exist.
    pub(super) fn knows(&self, agent: &AgentName) -> bool {
        self.known().contains(agent)
    }

    /// Something was missing: the next use makes sure again.
    pub(super) fn forget(&self, agent: &AgentName) {
        self.known().remove(agent);
    }

    /// Makes sure that an agent's partitions exist. `mark` publishes a marker, where they are new.
    pub(super) async fn ensure(
        &self,
        agent: &AgentName,
        mark: impl Future<Output = Result<(), PublishError>> + Send,
    ) -> Result<(), PublishError> {
        let _one_at_a_time = self.making.lock().await;
        if self.knows(agent) {
            return Ok(());
        }
        let connection = self.link.get().ok_or_else(|| PublishError::Unavailable(link::down()))?;
        // An agent that is unknown to the broker does not become known by a partition key.
        let unavailable = PublishError::Unavailable;
        if !declare::exists(&connection, &topology::task_queue(agent)).await.map_err(unavailable)? {
            return Err(PublishError::Unroutable { route: agent.to_string() });
        }
        let but_last = Partition::COUNT.saturating_sub(1).into();
        let is_new = !declare::exists(&connection, &last_queue(agent)).await.map_err(unavailable)?;
        // Also where the last one exists: any of them may have been deleted.
        self.make(&connection, agent, Partition::all().take(but_last)).await?;
        if is_new {
            mark.await?;
        }
        self.make(&connection, agent, Partition::all().skip(but_last)).await?;
        self.note(agent);
        Ok(())
    }

    async fn make(
        &self,
        connection: &Connection,
        agent: &AgentName,
        some: impl Iterator<Item = Partition> + Send,
    ) -> Result<(), PublishError> {
        let declarations: Vec<_> = some.flat_map(|one| topology::for_partition(agent, one)).collect();
        let made = declare::apply(connection, &declarations, self.config.predeclared).await;
        made.map_err(PublishError::Unavailable)
    }

    fn note(&self, agent: &AgentName) {
        self.known().insert(agent.clone());
        self.news.send_replace(());
    }

    /// Waits until an agent has partitions.
    pub(super) async fn until_known(&self, agent: &AgentName) {
        let mut news = self.news.subscribe();
        loop {
            if self.knows(agent) {
                return;
            }
            match self.look_for(agent).await {
                Ok(true) => return,
                // Of this host's own partitions the next look would tell; the sender lives as long as `self`.
                Ok(false) => news.changed().await.unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(%agent, %error, "whether an agent has partitions could not be asked; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Whether an agent has partitions by now; where they are not complete, they are when this returns.
    async fn look_for(&self, agent: &AgentName) -> Result<bool, BrokerError> {
        let connection = self.link.wait().await;
        if !declare::exists(&connection, &first_queue(agent)).await? {
            return Ok(false);
        }
        declare::apply(&connection, &topology::for_partitions(agent), self.config.predeclared).await?;
        self.known().insert(agent.clone());
        Ok(true)
    }

    /// Counts the markers, again and again, and says when there may be news.
    pub(super) async fn watch_markers(self: Arc<Self>, closing: CancellationToken) {
        tokio::select! {
            () = closing.cancelled() => {}
            () = self.count_markers() => {}
        }
    }

    async fn count_markers(&self) {
        let mut known = None;
        loop {
            let connection = self.link.wait().await;
            // One channel for all counts, remade with the connection.
            let failed: Result<(), lapin::Error> = async {
                let channel = declare::answered(connection.create_channel()).await?;
                loop {
                    let count = declare::inspect(&channel, topology::PARTITIONED).await?.message_count();
                    if known.replace(count) != Some(count) {
                        self.news.send_replace(());
                    }
                    tokio::time::sleep(COUNT_INTERVAL).await;
                }
            }
            .await;
            if let Err(error) = failed {
                tracing::debug!(%error, "the markers of partitioned agents could not be counted; trying again");
            }
            drop(connection);
            tokio::time::sleep(COUNT_INTERVAL).await;
        }
    }
}

/// The partition that is made first.
pub(super) fn first_queue(agent: &AgentName) -> String {
    Partition::all().next().map(|first| first.queue(agent)).unwrap_or_default()
}

/// The partition that is made last.
fn last_queue(agent: &AgentName) -> String {
    Partition::all().next_back().map(|last| last.queue(agent)).unwrap_or_default()
}
