//! RabbitMQ over AMQP 0-9-1.
//!
//! ```text
//!  publish ──► Publisher ── lanes (one channel each) ──► connection "publish" ──► RabbitMQ
//!  consume ──► supervisor ── channel per consumer ─────► connection "consume" ──► RabbitMQ
//!  declare, depth, dead letters ── a channel per call ─► connection "declare" ──► RabbitMQ
//! ```
//!
//! Three connections. Under a memory alarm the broker stops reading from connections that publish, and an acknowledgement
//! sent there would wait for the alarm to clear (measured). And on the one that consumes, an answer comes behind every body
//! that the broker is sending: what can be asked elsewhere is.
//!
//! Everything heals itself: a `link::Link` per connection remakes it, and each lane and each consumer remakes its
//! channel, also where only the channel died (a consumer timeout, a deleted queue). The driver's own recovery is not
//! used: it knows nothing of channels that die alone, and nothing of receipts that became void.

mod connectivity;
mod consumer;
mod convert;
mod dead_letters;
mod declare;
mod expired;
#[cfg(any(test, feature = "test-support"))]
pub mod fixture;
mod link;
mod order;
mod partitions;
mod publisher;
mod rest;
mod traffic;
mod watermark;

pub use declare::differing;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::topology::{self, Partition};
use crate::delivery::envelope;
use crate::delivery::{
    Broker, BrokerError, Connectivity, Consumer, Delivery, Message, PublishError, QueueDepth, Route,
};
use crate::memory::MemoryLedger;
use crate::task::{AgentName, unix_ms_now};
use connectivity::Health;
use consumer::{Hand, Live};
use link::Link;
use order::Order;
use partitions::Partitions;
use publisher::Publisher;
use rest::Rests;

/// How to reach the broker and how patient to be with it.
#[derive(Clone)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://` for TLS; a `/` in the vhost is written `%2f`.
    pub url: String,
    /// Whether an operator has declared the whole topology: then nothing is declared, only checked.
    pub predeclared: bool,
    /// Longest silence on a connection before it counts as dead; the broker is asked for heartbeats at this interval.
    /// Below 5 s a busy host is taken for a dead one.
    pub heartbeat: Duration,
    /// Longest wait for a connection to be made.
    pub connect_timeout: Duration,
    /// Longest wait for the confirm of a message, its wait for a place among the messages in flight included.
    pub confirm_timeout: Duration,
    /// Wait before the first attempt to remake a connection or channel; it doubles with every failed one.
    pub reconnect_initial: Duration,
    /// Longest wait between attempts.
    pub reconnect_max: Duration,
    /// Accounts for the bodies of what is delivered, and so bounds the prefetch.
    pub memory: MemoryLedger,
}

impl AmqpConfig {
    /// The defaults for a broker.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            // A broker without a host around it has accounts of its own, with the default budget.
            memory: MemoryLedger::new(500_000_000, u32::MAX),
            url: url.into(),
            predeclared: false,
            // A dead peer is noticed within two heartbeats; broker restarts reset the socket and show at once.
            heartbeat: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            // A confirm takes milliseconds; after this long the sender should hear "503", not wait on.
            confirm_timeout: Duration::from_secs(5),
            reconnect_initial: Duration::from_millis(100),
            // Keeps "consuming again within 5 s of the broker's return" with room for the handshake.
            reconnect_max: Duration::from_secs(2),
        }
    }
}

impl std::fmt::Debug for AmqpConfig {
    /// Leaves the URL out: it holds a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpConfig")
            .field("predeclared", &self.predeclared)
            .field("heartbeat", &self.heartbeat)
            .field("connect_timeout", &self.connect_timeout)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("reconnect_initial", &self.reconnect_initial)
            .field("reconnect_max", &self.reconnect_max)
            .finish_non_exhaustive()
    }
}

/// Deliveries on their way from a channel to whoever runs them. Small, because what lies here is claimed but not worked
/// on, and large enough that neither side waits for the other on every message.
const HANDOVER_DELIVERIES: usize = 8;

/// Unsettled messages that the reader of expired tasks works on at a time.
const EXPIRED_PREFETCH: u16 = 32;

/// Unsettled messages of a partition on this host: how many of its keys can run at a time, and how many tasks of one key
/// can wait here for the one before to end. Few, because they cannot be handed back out of their order, and a body that
/// finds no room has come in vain. RabbitMQ gives a consumer 30 minutes to settle a delivery, too: two tasks of 15 minutes
/// fit one after the other, two of the longest timeout do not.
const PARTITION_PREFETCH: u16 = 2;

/// Longest wait in `close` for messages in flight and for consumers to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A RabbitMQ broker.
pub struct AmqpBroker {
    config: Arc<AmqpConfig>,
    health: Arc<Health>,
    consuming: Arc<Link>,
    declaring: Arc<Link>,
    publisher: Arc<Publisher>,
    partitions: Arc<Partitions>,
    /// Goes through a queue of dead letters; two at a time would hide letters from each other.
    removing: tokio::sync::Mutex<()>,
    consumers: TaskTracker,
    links: TaskTracker,
    /// Stops the consumers.
    closing: CancellationToken,
    /// Stops the connections, after the consumers.
    closed: CancellationToken,
}

