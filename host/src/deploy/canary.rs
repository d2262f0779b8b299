//! Watching canaries: what hosts count of them is summed in the catalog, and one that is clearly worse is rolled back.

use std::sync::PoisonError;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{DeployedAgent, Deployer};
use crate::catalog::{Actor, Canary, CatalogError, Change, PROBABILITY_MAX, Tally, Traffic, Worse, verdict};

/// How often canaries are judged.
const JUDGE_EVERY: Duration = Duration::from_secs(1);

impl Deployer {
    /// Judges canaries until it is told to end.
    pub async fn watch_canaries(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(JUDGE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            for deployed in self.all() {
                if let Err(error) = self.judge(&deployed).await {
                    let agent = deployed.slot.name();
                    tracing::warn!(%agent, error = &error as &dyn std::error::Error, "a canary cannot be judged just now");
                }
            }
        }
    }

    async fn judge(&self, deployed: &DeployedAgent) -> Result<(), CatalogError> {
        let (traffic, change) = deployed.slot.traffic();
        let Some(canary) = traffic.canary else { return Ok(()) };
        let agent = deployed.slot.name();
        let counted = deployed.slot.take_counted();
        let sums = self.catalog.tally(agent, change, &counted).await?;
        let of = |number: u64| sums.iter().find(|(revision, _)| *revision == number).map(|(_, tally)| *tally);
        let (active, on_canary) = (of(traffic.active).unwrap_or_default(), of(canary.revision).unwrap_or_default());
        *deployed.tallies.lock().unwrap_or_else(PoisonError::into_inner) = sums;
        let Some(worse) = verdict(active, on_canary) else { return Ok(()) };
        let why = why(traffic, canary, active, on_canary, worse);
        let _one_at_a_time = self.deployed.deploying.lock().await;
        let event = self.event(agent, &Actor::host(), "canary-rolled-back", why.clone());
        // Refused where another host did it first, or an operator changed the agent: then there is nothing to do.
        if let Ok(entry) = self.catalog.change(agent, Change::EndCanary { of_change: change }, event).await? {
            tracing::warn!(%agent, why, "a canary is rolled back");
            if let Err(error) = self.apply(&entry, None).await {
                tracing::error!(%agent, error = &error as &dyn std::error::Error, "a rollback cannot be followed yet");
            }
        }
        Ok(())
    }
}

/// One line for people.
fn why(traffic: Traffic, canary: Canary, active: Tally, on_canary: Tally, worse: Worse) -> String {
    format!(
        "revision {} failed {} of {} tasks, revision {} {} of {}: by chance alone this has a probability of {:.1e}, and below \
         {PROBABILITY_MAX:.0e} a canary is rolled back",
        canary.revision,
        on_canary.failed,
        on_canary.tasks(),
        traffic.active,
        active.failed,
        active.tasks(),
        worse.probability,
    )
}
