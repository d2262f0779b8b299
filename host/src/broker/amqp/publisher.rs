//! Publishing: persistent, mandatory, confirmed, hundreds in flight.

mod buckets;
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
use crate::broker::topology::{self, Bucket, DELAY_REST_MAX, Declaration, Partition};
use crate::delivery::envelope::{self, headers};
use crate::delivery::{BrokerError, Connectivity, Delivery, HeaderValue, Message, PublishError, Route};
use crate::task::{AgentName, UnixMs, unix_ms_now};
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

/// The longest of the delay queues that a host makes when it starts: past every wait for a database or a broker, and past
/// the first retries of most agents.
const DECLARED_FIRST_MS_MAX: u64 = 10_000;

/// Keyed tasks of an agent that are on their way from its queue to their partitions at a time.
const MOVING_MAX: usize = 64;

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

    async fn publish_delayed(&self, agent: AgentName, delay: Duration, message: Message) -> Result<(), PublishError> {
        let rest_max = rest_max(&message);
        if delay <= rest_max {
            return self.publish_to(Way::of(Route::Agent(agent)), with_rest(message, delay)).await;
        }
        let bucket = self.buckets.for_delay(delay.saturating_sub(rest_max));
        let first = Way::through(bucket, agent.clone(), delay);
        let was_asked = Arc::clone(&first.was_asked);
        let sent = self.in_time(self.send(first, message.clone())).await;
        let late = match sent {
            Ok(sent) => {
                if sent.is_ok() {
                    self.buckets.answers(bucket);
                }
                return sent;
            }
            Err(late) => late,
        };
        // What was waited for may have been something else than this queue.
        let other = Some(Buckets::after(bucket)).filter(|_| was_asked.load(Ordering::Relaxed)).flatten();
        match (other, self.health.publishing()) {
            (Some(other), Connectivity::Up) => {
                let sent = self.publish_to(Way::through(other, agent, delay), message).await;
                // The broker as a whole is well: it is the queue.
                if sent.is_ok() {
                    self.buckets.is_silent(bucket);
                }
                sent
            }
            _ => Err(late),
        }
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
        mut message: Message,
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
                let (bucket, delay) = (way.bucket.unwrap_or_else(|| Bucket::for_delay(*delay)), *delay);
                let rest = bucket.rest_of(delay);
                if rest > rest_max(&message) {
                    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                    let not_before_ms = unix_ms_now().saturating_add(delay_ms);
                    message.headers.insert(headers::NOT_BEFORE.to_owned(), HeaderValue::from(not_before_ms));
                } else if !rest.is_zero() {
                    message = with_rest(message, rest);
                }
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

    async fn declare_bucket(&self, bucket: Bucket) -> Result<(), PublishError> {
        if !self.buckets.knows(bucket) {
            self.make(&bucket.name(), &topology::for_bucket(bucket)).await.map_err(PublishError::Unavailable)?;
            self.buckets.add(bucket);
        }
        self.newborn.grown_up(&bucket.name()).await;
        Ok(())
    }

    /// Makes the delay queues that nearly every fleet comes to use, so that they are old before they are needed.
    pub(super) async fn declare_first_buckets(&self) -> Result<(), BrokerError> {
        let first: Vec<Bucket> =
            Bucket::all().take_while(|bucket| bucket.delay_ms() <= DECLARED_FIRST_MS_MAX).collect();
        let Some(last) = first.last().filter(|_| !self.config.predeclared) else { return Ok(()) };
        let _alone = self.making.lock().await;
        let connection = self.declaring.get().ok_or_else(link::down)?;
        // They are made in order: where the last one is, all are. Asking for each would fill the broker's log.
        let are_there = declare::exists(&connection, &last.name()).await?;
        let declarations: Vec<Declaration> = first.iter().copied().flat_map(topology::for_bucket).collect();
        if !are_there {
            first.iter().for_each(|bucket| self.newborn.add(bucket.name()));
        }
        declare::apply(&connection, &declarations, false).await?;
        first.into_iter().for_each(|bucket| self.buckets.add(bucket));
        Ok(())
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

    /// Sends a delivery that came out of the longest delay queue round again.
    pub(super) async fn delay_again(self: Arc<Self>, agent: AgentName, delivery: Delivery, not_before_ms: UnixMs) {
        let rest = Duration::from_millis(not_before_ms.saturating_sub(unix_ms_now()));
        match self.publish(Route::Delayed(agent, rest), envelope::moved(&delivery.message, unix_ms_now())).await {
            Ok(()) => delivery.receipt.acknowledge(),
            Err(error) => {
                tracing::warn!(%error, "a task with a long delay could not be sent round again; trying later");
                tokio::time::sleep(AGAIN_PAUSE).await;
                delivery.receipt.hand_back();
            }
        }
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
        let mut moving = FuturesOrdered::new();
        loop {
            tokio::select! {
                Some(delivery) = deliveries.recv(), if moving.len() < MOVING_MAX => {
                    // What is begun in order is published in order, where nothing but a place in the line is waited for.
                    // A failure shows again below.
                    drop(self.in_time(self.make_partitions(&agent)).await);
                    moving.push_back(self.move_one(&agent, delivery));
                }
                Some(()) = moving.next(), if !moving.is_empty() => {}
                else => return,
            }
        }
    }

    async fn move_one(&self, agent: &AgentName, delivery: Delivery) {
        let message = envelope::moved(&delivery.message, unix_ms_now());
        match self.publish(Route::Agent(agent.clone()), message).await {
            Ok(()) => delivery.receipt.acknowledge(),
            Err(error) => {
                tracing::warn!(%agent, %error, "a task could not be moved to its partition; trying later");
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

/// How much longer a message may be delayed than its delay queue does. One with a key not at all: those that were kept might
/// change places with others of their key.
fn rest_max(message: &Message) -> Duration {
    if envelope::partition_key(message).is_some() { Duration::ZERO } else { DELAY_REST_MAX }
}

/// The message, which whoever receives it keeps for the rest of its delay.
fn with_rest(mut message: Message, rest: Duration) -> Message {
    let rest_ms = u64::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    message.headers.insert(headers::DELAY_REST.to_owned(), HeaderValue::from(rest_ms));
    message
}

fn check_size(message: &Message) -> Result<(), PublishError> {
    envelope::check_size(message).map_err(|error| PublishError::Refused(error.to_string()))
}

fn unavailable(reason: &str) -> PublishError {
    PublishError::Unavailable(BrokerError(reason.to_owned()))
}
