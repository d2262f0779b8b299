//! Which exchanges and queues there are, as data: what `agent-host topology` prints, what a host declares, and what an
//! operator declares for hosts that run with `predeclared = true`.
//!
//! ```text
//!  exchange agents ──<name>──► queue agent.<name> ──expired──► exchange and queue agents.expired ──► hosts ──┐
//!        ▲                                                                                                   │
//!        ├───────────────────────────────────────────────────────────────────────────────────────────────────┘
//!        └──after the delay── exchange and queue agents.delay.<bucket> ◄── retries, delayed tasks
//!  default exchange ──► queue agent.<name>.dead
//!  exchange agents ──<name>.partition.<p>──► queue agent.<name>.partition.<p>, of tasks with an x-partition-key
//! ```
//!
//! Every queue is a durable quorum queue and gets its full argument list here, the same for every broker version: a
//! queue that exists with other arguments cannot be declared again. Why each argument is there:
//! - `x-delivery-limit` is set and far away: absent it means 20 on RabbitMQ 4, and there is no "none" on 3.10. Attempts
//!   are counted by the host, never by the broker, which would count host deaths against innocent tasks.
//! - `x-dead-letter-strategy = at-least-once` with `x-overflow = reject-publish`, which it needs: messages that expire
//!   are kept until the next queue has them.
//! - no `x-dead-letter-routing-key`: the message keeps the agent's name as its routing key on the whole way.
//! - no `x-expires` on delay queues: it would remove messages that are still waiting.
//! - `x-single-active-consumer` on partition queues: of all hosts that consume one, one gets its messages, and another
//!   takes over when that one goes.

mod delay;
mod partition;
#[cfg(test)]
mod tests;

use std::fmt;

pub use delay::{Bucket, DELAY_REST_MAX};
pub use partition::Partition;

use crate::task::AgentName;

/// The exchange that tasks are published to, by their agent's name.
pub const TASKS_EXCHANGE: &str = "agents";
/// The exchange and queue of the tasks that expired before a host saw them.
pub const EXPIRED: &str = "agents.expired";
/// A queue of markers, one for each agent that came to have partitions, which nobody takes out: a host that sees their
/// count change looks for partitions that it does not consume yet. Looking for queues that do not exist would leave an
/// error in the broker's log each time; counting leaves none.
pub const PARTITIONED: &str = "agents.partitioned";
/// The broker's own limit on deliveries of one message: no task reaches it, see the module's head.
pub const DELIVERY_LIMIT: i64 = 1_000_000;

/// An agent's queue.
#[must_use]
pub fn task_queue(agent: &AgentName) -> String {
    format!("agent.{agent}")
}

/// The queue of an agent's dead letters, reached through the default exchange.
#[must_use]
pub fn dead_letter_queue(agent: &AgentName) -> String {
    format!("agent.{agent}.dead")
}

/// Whether a queue of this name holds dead letters.
pub(super) fn is_a_dead_letter_queue(queue: &str) -> bool {
    queue.starts_with("agent.") && queue.ends_with(".dead")
}

/// The type of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeType {
    /// To the queues bound with the message's routing key.
    Direct,
    /// To every bound queue, whatever the routing key, which is kept.
    Fanout,
}

impl ExchangeType {
    /// AMQP's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
        }
    }
}

/// The value of a queue's argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A long string.
    Text(&'static str),
    /// A 64-bit integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
}

/// One thing that has to exist at the broker. Exchanges and queues are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declaration {
    /// An exchange.
    Exchange {
        /// Its name.
        name: String,
        /// Its type.
        kind: ExchangeType,
    },
    /// A quorum queue.
    Queue {
        /// Its name.
        name: String,
        /// All of its arguments, in name order.
        arguments: Vec<(&'static str, Argument)>,
    },
    /// A way from an exchange to a queue.
    Binding {
        /// The exchange.
        exchange: String,
        /// The queue.
        queue: String,
        /// The routing key; fanout exchanges ignore it.
        routing_key: String,
    },
}

/// Everything that a fleet with these agents uses, every delay bucket included, in an order that can be declared.
#[must_use]
pub fn plan(agents: &[AgentName]) -> Vec<Declaration> {
    let mut all = shared();
    all.extend(Bucket::all().flat_map(for_bucket));
    all.extend(agents.iter().flat_map(|agent| [for_agent(agent), for_partitions(agent)].concat()));
    all
}

