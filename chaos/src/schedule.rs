//! What happens in a run, all of it drawn from the seed before anything starts.
//!
//! Nothing is bound to the clock: bursts wait for the backlog to shrink, and faults for a number of tasks to have ended,
//! each followed by a pause of some milliseconds. A slow machine runs the same schedule, only longer.

mod draw;

use crate::work::{Deadline, Parcel, Task, Way};

/// How many hosts there are.
pub(crate) const HOSTS: usize = 2;

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) tasks: u64,
    /// Kills of hosts.
    pub(crate) kills: u64,
    /// Restarts of servers.
    pub(crate) restarts: u64,
    /// Disturbances of connections.
    pub(crate) cuts: u64,
    /// Submissions that are made again; at most all that can be.
    pub(crate) duplicates: u64,
}

/// A run's plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) sizes: Sizes,
    pub(crate) parcels: Vec<Parcel>,
    pub(crate) bursts: Vec<Burst>,
    pub(crate) faults: Vec<Fault>,
}

/// Submissions that are made side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Burst {
    /// Begins when no more than this many accepted tasks have yet to end…
    pub(crate) backlog_max: u64,
    /// …and this much later.
    pub(crate) pause_ms: u64,
    /// How many submissions are under way at once.
    pub(crate) senders: usize,
    pub(crate) steps: Vec<Step>,
}

/// One submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The parcel's index.
    pub(crate) parcel: usize,
    pub(crate) how: How,
}

/// How a parcel is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// For the first time.
    First,
    /// It has been sent before: the same ids, the same bodies.
    Again,
    /// Under the key of one that was accepted, with other bodies: it is to be refused.
    Altered,
}

/// Something that breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Happens once this many tasks have ended…
    pub(crate) after_ended: u64,
    /// …and this much later.
    pub(crate) pause_ms: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// `kill -9`; started again after the pause.
    KillHost { host: usize, down_ms: u64 },
    /// A server ends and comes back with its data.
    Restart { server: Server, kill: bool },
    /// The connections between the hosts and a server.
    Disturb { server: Server, how: Disturbance, for_ms: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    RabbitMq,
    Postgres,
    Redis,
}

impl Server {
    pub(crate) const ALL: [Self; 3] = [Self::RabbitMq, Self::Postgres, Self::Redis];

    /// The environment variable that holds its address.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::RabbitMq => "AMQP_URL",
            Self::Postgres => "DATABASE_URL",
            Self::Redis => "REDIS_URL",
        }
    }

    /// Its place in [`Server::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::RabbitMq => 0,
            Self::Postgres => 1,
            Self::Redis => 2,
        }
    }
}

/// What a relay does to the connections through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// Cuts them once.
    Cut,
    /// Cuts them, and refuses new ones for a while.
    Refuse,
    /// Passes nothing on for a while, and closes nothing.
    Stall,
    /// Withholds what the server answers for a while, and then cuts: the client cannot know what was done.
    Deafen,
    /// Passes everything on late for a while.
    Slow,
}

impl Schedule {
    /// Draws the plan.
    pub(crate) fn new(seed: u64, sizes: Sizes) -> Self {
        draw::schedule(seed, sizes)
    }

    /// How many tasks have ended when all is done, at the least, follow-ups included.
    pub(crate) fn ends(&self) -> u64 {
        self.parcels.iter().flat_map(|parcel| &parcel.tasks).map(Task::ends_min).sum()
    }

    /// The plan in a few lines.
    pub(crate) fn summary(&self) -> String {
        let tasks = |of: fn(Way) -> bool| -> usize {
            self.parcels.iter().filter(|parcel| of(parcel.way)).map(|parcel| parcel.tasks.len()).sum()
        };
        let faults = |of: fn(What) -> bool| self.faults.iter().filter(|fault| of(fault.what)).count();
        let steps = |how: How| self.bursts.iter().flat_map(|burst| &burst.steps).filter(|step| step.how == how).count();
        let of = |is: fn(&Task) -> bool| {
            self.parcels.iter().flat_map(|parcel| &parcel.tasks).filter(|task| is(task)).count()
        };
        format!(
            "seed {}\n\
             tasks      {} ({} over HTTP alone, {} in batches, {} over AMQP); {} ends at the least\n\
             of them    {} to fail, {} to be redriven, {} to be cancelled, {} with a deadline, {} with a result to be sent\n\
             bursts     {}, with {} submissions sent again and {} keys used for something else\n\
             faults     {} kills of hosts; {} restarts of RabbitMQ, {} of PostgreSQL, {} of Redis; {} disturbed connections",
            self.seed,
            self.sizes.tasks,
            tasks(|way| matches!(way, Way::Http { .. })),
            tasks(|way| matches!(way, Way::Batch { .. })),
            tasks(|way| matches!(way, Way::Amqp)),
            self.ends(),
            of(Task::surely_fails),
            of(|task| task.redrives() > 0),
            of(|task| task.cancel_after_ms.is_some()),
            of(|task| task.deadline != Deadline::None),
            of(|task| task.reply),
            self.bursts.len(),
            steps(How::Again),
            steps(How::Altered),
            faults(|what| matches!(what, What::KillHost { .. })),
            faults(|what| matches!(what, What::Restart { server: Server::RabbitMq, .. })),
            faults(|what| matches!(what, What::Restart { server: Server::Postgres, .. })),
            faults(|what| matches!(what, What::Restart { server: Server::Redis, .. })),
            faults(|what| matches!(what, What::Disturb { .. })),
        )
    }
}
