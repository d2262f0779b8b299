//! One channel's life: deliveries out, acknowledgements back in bulk.
//!
//! Receipts belong to the session: they report to a queue that dies with it, so a receipt of a lost channel does nothing.

use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, SelectAll, Stream, StreamExt as _};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::Source;
use crate::broker::amqp::convert;
use crate::broker::amqp::declare::{self, answered};
use crate::broker::amqp::watermark::Watermark;
use crate::delivery::{BrokerError, Delivery, Receipt, Settle};

/// How a session ended.
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// The broker or the network ended it, for this reason.
    Lost(String),
}

/// Finished deliveries that are acknowledged without waiting for more.
const FLUSH_COUNT: usize = 64;
/// Longest wait of an acknowledgement for company.
const FLUSH_DELAY: Duration = Duration::from_millis(2);
/// Longest wait for the oldest task to finish, before those that finished after it are acknowledged one by one.
const STRAGGLER_DELAY: Duration = Duration::from_millis(100);
/// Longest wait for deliveries on their way when a consumer is cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// Settlements taken from the queue at a time.
const BATCH: usize = 256;
/// What became of a delivery.
#[derive(Clone, Copy, Debug)]
enum Settled {
    Acknowledged(u64),
    HandedBack(u64),
    /// Nobody settles it: it goes back with the channel.
    Left,
}

/// The permit for a delivery of this session.
struct SessionReceipt {
    tag: u64,
    settled: mpsc::UnboundedSender<Settled>,
    spent: bool,
}

impl SessionReceipt {
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
            self.tell(Settled::Left);
        }
    }
}

/// What comes over the channel: deliveries, and the end of one of its consumers.
type Arrivals = SelectAll<Box<dyn Stream<Item = Arrival> + Send + Sync + Unpin>>;
type Arrival = Option<lapin::Result<lapin::message::Delivery>>;

struct Session {
    channel: Channel,
    arrivals: Arrivals,
    consumer_tags: Vec<ShortString>,
    settled_sender: mpsc::UnboundedSender<Settled>,
    settled: mpsc::UnboundedReceiver<Settled>,
    marks: Watermark,
    /// Deliveries that came and are not settled.
    outstanding: u64,
    /// Untold acknowledgements above the watermark are sent one by one from this many on: half of the prefetch. In bulk they
    /// cost the broker a fraction.
    stragglers_max: usize,
    /// Whether none waits: with a small prefetch on several queues, one long task would hold all of them up.
    each_at_once: bool,
    /// When the oldest of them came to wait.
    stragglers_since: Option<Instant>,
}

/// Consumes until the end of the channel or of the consumer.
pub(super) async fn run<T, F: Fn(Delivery, &str) -> Option<T>>(
    connection: &Connection,
    source: &mut Source<T, F>,
    predeclared: bool,
    closing: &CancellationToken,
) -> Result<End, BrokerError> {
    declare::apply(connection, &source.declarations, predeclared).await?;
    let mut session = Session::open(connection, source).await.map_err(|error| BrokerError(error.to_string()))?;
    source.live.set(true);
    match session.pump(source, closing).await {
        Ok(end) => {
            session.say_goodbye().await;
            Ok(end)
        }
        Err(error) => Ok(End::Lost(error.to_string())),
    }
}

impl Session {
    async fn open<T, F: Fn(Delivery, &str) -> Option<T>>(
        connection: &Connection,
        source: &Source<T, F>,
    ) -> lapin::Result<Self> {
        let channel = answered(connection.create_channel()).await?;
        answered(channel.basic_qos(source.prefetch, BasicQosOptions::default())).await?;
        let (mut arrivals, mut consumer_tags) = (Arrivals::new(), Vec::with_capacity(source.queues.len()));
        for queue in &source.queues {
            let (queue, options) = (queue.as_str().into(), BasicConsumeOptions::default());
            let consumer = answered(channel.basic_consume(queue, "".into(), options, FieldTable::default())).await?;
            consumer_tags.push(consumer.tag());
            arrivals.push(Box::new(consumer.map(Some).chain(stream::iter([None]))));
        }
        let (settled_sender, settled) = mpsc::unbounded_channel();
        Ok(Self {
            channel,
            arrivals,
            consumer_tags,
            settled_sender,
            settled,
            marks: Watermark::default(),
            outstanding: 0,
            stragglers_max: usize::from(source.prefetch / 2).max(1),
            each_at_once: source.order.is_some(),
            stragglers_since: None,
        })
    }