impl AmqpBroker {
    /// Connects, declares what every host uses, and starts reading expired tasks.
    ///
    /// # Errors
    /// One attempt is made. The error names host and port, never credentials, and says what to check.
    pub async fn connect(config: AmqpConfig) -> Result<Self, BrokerError> {
        let config = Arc::new(config);
        let health = Arc::new(Health::default());
        let (closing, closed, links) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let mut made = Vec::with_capacity(connectivity::ROLES.len());
        for role in connectivity::ROLES {
            let first = link::establish(&config, role).await?;
            made.push((role, first));
        }
        let mut start = |(role, first)| Link::start(role, first, &config, &health, &closed, &links);
        let declaring =
            made.pop().map(&mut start).ok_or_else(|| BrokerError("no connection for declaring".to_owned()))?;
        let consuming =
            made.pop().map(&mut start).ok_or_else(|| BrokerError("no connection for consuming".to_owned()))?;
        let publishing =
            made.pop().map(&mut start).ok_or_else(|| BrokerError("no connection for publishing".to_owned()))?;
        let partitions = Arc::new(Partitions::new(Arc::clone(&config), Arc::clone(&declaring)));
        let (asking, known) = (Arc::clone(&declaring), Arc::clone(&partitions));
        let publisher = Publisher::start(&config, &health, publishing, asking, known, &closed, &links);
        let broker = Self {
            config,
            health,
            consuming,
            declaring,
            publisher: Arc::new(publisher),
            partitions,
            removing: tokio::sync::Mutex::default(),
            consumers: TaskTracker::new(),
            links,
            closing,
            closed,
        };
        broker.apply(topology::shared()).await?;
        if let Err(error) = broker.publisher.declare_first_buckets().await {
            tracing::warn!(%error, "not every delay queue could be made ahead; the rest are made when they are needed");
        }
        broker.read_expired();
        broker.consumers.spawn(Arc::clone(&broker.partitions).watch_markers(broker.closing.clone()));
        Ok(broker)
    }

    async fn apply(&self, declarations: Vec<topology::Declaration>) -> Result<(), BrokerError> {
        let connection = self.declaring.get().ok_or_else(link::down)?;
        declare::apply(&connection, &declarations, self.config.predeclared).await
    }

    fn read_expired(&self) {
        let (sender, receiver) = mpsc::channel(HANDOVER_DELIVERIES);
        let source = consumer::Source {
            name: topology::EXPIRED.to_owned(),
            queues: vec![topology::EXPIRED.to_owned()],
            prefetch: EXPIRED_PREFETCH,
            declarations: topology::shared(),
            accept: |delivery, routing_key: &str| Some((routing_key.to_owned(), delivery)),
            deliveries: Some(sender),
            order: None,
            hand: Hand::default(),
            live: Live::new().0.queue(),
            stop: self.closing.child_token(),
        };
        self.spawn_consumer(source);
        self.consumers.spawn(expired::send_round(receiver, Arc::clone(&self.publisher), self.closing.clone()));
    }

    fn links(&self) -> consumer::Links {
        consumer::Links { consuming: Arc::clone(&self.consuming), declaring: Arc::clone(&self.declaring) }
    }

    fn spawn_consumer<T: Send + 'static>(
        &self,
        source: consumer::Source<T, impl Fn(Delivery, &str) -> Option<T> + Send + Sync + 'static>,
    ) {
        let (links, config, closing) = (self.links(), Arc::clone(&self.config), self.closing.clone());
        self.consumers.spawn(consumer::supervise(source, links, config, closing));
    }

    /// Consumes an agent's queue. Tasks with a partition key are moved on from there.
    fn consume_queue(&self, agent: &AgentName, prefetch: u16, handing_over: HandingOver) {
        let (moving, moved) = mpsc::unbounded_channel();
        self.consumers.spawn(Arc::clone(&self.publisher).move_all(agent.clone(), moved));
        let mut declarations = topology::shared();
        declarations.extend(topology::for_agent(agent));
        let (publisher, agent) = (Arc::clone(&self.publisher), agent.clone());
        let rests = Rests { deliveries: handing_over.deliveries.downgrade(), stop: handing_over.stop.clone() };
        self.spawn_consumer(consumer::Source {
            name: topology::task_queue(&agent),
            queues: vec![topology::task_queue(&agent)],
            prefetch,
            declarations,
            accept: move |delivery: Delivery, _: &str| {
                let delivery = unless_early(&publisher, &agent, delivery)?;
                if Publisher::is_to_be_moved(&delivery.message) {
                    // Read until the sender goes, which is here.
                    drop(moving.send(delivery));
                    return None;
                }
                rests.unless_kept(delivery)
            },
            deliveries: Some(handing_over.deliveries),
            order: None,
            hand: handing_over.hand,
            live: handing_over.live.queue(),
            stop: handing_over.stop,
        });
    }

    /// Consumes an agent's partitions, as soon as it has any.
    fn consume_partitions(&self, agent: &AgentName, handing_over: HandingOver) {
        let (links, config, closing) = (self.links(), Arc::clone(&self.config), self.closing.clone());
        let (partitions, publisher) = (Arc::clone(&self.partitions), Arc::clone(&self.publisher));
        let agent = agent.clone();
        self.consumers.spawn(async move {
            let HandingOver { deliveries, hand, live, stop } = handing_over;
            tokio::select! {
                () = stop.cancelled() => return,
                () = partitions.until_known(&agent) => {}
            }
            let order = Arc::new(Order::default());
            let hand_over = Arc::clone(&order).hand_over(deliveries.clone(), stop.clone());
            let turns = Arc::clone(&order);
            let source = consumer::Source {
                name: format!("the partitions of {agent}"),
                queues: Partition::all().map(|partition| partition.queue(&agent)).collect(),
                prefetch: PARTITION_PREFETCH,
                declarations: topology::for_partitions(&agent),
                accept: move |delivery: Delivery, _: &str| {
                    let delivery = unless_early(&publisher, &agent, delivery)?;
                    match envelope::partition_key(&delivery.message) {
                        Some(key) => turns.arrive(key, delivery),
                        // Somebody's mistake, who published it here without a key: it waits for nobody.
                        None => return Some(delivery),
                    }
                    None
                },
                deliveries: Some(deliveries),
                order: Some(order),
                hand,
                live: live.partitions(),
                stop,
            };
            tokio::join!(hand_over, consumer::supervise(source, links, config, closing));
        });
    }
}

