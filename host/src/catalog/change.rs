//! What operators do with a deployed agent, as pure functions on its entry: both catalogs go by them.

use serde::{Deserialize, Serialize};

use crate::task::{AgentName, TaskId};

/// Where new tasks of an agent go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The active revision.
    pub active: u64,
    /// A newer revision on trial.
    pub canary: Option<Canary>,
}

/// A revision that gets a part of the new tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The revision.
    pub revision: u64,
    /// Of 100 new tasks, so many: 1 to 99.
    pub percent: u8,
}

/// Weights that say nothing that a host can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "traffic: {0}; expected one revision with 100, or two whose percentages sum to 100, such as {{\"3\":90,\"4\":10}}"
)]
pub struct InvalidTraffic(String);

impl Traffic {
    /// Everything to one revision.
    #[must_use]
    pub fn all_to(revision: u64) -> Self {
        Self { active: revision, canary: None }
    }

    /// Traffic by weights, in percent: the older of two revisions is the active one, the newer one is on trial.
    ///
    /// # Errors
    /// [`InvalidTraffic`], saying what is wrong.
    pub fn by_weights(weights: &[(u64, u32)]) -> Result<Self, InvalidTraffic> {
        let invalid = |what: String| Err(InvalidTraffic(what));
        let sum: u64 = weights.iter().map(|(_, percent)| u64::from(*percent)).sum();
        if sum != 100 {
            return invalid(format!("the percentages sum to {sum}"));
        }
        let mut used: Vec<_> = weights.iter().copied().filter(|(_, percent)| *percent > 0).collect();
        used.sort_unstable();
        match *used.as_slice() {
            [(revision, _)] => Ok(Self::all_to(revision)),
            [(active, _), (revision, _)] if active == revision => invalid(format!("revision {active} is named twice")),
            [(active, _), (revision, percent)] => {
                let percent = u8::try_from(percent).unwrap_or(99);
                Ok(Self { active, canary: Some(Canary { revision, percent }) })
            }
            _ => invalid(format!("{} revisions", used.len())),
        }
    }

    /// The revisions that get new tasks, with their percentages.
    #[must_use]
    pub fn weights(&self) -> Vec<(u64, u8)> {
        match self.canary {
            None => vec![(self.active, 100)],
            Some(canary) => vec![(self.active, 100 - canary.percent), (canary.revision, canary.percent)],
        }
    }

    /// Whether new tasks go to a revision.
    #[must_use]
    pub fn reaches(&self, revision: u64) -> bool {
        self.active == revision || self.canary.is_some_and(|canary| canary.revision == revision)
    }

    /// The revision of a task: always the same for the same split, and a task that a canary has stays with it while its
    /// percentage grows.
    #[must_use]
    pub fn revision_of(&self, id: &TaskId) -> u64 {
        match self.canary {
            Some(canary) if percentile(id) < u64::from(canary.percent) => canary.revision,
            _ => self.active,
        }
    }
}

/// A number from 0 to 99, evenly spread over ids, the same on every host and version.
fn percentile(id: &TaskId) -> u64 {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(id.as_str());
    let number = digest.iter().take(7).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    number % 100
}

/// A deployed agent as the fleet has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentEntry {
    /// Its name.
    pub agent: AgentName,
    /// Where its new tasks go; nothing where it is removed, or was never activated.
    pub traffic: Option<Traffic>,
    /// What was active before.
    pub previous: Option<u64>,
    /// Whether nobody consumes its queue.
    pub is_paused: bool,
    /// How often it was changed.
    pub change: u64,
}

/// A change of a deployed agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New tasks go to this revision.
    Activate(u64),
    /// New tasks go to the revision that was active before; while traffic is split, to the active one alone.
    RollBack,
    /// New tasks are split.
    Split(Traffic),
    /// The split of this change is over, and new tasks go to the active revision alone. Nothing where somebody changed the
    /// agent since.
    EndCanary {
        /// [`AgentEntry::change`] of the split.
        of_change: u64,
    },
    /// Hosts stop consuming.
    Pause,
    /// Hosts consume again.
    Resume,
    /// The agent is gone; its revisions and their numbers stay known.
    Remove,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// No such agent is deployed.
    #[error("the agent is not deployed")]
    NotDeployed,
    /// It has no such revision.
    #[error("there is no revision {0}; GET /v1/agents/{{agent}} lists those that there are")]
    UnknownRevision(u64),
    /// There is nothing to go back to.
    #[error("no other revision was active before; name one: {{\"revision\":N}}")]
    NothingBefore,
    /// Somebody changed the agent meanwhile.
    #[error("the agent was changed meanwhile")]
    Overtaken,
}

impl AgentEntry {
    /// An agent that has revisions and nothing active.
    #[must_use]
    pub fn new(agent: AgentName) -> Self {
        Self { agent, traffic: None, previous: None, is_paused: false, change: 0 }
    }