    /// Moves deliveries out and settlements in. An error is the channel's end.
    async fn pump<T, F: Fn(Delivery, &str) -> Option<T>>(
        &mut self,
        source: &mut Source<T, F>,
        closing: &CancellationToken,
    ) -> lapin::Result<End> {
        let mut flush = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let (mut flush_set, mut stopping) = (false, false);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled() => {
                    return self.close(source, &mut batch, stopping).await;
                }
                () = source.stop.cancelled(), if !stopping => stopping = true,
                _ = self.settled.recv_many(&mut batch, BATCH) => {
                    self.take_settled(&mut batch).await?;
                    self.flush_if_many(&mut flush_set).await?;
                    arm(self.marks.untold() > 0, &mut flush_set, flush.as_mut());
                }
                () = &mut flush, if flush_set => {
                    flush_set = false;
                    self.flush(false).await?;
                    arm(self.marks.untold() > 0, &mut flush_set, flush.as_mut());
                }
                next = next(&mut self.arrivals, source.deliveries.as_ref()), if !stopping => {
                    if let Some(end) = self.take_arrived(source, next)? {
                        self.flush(true).await?;
                        return Ok(end);
                    }
                }
            }
            if stopping && source.deliveries.take().is_some() {
                source.live.set(false);
                self.stop_intake(source).await?;
            }
            if stopping && self.outstanding == 0 {
                self.flush(true).await?;
                return Ok(End::Stopped);
            }
        }
    }

    /// Hands on what has arrived, and what is there with it: looking at everything else for each delivery takes as long as
    /// the delivery. Answers the end of a consumer.
    fn take_arrived<'a, T, F: Fn(Delivery, &str) -> Option<T>>(
        &mut self,
        source: &'a Source<T, F>,
        first: Next<'a, T>,
    ) -> lapin::Result<Option<End>> {
        let mut next = Some(first);
        while let Some(arrived) = next.take() {
            match arrived {
                Next::Delivery(delivery, permit) => {
                    let tag = delivery.delivery_tag;
                    self.outstanding += 1;
                    let delivery = self.receive(*delivery);
                    if let Some(accepted) = (source.accept)(delivery.0, &delivery.1) {
                        permit.send(accepted);
                    }
                    tracing::trace!(consumer = source.name, tag, "delivered");
                    next = next_now(&mut self.arrivals, source.deliveries.as_ref());
                }
                Next::NobodyTakesThem => source.stop.cancel(),
                Next::Ended(Some(error)) => return Err(error),
                Next::Ended(None) => {
                    let reason = "the broker cancelled it: its queue was deleted or has moved".to_owned();
                    return Ok(Some(End::Lost(reason)));
                }
            }
        }
        Ok(None)
    }

    fn receive(&self, delivery: lapin::message::Delivery) -> (Delivery, String) {
        let receipt = SessionReceipt { tag: delivery.delivery_tag, settled: self.settled_sender.clone(), spent: false };
        let message = convert::message(&delivery.properties, delivery.data);
        let received = Delivery { message, redelivered: delivery.redelivered, receipt: Receipt::new(receipt) };
        (received, delivery.routing_key.as_str().to_owned())
    }

    async fn take_settled(&mut self, batch: &mut Vec<Settled>) -> lapin::Result<()> {
        for settled in batch.drain(..) {
            self.outstanding = self.outstanding.saturating_sub(1);
            match settled {
                Settled::Acknowledged(tag) => self.marks.finished(tag),
                Settled::HandedBack(tag) => {
                    self.marks.handed_back(tag);
                    hand_back(&self.channel, tag).await?;
                }
                // Not marked: no acknowledgement may stand for it.
                Settled::Left => {}
            }
        }
        Ok(())
    }

    async fn flush_if_many(&mut self, flush_set: &mut bool) -> lapin::Result<()> {
        if self.marks.untold() >= FLUSH_COUNT {
            *flush_set = false;
            self.flush(false).await?;
        }
        Ok(())
    }

    /// Tells the broker what is finished: in bulk, and one by one what waits for too long or too many for the bulk.
    async fn flush(&mut self, everything: bool) -> lapin::Result<()> {
        let waited = self.stragglers_since.is_some_and(|since| since.elapsed() >= STRAGGLER_DELAY);
        let everything = everything || waited || self.each_at_once;
        let told = self.marks.take(everything || self.marks.untold() >= self.stragglers_max.max(FLUSH_COUNT));
        if let Some(tag) = told.up_to {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
        // Together, so that they leave in one write.
        let single = told.single.iter().map(|tag| self.channel.basic_ack(*tag, BasicAckOptions { multiple: false }));
        futures::future::try_join_all(single).await?;
        self.stragglers_since = (self.marks.untold() > 0).then(|| self.stragglers_since.unwrap_or_else(Instant::now));
        Ok(())
    }

    /// Takes nothing more.
    async fn stop_intake<T, F: Fn(Delivery, &str) -> Option<T>>(&mut self, source: &Source<T, F>) -> lapin::Result<()> {
        match &source.order {
            // Not cancelled: a broker makes another consumer the active one at once (measured with 3.10), and it would
            // get the next of a key whose task still runs here. The prefetch bounds what comes meanwhile.
            Some(order) => {
                order.close();
                Ok(())
            }
            None => self.cancel().await,
        }
    }

    /// Cancels the consumers at the broker and hands back what came before it heard of that.
    async fn cancel(&mut self) -> lapin::Result<()> {
        for consumer_tag in &self.consumer_tags {
            answered(self.channel.basic_cancel(consumer_tag.clone(), BasicCancelOptions::default())).await?;
        }
        while let Ok(Some(arrival)) = tokio::time::timeout(CANCEL_TIMEOUT, self.arrivals.next()).await {
            let Some(delivery) = arrival else { continue };
            let tag = delivery?.delivery_tag;
            self.marks.handed_back(tag);
            hand_back(&self.channel, tag).await?;
        }
        Ok(())
    }

    /// The host closes: what is settled by now is told, everything else goes back with the channel.
    async fn close<T, F: Fn(Delivery, &str) -> Option<T>>(
        &mut self,
        source: &Source<T, F>,
        batch: &mut Vec<Settled>,
        stopped: bool,
    ) -> lapin::Result<End> {
        if !stopped {
            self.stop_intake(source).await?;
        }
        while let Ok(settled) = self.settled.try_recv() {
            batch.push(settled);
        }
        self.take_settled(batch).await?;
        self.flush(true).await?;
        Ok(End::Stopped)
    }

    async fn say_goodbye(&self) {
        declare::close(&self.channel).await;
    }
}

