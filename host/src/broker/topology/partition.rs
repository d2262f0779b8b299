//! Partitions of an agent's tasks, for those with an `x-partition-key`.
//!
//! Tasks of one agent with the same key run one at a time, in the order in which they were published. Each key belongs to
//! one of 16 queues, of which each has one active consumer among all hosts, so a key's tasks are on one host at a time,
//! and that host runs them one after the other. Keys of one partition run side by side.
//!
//! Which partition a key belongs to never changes and needs no library of ours: the first hex digit of the SHA-256 of the
//! key, as UTF-8. Any AMQP client may publish to exchange `agents` with routing key `<name>.partition.<digit>`; one that
//! uses the plain routing key is served as well, see [`Broker::publish`](crate::delivery::Broker::publish).

use sha2::{Digest as _, Sha256};

use crate::task::AgentName;

/// One of the partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Partition(u8);

impl Partition {
    /// How many there are: as many hosts can share an agent's keyed tasks, and each is a quorum queue of the broker's.
    pub const COUNT: u8 = 16;

    /// The partition of a key.
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        Self(Sha256::digest(key).first().map_or(0, |byte| byte >> 4))
    }

    /// Every partition.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// The name of its queue.
    #[must_use]
    pub fn queue(self, agent: &AgentName) -> String {
        format!("agent.{agent}.partition.{:x}", self.0)
    }

    /// The routing key that leads to it from exchange `agents`.
    #[must_use]
    pub fn routing_key(self, agent: &AgentName) -> String {
        format!("{agent}.partition.{:x}", self.0)
    }
}