/// What every host uses, delay buckets apart.
#[must_use]
pub fn shared() -> Vec<Declaration> {
    vec![
        Declaration::Exchange { name: TASKS_EXCHANGE.to_owned(), kind: ExchangeType::Direct },
        Declaration::Exchange { name: EXPIRED.to_owned(), kind: ExchangeType::Fanout },
        Declaration::Queue { name: EXPIRED.to_owned(), arguments: keeping() },
        Declaration::Binding { exchange: EXPIRED.to_owned(), queue: EXPIRED.to_owned(), routing_key: String::new() },
        Declaration::Queue { name: PARTITIONED.to_owned(), arguments: keeping() },
    ]
}

/// An agent's queues, partitions apart: most agents never use those.
#[must_use]
pub fn for_agent(agent: &AgentName) -> Vec<Declaration> {
    vec![
        Declaration::Queue { name: task_queue(agent), arguments: dead_lettering_to(EXPIRED, None) },
        Declaration::Queue { name: dead_letter_queue(agent), arguments: keeping() },
        Declaration::Binding {
            exchange: TASKS_EXCHANGE.to_owned(),
            queue: task_queue(agent),
            routing_key: agent.to_string(),
        },
    ]
}

/// An agent's partitions, which hosts make when its first task with a partition key is published.
#[must_use]
pub fn for_partitions(agent: &AgentName) -> Vec<Declaration> {
    Partition::all().flat_map(|partition| for_partition(agent, partition)).collect()
}

/// One of an agent's partitions.
#[must_use]
pub fn for_partition(agent: &AgentName, partition: Partition) -> Vec<Declaration> {
    let mut arguments = dead_lettering_to(EXPIRED, None);
    arguments.push(("x-single-active-consumer", Argument::Bool(true)));
    arguments.sort_by_key(|(name, _)| *name);
    vec![
        Declaration::Queue { name: partition.queue(agent), arguments },
        Declaration::Binding {
            exchange: TASKS_EXCHANGE.to_owned(),
            queue: partition.queue(agent),
            routing_key: partition.routing_key(agent),
        },
    ]
}

/// The agent that a routing key of exchange `agents` names: its own name, or one of its partitions'.
#[must_use]
pub fn agent_of(routing_key: &str) -> Option<AgentName> {
    // No agent's name has a dot.
    let name = routing_key.split_once('.').map_or(routing_key, |(name, _)| name);
    let agent = AgentName::parse(name).ok()?;
    let is_its = routing_key == name || Partition::all().any(|partition| partition.routing_key(&agent) == routing_key);
    is_its.then_some(agent)
}

/// The agent whose tasks lie in a queue: its own queue, or one of its partitions.
#[must_use]
pub fn agent_of_queue(queue: &str) -> Option<AgentName> {
    agent_of(queue.strip_prefix("agent.")?)
}

/// A delay bucket.
#[must_use]
pub fn for_bucket(bucket: Bucket) -> Vec<Declaration> {
    let name = bucket.name();
    vec![
        Declaration::Exchange { name: name.clone(), kind: ExchangeType::Fanout },
        Declaration::Queue { name: name.clone(), arguments: dead_lettering_to(TASKS_EXCHANGE, Some(bucket)) },
        Declaration::Binding { exchange: name.clone(), queue: name, routing_key: String::new() },
    ]
}

/// Arguments of a queue that keeps its messages until somebody takes them.
fn keeping() -> Vec<(&'static str, Argument)> {
    vec![("x-delivery-limit", Argument::Int(DELIVERY_LIMIT)), ("x-queue-type", Argument::Text("quorum"))]
}

/// Arguments of a queue whose expired messages go on to an exchange.
fn dead_lettering_to(exchange: &'static str, ttl: Option<Bucket>) -> Vec<(&'static str, Argument)> {
    let mut arguments = keeping();
    arguments.push(("x-dead-letter-exchange", Argument::Text(exchange)));
    arguments.push(("x-dead-letter-strategy", Argument::Text("at-least-once")));
    arguments.push(("x-overflow", Argument::Text("reject-publish")));
    if let Some(bucket) = ttl {
        arguments.push(("x-message-ttl", Argument::Int(i64::try_from(bucket.delay_ms()).unwrap_or(i64::MAX))));
    }
    arguments.sort_by_key(|(name, _)| *name);
    arguments
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Int(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}

impl fmt::Display for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange { name, kind } => {
                write!(f, "exchange {name} type={} durable=true", kind.name())
            }
            Self::Queue { name, arguments } => {
                write!(f, "queue {name} durable=true")?;
                arguments.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
            }
            Self::Binding { exchange, queue, routing_key } => {
                write!(f, "binding {exchange} -> {queue} routing_key={routing_key:?}")
            }
        }
    }
}

/// Writes a plan, one declaration a line.
///
/// # Errors
/// What the writer fails with.
pub fn print(plan: &[Declaration], out: &mut impl std::io::Write) -> std::io::Result<()> {
    plan.iter().try_for_each(|declaration| writeln!(out, "{declaration}"))
}
