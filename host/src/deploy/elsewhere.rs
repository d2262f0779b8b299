//! Agents that other hosts deployed a moment ago, and that this one has not loaded yet.
//!
//! Behind a load balancer the next request after a deploy may reach any host. So a host asks the catalog before it calls an
//! agent unknown: all that ask meanwhile share one look, and looks keep a distance, so that a flood of names that nobody
//! deployed costs the database no more than a quiet follower.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Deployer;
use crate::catalog::CatalogError;
use crate::task::AgentName;

/// Shortest time from the beginning of one look to the next: what an unknown name is answered later for at most, and ten looks a
/// second at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The last look at the catalog for agents that are not here.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Held by the one who looks; the others wait for it.
    last: Mutex<Option<Look>>,
}

#[derive(Debug)]
struct Look {
    began: Instant,
    /// The agents of the fleet; nothing where the catalog could not be read.
    agents: Option<BTreeSet<AgentName>>,
}

impl Elsewhere {
    /// Whether a look that began after this was called finds the agent.
    async fn has(
        &self,
        agent: &AgentName,
        look: impl AsyncFnOnce() -> Result<BTreeSet<AgentName>, CatalogError>,
    ) -> Result<bool, CatalogError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        // One that began before may have missed what was deployed before the question.
        let answer = match &*last {
            Some(seen) if seen.began >= asked => seen.agents.as_ref().map(|agents| agents.contains(agent)),
            before => {
                if let Some(before) = before {
                    tokio::time::sleep_until(before.began + LOOK_EVERY).await;
                }
                let (began, seen) = (Instant::now(), look().await);
                let has = seen.as_ref().ok().map(|agents| agents.contains(agent));
                let failed = seen.as_ref().err().map(ToString::to_string);
                *last = Some(Look { began, agents: seen.ok() });
                tracing::debug!(failed, "looked for agents of other hosts");
                has
            }
        };
        answer.ok_or_else(|| CatalogError { action: "read", source: "it could not be asked for other agents".into() })
    }
}

impl Deployer {
    /// Whether the fleet has an agent that is not here.
    pub(super) async fn is_elsewhere(&self, agent: &AgentName) -> Result<bool, CatalogError> {
        let look = async || Ok(self.catalog.entries().await?.into_iter().map(|entry| entry.agent).collect());
        self.deployed.elsewhere.has(agent, look).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn name(text: &str) -> AgentName {
        AgentName::parse(text).unwrap()
    }

    /// What a thousand questions at once may cost: one look, and one for all who asked after it had begun. Some more where this
    /// machine takes longer for them than the distance of two looks.
    const FEW: u32 = 10;

    #[tokio::test]
    async fn a_flood_of_unknown_names_shares_a_few_looks_and_what_is_new_is_found() {
        let (elsewhere, looks) = (Elsewhere::default(), AtomicU32::new(0));
        let look = async || {
            looks.fetch_add(1, Ordering::Relaxed);
            Ok(BTreeSet::from([name("new")]))
        };
        let flood = futures::future::join_all((0..1_000).map(|number| {
            let (elsewhere, look, name) = (&elsewhere, &look, name(&format!("nobody-{number}")));
            async move { elsewhere.has(&name, look).await.unwrap() }
        }));
        assert!(flood.await.iter().all(|has| !has));
        assert!(looks.load(Ordering::Relaxed) < FEW, "{looks:?}");
        assert!(elsewhere.has(&name("new"), &look).await.unwrap());
        assert!(!elsewhere.has(&name("old"), &look).await.unwrap());
    }

    #[tokio::test]
    async fn where_the_catalog_is_away_those_who_wait_are_told_together() {
        let (elsewhere, looks) = (Elsewhere::default(), AtomicU32::new(0));
        let look = async || {
            looks.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Err(CatalogError { action: "read", source: "away".into() })
        };
        let agent = name("new");
        let asked = futures::future::join_all((0..1_000).map(|_| elsewhere.has(&agent, &look)));
        assert!(asked.await.iter().all(Result::is_err));
        assert!(looks.load(Ordering::Relaxed) < FEW, "{looks:?}");
    }
}