    /// The entry after a change. Where nothing changes, it is the same entry.
    ///
    /// # Errors
    /// [`ChangeRefused`].
    pub fn changed(&self, change: &Change) -> Result<Self, ChangeRefused> {
        let deployed = || self.traffic.ok_or(ChangeRefused::NotDeployed);
        let mut next = self.clone();
        match change {
            Change::Activate(revision) => next.direct(Traffic::all_to(*revision)),
            Change::RollBack => {
                let now = deployed()?;
                let to = match now.canary {
                    Some(_) => now.active,
                    None => self.previous.ok_or(ChangeRefused::NothingBefore)?,
                };
                next.direct(Traffic::all_to(to));
            }
            Change::Split(traffic) => {
                deployed()?;
                next.direct(*traffic);
            }
            Change::EndCanary { of_change } => {
                let now = deployed()?;
                if self.change != *of_change || now.canary.is_none() {
                    return Err(ChangeRefused::Overtaken);
                }
                next.direct(Traffic::all_to(now.active));
            }
            Change::Pause | Change::Resume => {
                deployed()?;
                next.is_paused = *change == Change::Pause;
            }
            Change::Remove => {
                let now = deployed()?;
                next = Self { previous: Some(now.active), change: self.change, ..Self::new(self.agent.clone()) };
            }
        }
        if next != *self {
            next.change += 1;
        }
        Ok(next)
    }

    fn direct(&mut self, traffic: Traffic) {
        if let Some(now) = self.traffic
            && now.active != traffic.active
        {
            self.previous = Some(now.active);
        }
        self.traffic = Some(traffic);
    }

    /// Revisions that a change would send tasks to: they must exist.
    #[must_use]
    pub fn revisions(&self) -> Vec<u64> {
        self.traffic
            .map(|traffic| traffic.weights().into_iter().map(|(revision, _)| revision).collect())
            .unwrap_or_default()
    }
}

/// How first attempts on one revision ended while traffic was split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// So many succeeded.
    pub succeeded: u64,
    /// So many failed.
    pub failed: u64,
}

impl Tally {
    /// All of them.
    #[must_use]
    pub fn tasks(self) -> u64 {
        self.succeeded.saturating_add(self.failed)
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            succeeded: self.succeeded.saturating_add(other.succeeded),
            failed: self.failed.saturating_add(other.failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> AgentEntry {
        AgentEntry::new(AgentName::parse("echo").unwrap())
    }

    fn after(changes: &[Change]) -> AgentEntry {
        changes.iter().fold(entry(), |entry, change| entry.changed(change).unwrap())
    }

    #[test]
    fn a_rollback_goes_to_what_was_active_before() {
        use Change::{Activate, RollBack};
        assert_eq!(entry().changed(&RollBack), Err(ChangeRefused::NotDeployed));
        assert_eq!(after(&[Activate(1)]).changed(&RollBack), Err(ChangeRefused::NothingBefore));
        let back = after(&[Activate(1), Activate(2), RollBack]);
        assert_eq!((back.traffic, back.previous, back.change), (Some(Traffic::all_to(1)), Some(2), 3));
        let split = Traffic::by_weights(&[(2, 90), (3, 10)]).unwrap();
        let back = after(&[Activate(1), Activate(2), Change::Split(split), RollBack]);
        assert_eq!((back.traffic, back.previous), (Some(Traffic::all_to(2)), Some(1)), "a split ends first");
    }

    #[test]
    fn a_canary_ends_once_and_only_where_nobody_changed_the_agent() {
        let split = after(&[Change::Activate(1), Change::Split(Traffic::by_weights(&[(1, 50), (2, 50)]).unwrap())]);
        let ended = split.changed(&Change::EndCanary { of_change: split.change }).unwrap();
        assert_eq!(ended.traffic, Some(Traffic::all_to(1)));
        let again = ended.changed(&Change::EndCanary { of_change: split.change });
        assert_eq!(again, Err(ChangeRefused::Overtaken));
    }

    #[test]
    fn what_changes_nothing_is_no_change() {
        let paused = after(&[Change::Activate(1), Change::Pause]);
        assert_eq!(paused.changed(&Change::Pause).unwrap(), paused);
        assert_eq!(paused.changed(&Change::Activate(1)).unwrap(), paused, "a deploy does not resume");
        let removed = paused.changed(&Change::Remove).unwrap();
        assert_eq!((removed.traffic, removed.is_paused, removed.change), (None, false, 3));
        assert_eq!(removed.changed(&Change::Remove), Err(ChangeRefused::NotDeployed));
    }

    #[test]
    fn weights_that_mean_nothing_are_refused() {
        for (weights, names) in [
            (&[][..], "sum to 0"),
            (&[(1, 99)], "sum to 99"),
            (&[(1, 50), (2, 25), (3, 25)], "3 revisions"),
            (&[(1, 50), (1, 50)], "twice"),
            (&[(1, u32::MAX), (2, u32::MAX)], "sum to"),
        ] {
            let error = Traffic::by_weights(weights).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
        assert_eq!(Traffic::by_weights(&[(7, 100), (8, 0)]), Ok(Traffic::all_to(7)));
    }

    proptest! {
        #[test]
        fn a_task_stays_with_the_canary_while_it_grows(id in "[!-~]{1,40}", small in 1_u8..=99, large in 1_u8..=99) {
            let id = TaskId::parse(&id).unwrap();
            let (small, large) = (small.min(large), small.max(large));
            let split = |percent| Traffic { active: 1, canary: Some(Canary { revision: 2, percent }) };
            if split(small).revision_of(&id) == 2 {
                prop_assert_eq!(split(large).revision_of(&id), 2);
            }
        }
    }

    #[test]
    fn a_canary_gets_its_share() {
        let split = Traffic::by_weights(&[(1, 90), (2, 10)]).unwrap();
        let ids = (0..10_000).map(|number| TaskId::parse(&format!("task-{number}")).unwrap());
        let got = ids.filter(|id| split.revision_of(id) == 2).count();
        assert!((850..1_150).contains(&got), "{got}");
    }
}
