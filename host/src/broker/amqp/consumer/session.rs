//! One channel's life: deliveries out, acknowledgements back in bulk.
//!
//! Receipts belong to the session: they report to a queue that dies with it, so a receipt of a lost channel does nothing.

mod parked;
mod room;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use self::parked::Parked;
use self::room::Coming;
use super::Source;
use super::hand::InHand;
use super::prefetch::Prefetch;
use super::receipt::{SessionReceipt, Settled};
use super::registered::{Asking, Consumers};
use crate::broker::amqp::convert;
use crate::broker::amqp::declare;
use crate::broker::amqp::watermark::Watermark;
use crate::delivery::envelope::headers;
use crate::delivery::{Delivery, Message, Receipt};
use crate::memory::{Charge, MemoryLedger};

/// How a session ended.
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// The broker or the network ended it, for this reason.
    Lost(String),
}

/// Finished deliveries that are acknowledged without waiting for more; or this part of the prefetch, where that is less, so that the
/// broker always has some to send.
const FLUSH_COUNT: usize = 64;
const FLUSH_SHARE: usize = 4;
/// Longest wait of an acknowledgement for company.
const FLUSH_DELAY: Duration = Duration::from_millis(2);
/// The same where there was company the last time: a queue on several brokers writes each acknowledgement down, however many
/// deliveries it is for.
const FLUSH_DELAY_BUSY: Duration = Duration::from_millis(8);
/// So many finished deliveries are company.
const BUSY_FROM: usize = 4;
/// Longest wait for the oldest task to finish, before those that finished after it are acknowledged one by one.
const STRAGGLER_DELAY: Duration = Duration::from_millis(100);
/// Settlements taken from the queue at a time.
const BATCH: usize = 256;
/// Deliveries taken in before the settlements have their turn.
const TAKEN_IN_MAX: usize = 64;
/// How often a consumer that waits for room looks whether others have made some.
const RESUME_EVERY: Duration = Duration::from_millis(50);
/// What of the room for bodies one consumer's prefetch is to fill, and what has to be free before one that has paused goes
/// on: a fraction.
const ROOM_SHARE: u64 = 2;

/// A delivery that nobody has taken yet.
struct Held {
    delivery: lapin::message::Delivery,
    /// How often it was handed back for want of room.
    returns: u64,
    body: Charge,
    in_hand: InHand,
}

struct Session {
    channel: Channel,
    consumers: Consumers,
    memory: MemoryLedger,
    prefetch: Prefetch,
    coming: Coming,
    parked: Parked,
    /// Read from the channel as they come, so that their size is known, and not handed over yet.
    held: VecDeque<Held>,
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
    /// Whether the last acknowledgements had company.
    is_busy: bool,
    /// When the oldest of them came to wait.
    stragglers_since: Option<Instant>,
}

