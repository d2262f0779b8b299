//! The consumers of one channel: made, replaced by others with another prefetch, paused, cancelled. RabbitMQ fixes the prefetch
//! of a consumer when it is made.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, SelectAll, Stream, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};

use crate::broker::amqp::traffic::Traffic;

/// Longest wait for deliveries on their way when a consumer is cancelled.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// What comes over the channel: deliveries, and the end of one of its consumers; with the generation of the consumer, and
/// its queue.
type Arrivals = SelectAll<Box<dyn Stream<Item = (u64, Arc<str>, Arrival)> + Send + Sync + Unpin>>;
type Arrival = Option<lapin::Result<Delivery>>;

/// Consumers in the place of those before, or none.
type Change = Pin<Box<dyn Future<Output = lapin::Result<Vec<Consumer>>> + Send>>;

/// A channel, and what else comes over its connection.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) channel: Channel,
    pub(super) traffic: Arc<Traffic>,
}

/// Those that are registered at the broker.
pub(super) struct Consumers {
    asking: Asking,
    arrivals: Arrivals,
    tags: Vec<ShortString>,
    /// Counts the changes. The end of a consumer of an earlier generation was asked for.
    generation: u64,
    change: Option<Change>,
    paused: bool,
}

impl Consumers {
    /// Consumes these queues with a prefetch of their own each.
    pub(super) async fn register(asking: Asking, queues: Vec<String>, prefetch: u16) -> lapin::Result<Self> {
        let made = asking.clone().consume(queues, prefetch).await?;
        let (arrivals, tags) = (Arrivals::new(), Vec::new());
        let mut consumers = Self { asking, arrivals, tags, generation: 0, change: None, paused: false };
        consumers.listen_to(made);
        Ok(consumers)
    }

    /// Whether nothing is consumed, after [`Self::pause`].
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether a change is under way.
    pub(super) fn is_changing(&self) -> bool {
        self.change.is_some()
    }

    /// Begins to consume with another prefetch, or again, and ends what consumes now, so that somebody consumes throughout.
    pub(super) fn replace(&mut self, queues: Vec<String>, prefetch: u16) {
        self.change(Some((queues, prefetch)));
    }

    /// Consumes one more queue, when no change is under way.
    pub(super) fn add(&mut self, queue: String, prefetch: u16) {
        self.change = Some(Box::pin(self.asking.clone().consume(vec![queue], prefetch)));
    }

    /// Stops consuming until [`Self::replace`].
    pub(super) fn pause(&mut self) {
        self.change(None);
    }

    fn change(&mut self, consumers: Option<(Vec<String>, u16)>) {
        self.generation += 1;
        self.paused = consumers.is_none();
        let (asking, old) = (self.asking.clone(), std::mem::take(&mut self.tags));
        let under_way = self.change.take();
        self.change = Some(Box::pin(async move {
            let new = match (consumers, under_way) {
                (Some((queues, prefetch)), _) => asking.clone().consume(queues, prefetch).await?,
                // What it makes ends here, and what has come to it is still to be heard.
                (None, Some(under_way)) => {
                    let made = under_way.await?;
                    let tags: Vec<ShortString> = made.iter().map(Consumer::tag).collect();
                    asking.cancel_all(&tags).await?;
                    made
                }
                (None, None) => Vec::new(),
            };
            asking.cancel_all(&old).await?;
            Ok(new)
        }));
    }

    fn listen_to(&mut self, consumers: Vec<Consumer>) {
        let generation = if self.paused { 0 } else { self.generation };
        if !self.paused {
            self.tags.extend(consumers.iter().map(Consumer::tag));
        }
        for consumer in consumers {
            let queue: Arc<str> = Arc::from(consumer.queue().as_str());
            let arrivals = consumer.map(Some).chain(stream::iter([None]));
            self.arrivals.push(Box::new(arrivals.map(move |arrival| (generation, Arc::clone(&queue), arrival))));
        }
    }

    /// The next delivery and the queue that it is from, or nothing where the broker has cancelled a consumer. Changes are
    /// seen through meanwhile. Giving up loses nothing.
    pub(super) async fn next(&mut self) -> lapin::Result<Option<(Arc<str>, Delivery)>> {
        loop {
            // Without a consumer nothing comes, and that is not an end.
            let nothing_comes = self.arrivals.is_empty();
            tokio::select! {
                biased;
                made = changed(&mut self.change) => self.listen_to(made?),
                Some((generation, queue, arrival)) = self.arrivals.next(), if !nothing_comes => match arrival {
                    Some(delivery) => {
                        self.asking.traffic.came();
                        return delivery.map(|delivery| Some((queue, delivery)));
                    }
                    // One that was replaced.
                    None if generation < self.generation => {}
                    None => return Ok(None),
                },
            }
        }
    }

    /// Ends all of them at the broker. What came before it heard of that is in [`Self::rest`].
    pub(super) async fn cancel(&mut self) -> lapin::Result<()> {
        if let Some(change) = self.change.take() {
            let made = change.await?;
            self.listen_to(made);
        }
        self.asking.cancel_all(&self.tags).await
    }

    /// The next delivery that came before the consumers were cancelled.
    pub(super) async fn rest(&mut self) -> lapin::Result<Option<Delivery>> {
        while let Ok(Some((_, _, arrival))) = tokio::time::timeout(CANCEL_TIMEOUT, self.arrivals.next()).await {
            if let Some(delivery) = arrival {
                return delivery.map(Some);
            }
        }
        Ok(None)
    }
}

impl Asking {
    /// A channel of its own.
    pub(super) async fn open(connection: &Connection, traffic: Arc<Traffic>) -> lapin::Result<Self> {
        let channel = traffic.answered(connection.create_channel()).await?;
        Ok(Self { channel, traffic })
    }

    async fn consume(self, queues: Vec<String>, prefetch: u16) -> lapin::Result<Vec<Consumer>> {
        let Self { channel, traffic } = self;
        traffic.answered(channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let mut consumers = Vec::with_capacity(queues.len());
        for queue in queues {
            let (queue, options) = (queue.into(), BasicConsumeOptions::default());
            let consuming = channel.basic_consume(queue, "".into(), options, FieldTable::default());
            consumers.push(traffic.answered(consuming).await?);
        }
        Ok(consumers)
    }

    async fn cancel_all(&self, tags: &[ShortString]) -> lapin::Result<()> {
        for tag in tags {
            let cancelling = self.channel.basic_cancel(tag.clone(), BasicCancelOptions::default());
            self.traffic.answered(cancelling).await?;
        }
        Ok(())
    }
}

/// The outcome of a change that is under way.
async fn changed(change: &mut Option<Change>) -> lapin::Result<Vec<Consumer>> {
    let Some(under_way) = change else { return std::future::pending().await };
    let consumers = under_way.await;
    *change = None;
    consumers
}
