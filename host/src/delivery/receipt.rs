//! The permit to settle a delivery.

use std::fmt;

/// What a broker does with a spent receipt. Both are requests, sent in batches: a broker that dies first delivers again.
pub trait Settle: Send + Sync + 'static {
    /// The message is done with.
    fn acknowledge(self: Box<Self>);
    /// The message goes back to its queue as if it had never been delivered.
    fn hand_back(self: Box<Self>);
}

/// The permit to settle one delivery, to be spent exactly once.
///
/// Dropping it unspent is a bug in the host, though a harmless one for the task: it is logged and the message handed back.
pub struct Receipt(Option<Box<dyn Settle>>);

impl Receipt {
    /// Wraps a broker's own settler.
    #[must_use]
    pub fn new(settle: impl Settle) -> Self {
        Self(Some(Box::new(settle)))
    }

    /// Acknowledges: the task's result, status and effects are safe.
    pub fn acknowledge(mut self) {
        if let Some(settle) = self.0.take() {
            settle.acknowledge();
        }
    }

    /// Hands the message back to its queue, using up no attempt.
    pub fn hand_back(mut self) {
        if let Some(settle) = self.0.take() {
            settle.hand_back();
        }
    }

    /// The broker's own settler, for a layer of the broker that settles the delivery in its own way.
    pub(crate) fn into_settle(mut self) -> Option<Box<dyn Settle>> {
        self.0.take()
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(settle) = self.0.take() {
            tracing::error!("a delivery was dropped without being settled; it is handed back");
            settle.hand_back();
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receipt").field(&if self.0.is_some() { "unspent" } else { "spent" }).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Recorder(mpsc::Sender<&'static str>);
    impl Settle for Recorder {
        fn acknowledge(self: Box<Self>) {
            self.0.send("ack").unwrap();
        }
        fn hand_back(self: Box<Self>) {
            self.0.send("back").unwrap();
        }
    }

    #[test]
    fn is_spent_exactly_once_and_a_dropped_one_goes_back() {
        let (sender, spent) = mpsc::channel();
        Receipt::new(Recorder(sender.clone())).acknowledge();
        Receipt::new(Recorder(sender.clone())).hand_back();
        drop(Receipt::new(Recorder(sender)));
        assert_eq!(spent.iter().collect::<Vec<_>>(), ["ack", "back", "back"]);
    }
}
