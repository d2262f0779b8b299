//! What is asked of the hosts: the tasks, how each must end, and the ways in which they are submitted.

use serde_json::json;

/// The agent that the tasks are for.
pub(crate) const AGENT: &str = "ledger";

/// How a task ends after it has written its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Succeed,
    /// Fails before this attempt.
    RetryUntil(u32),
    /// Waits this long before and after its row is written.
    SleepMs(u64),
    Reject,
    Trap,
}

/// One task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// From 0, in the order of the schedule.
    pub(crate) number: u64,
    pub(crate) then: Then,
    /// Whether it submits a task that writes a row of its own.
    pub(crate) follow_up: bool,
    /// Whether it uses the cache.
    pub(crate) cache: bool,
}

impl Task {
    /// Whether it succeeds in the end. If not, its row and its follow-up must not be there.
    pub(crate) fn succeeds(&self) -> bool {
        self.failure().is_none()
    }

    /// The failure's kind that it must end with.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        match self.then {
            Then::Succeed | Then::RetryUntil(_) | Then::SleepMs(_) => None,
            Then::Reject => Some("rejected"),
            Then::Trap => Some("trapped"),
        }
    }

    /// How many tasks end because of it.
    pub(crate) fn ends(&self) -> u64 {
        1 + u64::from(self.follow_up && self.succeeds())
    }

    /// What the agent is told. The label is what its rows are known by.
    pub(crate) fn body(&self, label: &str) -> String {
        let then = match self.then {
            Then::Succeed => json!("succeed"),
            Then::RetryUntil(attempt) => json!({ "retry-until": attempt }),
            Then::SleepMs(ms) => json!({ "sleep-ms": ms }),
            Then::Reject => json!("reject"),
            Then::Trap => json!("trap"),
        };
        let follow_up = self.follow_up.then(|| follow_up_label(label));
        json!({ "do": "ledger", "label": label, "then": then, "follow_up": follow_up, "cache": self.cache }).to_string()
    }
}

/// What a task's label is followed by in that of its follow-up.
pub(crate) const FOLLOW_UP_SUFFIX: &str = "-follow-up";

/// The label of a task's follow-up.
pub(crate) fn follow_up_label(label: &str) -> String {
    format!("{label}{FOLLOW_UP_SUFFIX}")
}

/// How tasks reach the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `POST …/tasks` to this host first.
    Http {
        host: usize,
        /// With an `Idempotency-Key`.
        keyed: bool,
    },
    /// `POST …/tasks:batch` to this host first, always with an `Idempotency-Key`.
    Batch { host: usize },
    /// Published by a client that knows nothing of the host, under a message id of its own.
    Amqp,
}

impl Way {
    /// Whether sending it again is the same submission.
    pub(crate) fn is_repeatable(self) -> bool {
        !matches!(self, Self::Http { keyed: false, .. })
    }
}

/// Tasks that are submitted in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    pub(crate) way: Way,
    /// The tasks are to start no sooner than after this long.
    pub(crate) delay_ms: u64,
    /// One, or for a batch several.
    pub(crate) tasks: Vec<Task>,
}
