//! What becomes of a delivery, told to the session that it came in.

use tokio::sync::mpsc;

use super::hand::InHand;
use crate::delivery::Settle;
use crate::memory::Charge;

/// What became of a delivery.
#[derive(Clone, Copy, Debug)]
pub(super) enum Settled {
    Acknowledged(u64),
    HandedBack(u64),
    /// Nobody settles it: it goes back with the channel.
    Left(u64),
}

/// The permit for a delivery of one session.
pub(super) struct SessionReceipt {
    tag: u64,
    settled: mpsc::UnboundedSender<Settled>,
    spent: bool,
    /// The message is held for as long.
    _body: Charge,
    _in_hand: InHand,
}

impl SessionReceipt {
    pub(super) fn new(tag: u64, settled: mpsc::UnboundedSender<Settled>, (body, in_hand): (Charge, InHand)) -> Self {
        Self { tag, settled, spent: false, _body: body, _in_hand: in_hand }
    }

    fn tell(&self, settled: Settled) {
        // Fails when the session is over: then the broker has the message again, and there is nothing to do.
        self.settled.send(settled).ok();
    }
}

impl Settle for SessionReceipt {
    fn acknowledge(mut self: Box<Self>) {
        self.spent = true;
        self.tell(Settled::Acknowledged(self.tag));
    }

    fn hand_back(mut self: Box<Self>) {
        self.spent = true;
        self.tell(Settled::HandedBack(self.tag));
    }
}

impl Drop for SessionReceipt {
    fn drop(&mut self) {
        if !self.spent {
            self.tell(Settled::Left(self.tag));
        }
    }
}