/// Consumes until the end of the channel or of the consumer.
pub(super) async fn run<T, F: Fn(Delivery, &str) -> Option<T>>(
    asking: Asking,
    source: &mut Source<T, F>,
    memory: &MemoryLedger,
    closing: &CancellationToken,
) -> lapin::Result<End> {
    let mut session = Session::open(asking, source, memory).await?;
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
        asking: Asking,
        source: &Source<T, F>,
        memory: &MemoryLedger,
    ) -> lapin::Result<Self> {
        let channel = asking.channel.clone();
        let prefetch = Prefetch::new(source.prefetch);
        let mut queues = VecDeque::from(source.queues.clone());
        let (now, first) = match &source.order {
            Some(_) => (queues.pop_front().into_iter().collect(), source.prefetch),
            None => (Vec::from(std::mem::take(&mut queues)), prefetch.current()),
        };
        let consumers = Consumers::register(asking, now, first).await?;
        let (settled_sender, settled) = mpsc::unbounded_channel();
        Ok(Self {
            channel,
            consumers,
            memory: memory.clone(),
            prefetch,
            coming: Coming::new(queues),
            parked: Parked::default(),
            held: VecDeque::new(),
            settled_sender,
            settled,
            marks: Watermark::default(),
            outstanding: 0,
            stragglers_max: usize::from(source.prefetch / 2).max(1),
            each_at_once: source.order.is_some(),
            is_busy: false,
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
        let mut resume = tokio::time::interval(RESUME_EVERY);
        resume.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                    self.arm(&mut flush_set, flush.as_mut());
                }
                () = &mut flush, if flush_set => {
                    flush_set = false;
                    self.flush(false).await?;
                    self.arm(&mut flush_set, flush.as_mut());
                }
                _ = resume.tick(), if self.waits_for_room() && !stopping => self.look_for_room(source).await?,
                first = next(&mut self.consumers, source.deliveries.as_ref(), !self.held.is_empty()), if !stopping => {
                    if let Some(end) = self.take_in(first, source).await? {
                        return Ok(end);
                    }
                }
            }
            if stopping && source.deliveries.take().is_some() {
                source.live.set(false);
                self.stop_intake(source).await?;
            }
            if stopping && self.outstanding == 0 {
                self.tell_everything().await?;
                return Ok(End::Stopped);
            }
        }
    }

    /// Takes in what has come, and what has come behind it: going round for each costs as much as a delivery.
    async fn take_in<T, F: Fn(Delivery, &str) -> Option<T>>(
        &mut self,
        first: lapin::Result<Next<'_, T>>,
        source: &Source<T, F>,
    ) -> lapin::Result<Option<End>> {
        let (mut came, mut left) = (Some(first), TAKEN_IN_MAX);
        while let Some(what) = came {
            match what? {
                Next::Place(permit) => self.hand_over(source, permit),
                Next::Delivery(queue, delivery) => {
                    self.arrive(&queue, *delivery, source).await?;
                    let place = source.deliveries.as_ref().and_then(|deliveries| deliveries.try_reserve().ok());
                    place.into_iter().for_each(|permit| self.hand_over(source, permit));
                }
                Next::NobodyTakesThem => {
                    source.stop.cancel();
                    break;
                }
                Next::Cancelled => {
                    self.tell_everything().await?;
                    let reason = "the broker cancelled it: its queue was deleted or has moved";
                    return Ok(Some(End::Lost(reason.to_owned())));
                }
            }
            left -= 1;
            // What is asked for is taken in: it has left the channel.
            came = match left {
                0 => None,
                _ => next(&mut self.consumers, source.deliveries.as_ref(), !self.held.is_empty()).now_or_never(),
            };
        }
        Ok(None)
    }

    /// Hands the oldest over that waits.
    fn hand_over<T, F: Fn(Delivery, &str) -> Option<T>>(&mut self, source: &Source<T, F>, place: mpsc::Permit<'_, T>) {
        let Some(Held { delivery, returns, body, in_hand }) = self.held.pop_front() else { return };
        let tag = delivery.delivery_tag;
        self.outstanding += 1;
        let mut delivery = self.receive(delivery, (body, in_hand));
        discount(&mut delivery.0.message, returns);
        if let Some(accepted) = (source.accept)(delivery.0, &delivery.1) {
            place.send(accepted);
        }
        tracing::trace!(consumer = source.name, tag, "delivered");
    }

    fn receive(&self, delivery: lapin::message::Delivery, held: (Charge, InHand)) -> (Delivery, String) {
        let (tag, settled) = (delivery.delivery_tag, self.settled_sender.clone());
        let receipt = SessionReceipt::new(tag, settled, held);
        let message = convert::message(&delivery.properties, delivery.data);
        let received = Delivery { message, redelivered: delivery.redelivered, receipt: Receipt::new(receipt) };
        (received, delivery.routing_key.as_str().to_owned())
    }

    async fn take_settled(&mut self, batch: &mut Vec<Settled>) -> lapin::Result<()> {
        for settled in batch.drain(..) {
            self.outstanding = self.outstanding.saturating_sub(1);
            match settled {
                Settled::Acknowledged(tag) if self.parked.finished(tag) => self.marks.finished(tag),
                Settled::Acknowledged(_) => {}
                Settled::HandedBack(tag) => {
                    self.parked.gone(tag);
                    self.marks.handed_back(tag);
                    hand_back(&self.channel, tag).await?;
                }
                // Not marked: no acknowledgement may stand for it.
                Settled::Left(tag) => self.parked.gone(tag),
            }
        }
        Ok(())
    }

    async fn flush_if_many(&mut self, flush_set: &mut bool) -> lapin::Result<()> {
        let many = FLUSH_COUNT.min(usize::from(self.prefetch.current()) / FLUSH_SHARE);
        if self.marks.untold() >= many.max(1) {
            *flush_set = false;
            self.flush(false).await?;
        }
        Ok(())
    }

    fn arm(&self, set: &mut bool, timer: Pin<&mut Sleep>) {
        if self.marks.untold() > 0 && !*set {
            *set = true;
            timer.reset(Instant::now() + if self.is_busy { FLUSH_DELAY_BUSY } else { FLUSH_DELAY });
        }
    }

    /// Tells the broker what is finished: in bulk, and one by one what waits for too long or too many for the bulk.
    async fn flush(&mut self, everything: bool) -> lapin::Result<()> {
        self.is_busy = self.marks.untold() >= BUSY_FROM;
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

    /// Tells the broker of all that is finished, before the channel ends.
    async fn tell_everything(&mut self) -> lapin::Result<()> {
        self.parked.end().into_iter().for_each(|tag| self.marks.finished(tag));
        self.flush(true).await
    }

    /// Takes nothing more.
    async fn stop_intake<T, F: Fn(Delivery, &str) -> Option<T>>(&mut self, source: &Source<T, F>) -> lapin::Result<()> {
        match &source.order {
            // Not cancelled: a broker makes another consumer the active one at once (measured with 3.10), and it would
            // get the next of a key whose task still runs here. The prefetch bounds what comes meanwhile.
            Some(order) => {
                order.close();
                self.parked.close();
                Ok(())
            }
            None => self.cancel().await,
        }
    }

    /// Cancels the consumers at the broker and hands back what came before it heard of that.
    async fn cancel(&mut self) -> lapin::Result<()> {
        self.consumers.cancel().await?;
        for Held { delivery, .. } in std::mem::take(&mut self.held) {
            self.marks.handed_back(delivery.delivery_tag);
            hand_back(&self.channel, delivery.delivery_tag).await?;
        }
        while let Some(delivery) = self.consumers.rest().await? {
            self.marks.handed_back(delivery.delivery_tag);
            hand_back(&self.channel, delivery.delivery_tag).await?;
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
        self.tell_everything().await?;
        Ok(End::Stopped)
    }

    async fn say_goodbye(&mut self) {
        declare::close(&self.channel).await;
    }
}

async fn hand_back(channel: &Channel, tag: u64) -> lapin::Result<()> {
    channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
}

/// Takes back what the broker counted only because there was no room here: it says nothing of what the task does to hosts.
fn discount(message: &mut Message, returns: u64) {
    if returns > 0
        && let Some(counted) = message.headers.get_mut(headers::DELIVERY_COUNT)
        && let Some(count) = counted.as_count()
    {
        *counted = count.saturating_sub(returns).into();
    }
}

enum Next<'a, T> {
    /// For one of those that wait.
    Place(mpsc::Permit<'a, T>),
    /// With the queue that it is from.
    Delivery(Arc<str>, Box<lapin::message::Delivery>),
    NobodyTakesThem,
    /// The broker has ended a consumer.
    Cancelled,
}

/// The next place for a delivery that waits, or the next delivery.
async fn next<'a, T>(
    consumers: &mut Consumers,
    deliveries: Option<&'a mpsc::Sender<T>>,
    one_waits: bool,
) -> lapin::Result<Next<'a, T>> {
    let Some(deliveries) = deliveries else { return Ok(Next::NobodyTakesThem) };
    Ok(tokio::select! {
        biased;
        place = deliveries.reserve(), if one_waits => place.map_or(Next::NobodyTakesThem, Next::Place),
        delivery = consumers.next() => match delivery? {
            Some((queue, delivery)) => Next::Delivery(queue, Box::new(delivery)),
            None => Next::Cancelled,
        },
        () = deliveries.closed() => Next::NobodyTakesThem,
    })
}