/// The broker's side of a [`Consumer`].
#[derive(Clone)]
struct HandingOver {
    deliveries: mpsc::Sender<Delivery>,
    hand: Hand,
    live: Arc<Live>,
    stop: CancellationToken,
}

/// Sends a delivery round again that has not waited long enough.
fn unless_early(publisher: &Arc<Publisher>, agent: &AgentName, delivery: Delivery) -> Option<Delivery> {
    match envelope::not_before_ms(&delivery.message, unix_ms_now()) {
        // One that cannot be published again goes on, and is refused.
        Some(not_before_ms) if Publisher::can_be_published(&delivery.message) => {
            tokio::spawn(Arc::clone(publisher).delay_again(agent.clone(), delivery, not_before_ms));
            None
        }
        _ => Some(delivery),
    }
}

#[async_trait::async_trait]
impl Broker for AmqpBroker {
    async fn declare(&self, agent: &AgentName) -> Result<(), BrokerError> {
        self.publisher.declare(agent).await
    }

    async fn publish(&self, route: Route, message: Message) -> Result<(), PublishError> {
        self.publisher.publish(route, message).await
    }

    async fn consume(&self, agent: &AgentName, prefetch: u16) -> Result<Consumer, BrokerError> {
        if self.closing.is_cancelled() {
            return Err(BrokerError("the host is shutting down and takes no more consumers".to_owned()));
        }
        let (sender, deliveries) = mpsc::channel(HANDOVER_DELIVERIES);
        let (parts, live) = Live::new();
        let stop = self.closing.child_token();
        let handing_over = HandingOver { deliveries: sender, hand: Hand::default(), live: parts, stop: stop.clone() };
        self.consume_queue(agent, prefetch, handing_over.clone());
        self.consume_partitions(agent, handing_over);
        Ok(Consumer { deliveries, live, stop })
    }

    async fn remove_dead_letters(
        &self,
        agent: &AgentName,
        unwanted: &(dyn for<'m> Fn(&'m Message) -> bool + Send + Sync),
    ) -> Result<Vec<Message>, BrokerError> {
        let _one_at_a_time = self.removing.lock().await;
        let connection = self.declaring.get().ok_or_else(link::down)?;
        dead_letters::remove(&connection, &topology::dead_letter_queue(agent), unwanted).await
    }

    async fn depth(&self, agent: &AgentName) -> Result<QueueDepth, BrokerError> {
        let connection = self.declaring.get().ok_or_else(link::down)?;
        let mut queues = vec![topology::task_queue(agent)];
        if self.partitions.knows(agent) {
            queues.extend(Partition::all().map(|partition| partition.queue(agent)));
        }
        Ok(QueueDepth {
            ready: declare::message_count(&connection, &queues).await?,
            dead: declare::message_count(&connection, &[topology::dead_letter_queue(agent)]).await?,
        })
    }

    fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.health.subscribe()
    }

    async fn close(&self) {
        let confirmed = tokio::time::timeout(CLOSE_TIMEOUT, self.publisher.drain()).await;
        if confirmed.is_err() {
            tracing::warn!("closing with messages that the broker has not confirmed; their senders were told so");
        }
        self.closing.cancel();
        self.consumers.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, self.consumers.wait()).await.is_err() {
            tracing::warn!("closing before all acknowledgements were flushed; those tasks will be delivered again");
        }
        self.closed.cancel();
        self.links.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, self.links.wait()).await.is_err() {
            tracing::warn!("the broker did not answer the closing of a connection in time");
        }
    }
}

impl Drop for AmqpBroker {
    fn drop(&mut self) {
        self.closing.cancel();
        self.closed.cancel();
    }
}
