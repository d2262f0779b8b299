//! What is asked of the hosts: the tasks, how each must end, and the ways in which they are submitted.

use serde_json::json;

/// The agent that the tasks are for.
pub(crate) const AGENT: &str = "ledger";
/// How many attempts its manifest allows.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// What it answers with when it succeeds.
pub(crate) const OUTPUT: &[u8] = b"ok";

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
    /// Fails at every attempt, and is sent with the wish to have only so many.
    WearOut(u32),
    /// Refuses until what it needs is mended. Once it is a dead letter, that is done, and it is redriven.
    AwaitMending,
}

/// Until when a task is worth running. What has one is sent over AMQP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// For ever.
    None,
    /// `x-deadline`, hours away.
    Far,
    /// `x-deadline`, over when it is sent: the task must not run.
    Passed,
    /// `expiration`, in milliseconds: the task runs, or it expires, in its queue or in a host's hands.
    Near(u64),
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
    pub(crate) deadline: Deadline,
    /// Whether its sender wants the result, over AMQP.
    pub(crate) reply: bool,
    /// It is cancelled this long after it was accepted, if it has not ended by then.
    pub(crate) cancel_after_ms: Option<u64>,
}

/// An end of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    /// As a dead letter, for this reason.
    Failed(&'static str),
    Cancelled,
}

impl End {
    /// The outcome's name, as results and dead letters have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(reason) => reason,
            Self::Cancelled => "cancelled",
        }
    }
}

impl Task {
    /// How it ends if it is let run, and is redriven where that is planned.
    fn own_end(&self) -> End {
        match self.then {
            Then::Succeed | Then::RetryUntil(_) | Then::SleepMs(_) | Then::AwaitMending => End::Succeeded,
            Then::Reject => End::Failed("rejected"),
            Then::Trap => End::Failed("trapped"),
            Then::WearOut(_) => End::Failed("retry"),
        }
    }

    /// How it may end, as far as its sender decides that beforehand: one way, or two where time does.
    pub(crate) fn ends(&self) -> Vec<End> {
        const EXPIRED: End = End::Failed("expired");
        let mut ends = match self.deadline {
            Deadline::Passed => vec![EXPIRED],
            Deadline::Near(_) => vec![self.own_end(), EXPIRED],
            Deadline::None | Deadline::Far => vec![self.own_end()],
        };
        if self.cancel_after_ms.is_some() {
            ends.push(End::Cancelled);
        }
        ends
    }

    /// Whether it can only succeed.
    pub(crate) fn surely_succeeds(&self) -> bool {
        self.ends() == [End::Succeeded]
    }

    /// Whether it can only become a dead letter, and stay one.
    pub(crate) fn surely_fails(&self) -> bool {
        matches!(self.ends().as_slice(), [End::Failed(_)])
    }

    /// What a dead letter says that is taken away again by the redrive.
    pub(crate) fn first_failure(&self) -> Option<&'static str> {
        (self.then == Then::AwaitMending).then_some("rejected")
    }

    /// How often it is redriven.
    pub(crate) fn redrives(&self) -> i32 {
        i32::from(self.then == Then::AwaitMending)
    }

    /// The attempt that it ends at, where that is certain: attempts are used up by the task's own failures and by nothing
    /// else.
    pub(crate) fn attempts(&self, end: End) -> Option<u32> {
        match (end, self.then) {
            (End::Cancelled, _) => None,
            (End::Failed("expired"), _) if self.deadline != Deadline::Passed => None,
            (End::Failed("expired"), _) => Some(1),
            (_, Then::Succeed | Then::SleepMs(_) | Then::Reject | Then::AwaitMending) => Some(1),
            (_, Then::RetryUntil(attempt) | Then::WearOut(attempt)) => Some(attempt),
            (_, Then::Trap) => Some(ATTEMPTS_MAX),
        }
    }

    /// The sender's own limit on attempts.
    pub(crate) fn attempts_max(&self) -> Option<u32> {
        match self.then {
            Then::WearOut(attempts) => Some(attempts),
            _ => None,
        }
    }

    /// How many tasks end because of it, at the least.
    pub(crate) fn ends_min(&self) -> u64 {
        1 + u64::from(self.follow_up && self.surely_succeeds())
    }

    /// What the agent is told. The label is what its rows are known by.
    pub(crate) fn body(&self, label: &str) -> String {
        let then = match self.then {
            Then::Succeed => json!("succeed"),
            Then::RetryUntil(attempt) => json!({ "retry-until": attempt }),
            // Never reached.
            Then::WearOut(attempts) => json!({ "retry-until": attempts + 1 }),
            Then::SleepMs(ms) => json!({ "sleep-ms": ms }),
            Then::Reject => json!("reject"),
            Then::Trap => json!("trap"),
            Then::AwaitMending => json!("await-mending"),
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

    /// Whether it carries an `Idempotency-Key`.
    pub(crate) fn has_a_key(self) -> bool {
        matches!(self, Self::Http { keyed: true, .. } | Self::Batch { .. })
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
