//! Publishing: persistent, mandatory, confirmed, hundreds in flight.

mod buckets;
mod delays;
mod in_flight;
mod lane;
mod newborn;
mod returns;
mod way;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{FuturesOrdered, StreamExt as _};
use lapin::types::ShortString;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connectivity::Health;
use super::link::{self, Link};
use super::partitions::{self, Partitions};
use super::{AmqpConfig, convert, declare};
use crate::broker::topology::{self, Bucket, Declaration, Partition};
use crate::delivery::{BrokerError, Connectivity, Delivery, Message, PublishError, Route, envelope};
use crate::task::{AgentName, unix_ms_now};
use buckets::Buckets;
use in_flight::{InFlight, Place};
use lane::{Answer, Lane, Request};
use newborn::Newborn;
use way::Way;

/// Wait before a delivery that could not be published again goes back to its queue, so that it does not spin.
const AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// Wait before a partition that somebody deleted is made again. A broker that finds a queue of the same name at once has
/// its consumers go on with it, and then takes the new queue's first deliveries for old ones (measured with 3.10): they
/// would wait there for `consumer_timeout`.
const DELETED_PAUSE: Duration = Duration::from_secs(1);

/// Keyed tasks of an agent that are on their way from its queue to their partitions at a time.
const MOVING_MAX: usize = 64;

/// Bytes of them beyond which no further one is begun. Each has `confirm_timeout` from when it is begun: more large bodies at
/// once would use up each other's time on a slow line, and all be sent again.
const MOVING_BYTES_MAX: usize = 4 << 20;

/// The publishing side of the broker.
pub(super) struct Publisher {
    config: Arc<AmqpConfig>,
    health: Arc<Health>,
    declaring: Arc<Link>,
    in_flight: InFlight,
    newborn: Newborn,
    making: tokio::sync::Mutex<()>,
    tasks: Lane,
    /// Apart from the tasks' lane: what goes wrong with a stranger's reply queue must not fail anybody's task.
    replies: Lane,
    buckets: Arc<Buckets>,
    partitions: Arc<Partitions>,
}

impl Publisher {
    pub(super) fn start(
        config: &Arc<AmqpConfig>,
        health: &Arc<Health>,
        publishing: Arc<Link>,
        declaring: Arc<Link>,
        partitions: Arc<Partitions>,
        closed: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let buckets: Arc<Buckets> = Arc::default();
        let known = Arc::clone(&buckets);
        // A channel dies when an exchange is missing, among other reasons: then what is known to exist is asked again.
        let forget = move || known.forget();
        Self {
            config: Arc::clone(config),
            health: Arc::clone(health),
            declaring,
            in_flight: InFlight::default(),
            newborn: Newborn::default(),
            making: tokio::sync::Mutex::default(),
            tasks: Lane::start("tasks", Arc::clone(&publishing), forget, closed, tasks),
            replies: Lane::start("replies", publishing, || (), closed, tasks),
            buckets,
            partitions,
        }
    }

    /// Publishes a message; see [`Broker::publish`](crate::delivery::Broker::publish).
    pub(super) async fn publish(&self, route: Route, message: Message) -> Result<(), PublishError> {
        match self.health.publishing() {
            Connectivity::Up => {}
            Connectivity::Down => return Err(PublishError::Unavailable(link::down())),
            Connectivity::Blocked => {
                return Err(unavailable("the broker holds publishers back: it is short of memory or disk"));
            }
        }
        if let Some((exchange, routing_key)) = self.is_open(&route, &message)
            && let Some(place) = self.in_flight.try_enter(exchange, routing_key)
        {
            check_size(&message)?;
            let answer = self.request(exchange.into(), routing_key, message)?;
            return self.in_time(answered(answer, Some(place))).await.unwrap_or_else(Err);
        }
        // Boxed where it is rare: the future of every result would be as large as that of the longest way.
        Box::pin(self.publish_slowly(route, message)).await
    }

