//! Deliveries whose delay queue was a little too short for them: they are kept here for the rest.
//!
//! Each takes room in the prefetch meanwhile, and it is the broker's again with the channel like any other. The rest is counted from
//! the moment at which it came, so that a task is never early, whatever the clocks of two hosts say; and so a redelivery
//! waits once more.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::topology::DELAY_REST_MAX;
use crate::delivery::{Delivery, Message, envelope};

/// Where deliveries go afterwards.
pub(super) struct Rests {
    /// Weakly: whoever takes them is to see the consumer's end, however long those take that are out.
    pub(super) deliveries: mpsc::WeakSender<Delivery>,
    /// Whoever stops consuming keeps nothing.
    pub(super) stop: CancellationToken,
}

impl Rests {
    /// Gives a delivery back that need not wait, and keeps any other for its time.
    pub(super) fn unless_kept(&self, delivery: Delivery) -> Option<Delivery> {
        let Some(rest) = rest(&delivery.message) else { return Some(delivery) };
        let (deliveries, stop) = (self.deliveries.clone(), self.stop.clone());
        tokio::spawn(async move {
            let handed_over = async {
                tokio::time::sleep(rest).await;
                deliveries.upgrade()?.reserve_owned().await.ok()
            };
            match stop.run_until_cancelled_owned(handed_over).await.flatten() {
                Some(place) => drop(place.send(delivery)),
                None => delivery.receipt.hand_back(),
            }
        });
        None
    }
}

/// For how long: anybody may write the header, and nobody is to hold up a consumer with it.
fn rest(message: &Message) -> Option<Duration> {
    let rest = Duration::from_millis(envelope::delay_rest_ms(message)?);
    Some(rest.min(DELAY_REST_MAX)).filter(|rest| !rest.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::envelope::headers::DELAY_REST;
    use crate::delivery::{HeaderValue, Receipt, Settle};
    use tokio::sync::oneshot;

    /// Tells what became of the delivery.
    struct Told(oneshot::Sender<&'static str>);

    impl Settle for Told {
        fn acknowledge(self: Box<Self>) {
            self.0.send("acknowledged").ok();
        }

        fn hand_back(self: Box<Self>) {
            self.0.send("handed back").ok();
        }
    }

    fn delivery(rest_ms: Option<u64>) -> (Delivery, oneshot::Receiver<&'static str>) {
        let (told, became) = oneshot::channel();
        let rest = rest_ms.map(|rest_ms| (DELAY_REST.to_owned(), HeaderValue::from(rest_ms)));
        let message = Message { headers: rest.into_iter().collect(), ..Message::default() };
        (Delivery { message, redelivered: false, receipt: Receipt::new(Told(told)) }, became)
    }

    fn rests() -> (Rests, mpsc::Sender<Delivery>, mpsc::Receiver<Delivery>) {
        let (deliveries, received) = mpsc::channel(1);
        (Rests { deliveries: deliveries.downgrade(), stop: CancellationToken::new() }, deliveries, received)
    }

    #[tokio::test]
    async fn what_has_a_rest_is_kept_for_it_and_not_for_whatever_somebody_wrote() {
        let (rests, _sender, mut received) = rests();
        for (rest_ms, kept) in [(40, 40), (125, 125), (u64::MAX, 125)] {
            let began = tokio::time::Instant::now();
            assert!(rests.unless_kept(delivery(Some(rest_ms)).0).is_none());
            received.recv().await.unwrap().receipt.acknowledge();
            assert!(began.elapsed() >= Duration::from_millis(kept), "{rest_ms} ms: it came early");
        }
        for rest_ms in [None, Some(0)] {
            assert!(rests.unless_kept(delivery(rest_ms).0).is_some());
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_handed_back_when_its_consumer_stops() {
        let (rests, _sender, _received) = rests();
        let (kept, became) = delivery(Some(100));
        assert!(rests.unless_kept(kept).is_none());
        rests.stop.cancel();
        assert_eq!(became.await, Ok("handed back"));
    }
}