async fn hand_back(channel: &Channel, tag: u64) -> lapin::Result<()> {
    channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
}

fn arm(wanted: bool, set: &mut bool, timer: Pin<&mut Sleep>) {
    if wanted && !*set {
        *set = true;
        timer.reset(Instant::now() + FLUSH_DELAY);
    }
}

enum Next<'a, T> {
    Delivery(Box<lapin::message::Delivery>, mpsc::Permit<'a, T>),
    NobodyTakesThem,
    Ended(Option<lapin::Error>),
}

impl<'a, T> Next<'a, T> {
    fn of(arrival: Option<Arrival>, permit: mpsc::Permit<'a, T>) -> Self {
        match arrival.flatten() {
            Some(Ok(delivery)) => Self::Delivery(Box::new(delivery), permit),
            Some(Err(error)) => Self::Ended(Some(error)),
            None => Self::Ended(None),
        }
    }
}

/// The next delivery, once there is room for it: until then it stays with the driver, and so with the prefetch.
async fn next<'a, T>(arrivals: &mut Arrivals, deliveries: Option<&'a mpsc::Sender<T>>) -> Next<'a, T> {
    let Some(deliveries) = deliveries else {
        return Next::NobodyTakesThem;
    };
    let Ok(permit) = deliveries.reserve().await else {
        return Next::NobodyTakesThem;
    };
    tokio::select! {
        arrival = arrivals.next() => Next::of(arrival, permit),
        () = deliveries.closed() => Next::NobodyTakesThem,
    }
}

/// What is there by now, as far as there is room for it.
fn next_now<'a, T>(arrivals: &mut Arrivals, deliveries: Option<&'a mpsc::Sender<T>>) -> Option<Next<'a, T>> {
    let permit = deliveries?.try_reserve().ok()?;
    Some(Next::of(arrivals.next().now_or_never()?, permit))
}