    /// Exchange and routing key of a message for which nothing has to be made or waited for.
    fn is_open<'a>(&self, route: &'a Route, message: &Message) -> Option<(&'static str, &'a str)> {
        match route {
            Route::Reply(routing_key) => Some(("", routing_key)),
            Route::Agent(agent) if !self.newborn.any() && envelope::partition_key(message).is_none() => {
                Some((topology::TASKS_EXCHANGE, agent.as_str()))
            }
            Route::Agent(_) | Route::Delayed(..) | Route::DeadLetter(_) => None,
        }
    }

    async fn publish_slowly(&self, route: Route, message: Message) -> Result<(), PublishError> {
        let way = match route {
            Route::Delayed(agent, delay) if !delay.is_zero() => {
                return self.publish_delayed(agent, delay, message).await;
            }
            Route::Delayed(agent, _) => Way::of(Route::Agent(agent)),
            route => Way::of(route),
        };
        self.publish_to(way, message).await
    }

    async fn publish_to(&self, way: Way, message: Message) -> Result<(), PublishError> {
        self.in_time(self.send(way, message)).await.unwrap_or_else(Err)
    }

    /// What comes of a publish within the time for it.
    async fn in_time<T>(&self, sent: impl Future<Output = T>) -> Result<T, PublishError> {
        let limit = self.config.confirm_timeout;
        tokio::time::timeout(limit, sent).await.map_err(|_| unavailable(&format!("no confirm came within {limit:?}")))
    }

    async fn send(&self, way: Way, message: Message) -> Result<(), PublishError> {
        let (Route::Agent(agent) | Route::Delayed(agent, _)) = &way.route else {
            return self.send_once(&way, None, message).await;
        };
        let Some(partition) = envelope::partition_key(&message).map(|key| Partition::of_key(&key)) else {
            return self.send_once(&way, None, message).await;
        };
        Box::pin(self.send_keyed(&way, agent, partition, message)).await
    }

    async fn send_keyed(
        &self,
        way: &Way,
        agent: &AgentName,
        partition: Partition,
        message: Message,
    ) -> Result<(), PublishError> {
        let known = self.partitions.knows(agent);
        match self.send_once(way, Some(partition), message.clone()).await {
            Err(PublishError::Unroutable { .. }) if known => {
                // Somebody deleted the partition. Its consumer hears of that and makes it again, or else this does.
                tokio::time::sleep(DELETED_PAUSE).await;
                self.partitions.forget(agent);
                self.send_once(way, Some(partition), message).await
            }
            sent => sent,
        }
    }

    async fn send_once(&self, way: &Way, partition: Option<Partition>, message: Message) -> Result<(), PublishError> {
        let (message, exchange, routing_key) = self.resolve(way, partition, message).await?;
        let place = self.in_flight.enter(exchange.as_str(), &routing_key).await;
        way.was_asked.store(true, Ordering::Relaxed);
        answered(self.request(exchange, &routing_key, message)?, Some(place)).await
    }

    /// Puts a message into its lane, where it no longer depends on whoever waits for the answer.
    fn request(&self, exchange: ShortString, routing_key: &str, message: Message) -> Result<Answer, PublishError> {
        let properties = convert::properties(&message).map_err(PublishError::Refused)?;
        let routing_key = ShortString::try_new(routing_key)
            .map_err(|_| PublishError::Refused("its routing key is longer than AMQP's 255 bytes".to_owned()))?;
        let (request, answer) = Request::new(exchange, routing_key, properties, message.body);
        let lane = if request.is_reply() { &self.replies } else { &self.tasks };
        lane.send(request);
        Ok(answer)
    }

    /// Exchange and routing key of a route, with the queues made where it is their first use.
    async fn resolve(
        &self,
        way: &Way,
        partition: Option<Partition>,
        message: Message,
    ) -> Result<(Message, ShortString, String), PublishError> {
        if !matches!(way.route, Route::DeadLetter(_)) {
            check_size(&message)?;
        }
        Ok(match &way.route {
            Route::Agent(agent) => {
                self.newborn.grown_up(&topology::task_queue(agent)).await;
                (message, topology::TASKS_EXCHANGE.into(), self.routing_key(agent, partition).await?)
            }
            Route::Delayed(agent, delay) => {
                let bucket = way.bucket.unwrap_or_else(|| Bucket::for_delay(*delay));
                let message = delays::after(message, bucket, *delay);
                Box::pin(self.declare_bucket(bucket)).await?;
                // The bucket keeps it, and so the task comes out into its partition.
                (message, bucket.name().as_str().into(), self.routing_key(agent, partition).await?)
            }
            Route::DeadLetter(agent) => {
                self.newborn.grown_up(&topology::task_queue(agent)).await;
                (message, ShortString::default(), topology::dead_letter_queue(agent))
            }
            Route::Reply(routing_key) => (message, ShortString::default(), routing_key.clone()),
        })
    }

    /// The way to an agent, or to one of its partitions.
    async fn routing_key(&self, agent: &AgentName, partition: Option<Partition>) -> Result<String, PublishError> {
        let Some(partition) = partition else { return Ok(agent.to_string()) };
        Box::pin(self.make_partitions(agent)).await?;
        Ok(partition.routing_key(agent))
    }

    /// Makes an agent's partitions where it has none.
    async fn make_partitions(&self, agent: &AgentName) -> Result<(), PublishError> {
        if !self.partitions.knows(agent) {
            // They are made together: the first one stands for all. Another host may be making them just now.
            self.newborn.add(partitions::first_queue(agent));
            self.partitions.ensure(agent, self.mark(agent)).await?;
        }
        if self.newborn.any() {
            self.newborn.grown_up(&partitions::first_queue(agent)).await;
        }
        Ok(())
    }

    /// Tells other hosts that there is an agent with new partitions.
    async fn mark(&self, agent: &AgentName) -> Result<(), PublishError> {
        let marker = Message { message_id: Some(agent.to_string()), ..Message::default() };
        answered(self.request(ShortString::default(), topology::PARTITIONED, marker)?, None).await
    }

    /// Declares a queue and what belongs to it, and notes whether it is new.
    async fn make(&self, queue: &str, declarations: &[Declaration]) -> Result<(), BrokerError> {
        // One at a time: whoever comes second is to find the note.
        let _alone = self.making.lock().await;
        let connection = self.declaring.get().ok_or_else(link::down)?;
        let is_there =
            self.config.predeclared || declare::message_count(&connection, &[queue.to_owned()]).await.is_ok();
        // Before it is made: whoever gives up waiting for that leaves the note.
        if !is_there {
            self.newborn.add(queue.to_owned());
        }
        declare::apply(&connection, declarations, self.config.predeclared).await
    }

    /// Makes an agent's queues.
    pub(super) async fn declare(&self, agent: &AgentName) -> Result<(), BrokerError> {
        let mut declarations = topology::shared();
        declarations.extend(topology::for_agent(agent));
        self.make(&topology::task_queue(agent), &declarations).await
    }

    /// Whether a delivery of an agent's queue belongs into one of its partitions. One that is too large to be published
    /// does not: it will be a dead letter wherever it is read.
    pub(super) fn is_to_be_moved(message: &Message) -> bool {
        envelope::partition_key(message).is_some() && Self::can_be_published(message)
    }

    /// Whether a message is small enough to be published again.
    pub(super) fn can_be_published(message: &Message) -> bool {
        envelope::check_size(message).is_ok()
    }

    /// Moves keyed tasks that somebody published with the agent's own routing key to their partitions, in their order
    /// here: in the order in which this host received them, as long as the broker takes them all.
    pub(super) async fn move_all(self: Arc<Self>, agent: AgentName, mut deliveries: mpsc::UnboundedReceiver<Delivery>) {
        let (mut moving, mut moving_bytes) = (FuturesOrdered::new(), 0);
        loop {
            tokio::select! {
                Some(delivery) = deliveries.recv(), if moving.len() < MOVING_MAX && moving_bytes < MOVING_BYTES_MAX => {
                    // What is begun in order is published in order, where nothing but a place in the line is waited for.
                    // A failure shows again below.
                    drop(self.in_time(self.make_partitions(&agent)).await);
                    let bytes = delivery.message.body.len();
                    moving_bytes += bytes;
                    let moved = self.move_one(&agent, delivery);
                    moving.push_back(async move {
                        moved.await;
                        bytes
                    });
                }
                Some(bytes) = moving.next(), if !moving.is_empty() => moving_bytes -= bytes,
                else => return,
            }
        }
    }

    async fn move_one(&self, agent: &AgentName, delivery: Delivery) {
        let message = envelope::moved(&delivery.message, unix_ms_now());
        match self.publish(Route::Agent(agent.clone()), message).await {
            Ok(()) => delivery.receipt.acknowledge(),
            Err(error) => {
                tracing::warn!(%agent, error = &error as &dyn std::error::Error, "a task could not be moved to its partition; trying later");
                tokio::time::sleep(AGAIN_PAUSE).await;
                delivery.receipt.hand_back();
            }
        }
    }

    /// Waits until nothing is in flight.
    pub(super) async fn drain(&self) {
        self.in_flight.drain().await;
    }
}

/// What the broker says of a message, which keeps its place until then.
async fn answered(answer: Answer, _place: Option<Place<'_>>) -> Result<(), PublishError> {
    answer.await.unwrap_or_else(|_| Err(PublishError::Unavailable(link::down())))
}

fn check_size(message: &Message) -> Result<(), PublishError> {
    envelope::check_size(message).map_err(|error| PublishError::Refused(error.to_string()))
}

fn unavailable(reason: &str) -> PublishError {
    PublishError::Unavailable(BrokerError(reason.to_owned()))
}
