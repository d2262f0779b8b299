//! Telling the fleet how far this host is, and how it does.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Deployer;
use crate::catalog::{CatalogError, Following, HostDoing, HostFigures, REPORT_EVERY};
use crate::task::AgentName;

impl Deployer {
    /// Tells how far this host is, whenever that changes and every few seconds, until it is told to end; and how it does.
    pub async fn tell(&self, figures: watch::Receiver<HostFigures>, stop: CancellationToken) {
        let host = &self.dispatcher.host;
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
                () = self.deployed.moved.notified() => {}
            }
            let doing = figures.borrow().clone();
            if let Err(error) = self.catalog.report(host, &self.following(), &doing).await {
                tracing::debug!(%error, "how far this host is cannot be told just now");
            }
        }
        if let Err(error) = self.catalog.leave(host).await {
            tracing::debug!(%error, "that this host leaves cannot be told; it is missed soon");
        }
    }

    /// How each host of the fleet does.
    ///
    /// # Errors
    /// [`CatalogError`]: the catalog cannot be read.
    pub async fn doing(&self) -> Result<Vec<HostDoing>, CatalogError> {
        self.catalog.doing().await
    }

    fn following(&self) -> BTreeMap<AgentName, Following> {
        let here = self.all();
        let here = here.iter().map(|deployed| {
            let following = Following { change: deployed.slot.traffic().1, error: None };
            (deployed.slot.name().clone(), following)
        });
        let mut following: BTreeMap<_, _> = here.collect();
        for (agent, failed) in &*self.deployed.not_loaded() {
            following.insert(agent.clone(), failed.following());
        }
        following
    }
}
