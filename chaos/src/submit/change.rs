//! What senders do with tasks after they were accepted: cancel them, or have them run again after they failed.

use super::http::Change;
use super::{POLL_INTERVAL, Submitter, pause};
use crate::book::Cancelling;
use crate::schedule::HOSTS;
use crate::work::Way;

/// A task that fails until what it needs is mended.
pub(super) struct Mending {
    pub(super) label: String,
    pub(super) id: String,
}

impl Submitter {
    /// Asks for a task to be cancelled until somebody says what became of it.
    pub(super) async fn cancel(&self, label: &str, id: &str, way: Way) {
        for tries in 0.. {
            let host = usize::try_from(tries).unwrap_or(0).wrapping_add(label.len());
            match self.http.cancel(host, id).await {
                Change::Done => return self.book.cancelling(label, Cancelling::Promised),
                // Perhaps by an earlier request, whose answer was lost.
                Change::Ended => return,
                // One that came over AMQP may not have been delivered to anybody yet.
                Change::Unknown if way == Way::Amqp => return,
                Change::Unknown => {
                    return self.book.refused(label, format!("{id} was accepted, and its host knows nothing of it"));
                }
                Change::Refused(why) => return self.book.refused(label, why),
                Change::Unclear => self.book.cancelling(label, Cancelling::Unclear),
            }
            tokio::time::sleep(pause(tries)).await;
        }
    }

    /// Waits until a task is a dead letter, mends what it needs, and has it run again: on both hosts at once, of which one
    /// is to do it.
    pub(super) async fn mend(&self, Mending { label, id }: Mending) {
        while !self.database.has_failed(&id).await.unwrap_or(false) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        while self.database.mend(&label).await.is_err() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let mut may_be_done = false;
        for tries in 0.. {
            let answers = futures::future::join_all((0..HOSTS).map(|host| self.http.redrive(host, &id))).await;
            let done = answers.iter().filter(|answer| **answer == Change::Done).count();
            if done > 1 {
                self.book.refused(&label, format!("{done} hosts say that they have redriven the same dead letter"));
            }
            may_be_done |= done > 0 || answers.contains(&Change::Unclear);
            let is_gone = answers.contains(&Change::Unknown);
            if is_gone && !may_be_done {
                self.book.refused(&label, format!("{id} has failed, and its host knows no dead letter of it"));
            }
            for answer in answers {
                if let Change::Refused(why) = answer {
                    self.book.refused(&label, why);
                }
            }
            if done > 0 || is_gone {
                return;
            }
            tokio::time::sleep(pause(tries)).await;
        }
    }
}
