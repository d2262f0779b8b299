//! Message brokers behind the port [`delivery::Broker`](crate::delivery::Broker).
//!
//! - [`topology`]: which exchanges and queues there are, as data. Pure.
//! - [`amqp`]: RabbitMQ, over AMQP 0-9-1.
//! - [`memory`]: the embedded broker: in process and volatile.
//! - [`measured`]: either of them, timed.
//!
//! `conformance` holds both brokers to one set of rules.

pub mod amqp;
#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
pub mod measured;
pub mod memory;
pub mod topology;
