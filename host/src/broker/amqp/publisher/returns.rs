//! Which message was returned.
//!
//! The broker sends an unroutable message back before it confirms it, and the driver hands the returned message out with
//! the next confirm that it completes. With several messages in flight that is often another message's: a confirm for a
//! routed one, or for any of those that one bulk confirm answers. Taken at its word the driver would call a
//! lost message safe, so:
//! - returned messages are matched to the messages in flight by what they say, not by what they came with;
//! - a confirm counts only after a barrier behind which every confirm that could carry its return has been looked at.
//!
//! Why that suffices: the broker returns in publishing order, before the confirm, and confirms unroutable messages in
//! order; so a return is handed out no later than with the bulk confirm that answers its message. The driver completes
//! the confirms of one bulk under a lock, which the barrier takes too. A conformance case publishes routable and
//! unroutable messages together, by the thousand, and fails if a driver behaves otherwise.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use futures::FutureExt as _;
use lapin::message::BasicReturnMessage;
use lapin::{BasicProperties, Channel};

/// What a message is known by: where it goes and which message of which conversation it is. Two in flight that agree in
/// all of it meet the same fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn of(exchange: &str, routing_key: &str, properties: &BasicProperties) -> Self {
        let mut hasher = DefaultHasher::new();
        (exchange, routing_key).hash(&mut hasher);
        for text in [properties.message_id(), properties.correlation_id()] {
            text.as_ref().map(lapin::types::ShortString::as_str).hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

/// Returned messages that nobody has claimed yet.
#[derive(Default)]
pub(super) struct Returns {
    unclaimed: HashMap<Fingerprint, usize>,
}

impl Returns {
    /// Waits out a bulk confirm that the driver is in the middle of: asking for the channel's pending confirms takes the
    /// lock under which it completes them. Their outcome is of no interest here.
    pub(super) fn barrier(&self, channel: &Channel) {
        drop(channel.wait_for_confirms().now_or_never());
    }

    /// A message came back.
    pub(super) fn note(&mut self, returned: &BasicReturnMessage) {
        let delivery = &returned.delivery;
        let fingerprint =
            Fingerprint::of(delivery.exchange.as_str(), delivery.routing_key.as_str(), &delivery.properties);
        *self.unclaimed.entry(fingerprint).or_default() += 1;
    }

    /// Whether the message with this fingerprint came back; it does so once.
    pub(super) fn claim(&mut self, fingerprint: Fingerprint) -> bool {
        let Some(count) = self.unclaimed.get_mut(&fingerprint) else {
            return false;
        };
        *count -= 1;
        if *count == 0 {
            self.unclaimed.remove(&fingerprint);
        }
        true
    }
}
