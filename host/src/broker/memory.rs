//! The embedded broker: in process, volatile, and to everything above it the same as the real one.
//!
//! For `dev`, tests and the demo. Tasks do not survive the process; otherwise the port's contract holds: a delivery is
//! the broker's until its receipt is spent, prefetch bounds what is unsettled, delays are never early, dead letters are
//! kept. Memory is bounded: past [`MemoryLimits::bytes_max`] new tasks are refused as by a broker under a memory alarm.
//! Retries and dead letters are still taken then, because they end deliveries that already take room.

mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::envelope;
use crate::delivery::{
    Broker, BrokerError, Connectivity, Consumer, Delivery, Message, PublishError, QueueDepth, Receipt, Route, Settle,
};
use crate::task::{AgentName, unix_ms_now};
use state::{Item, State};

/// How much an embedded broker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Bodies and headers of all tasks that wait, are delivered or delayed, in bytes; delayed ones may take as much
    /// again. 64 MiB: an eighth of the host's default memory budget, and enough for 100,000 tasks of the usual size.
    pub bytes_max: usize,
    /// Bodies and headers of an agent's dead letters, in bytes; past it its oldest are dropped with a warning. 8 MiB:
    /// far more than a developer looks at, and ten failing agents still fit a host.
    pub dead_letters_bytes_max: usize,
    /// Unread messages of a reply queue; past it a result is refused. 1024.
    pub replies_max: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { bytes_max: 64 * 1024 * 1024, dead_letters_bytes_max: 8 * 1024 * 1024, replies_max: 1024 }
    }
}

/// Deliveries on their way to whoever runs them; as few as with the real broker.
const HANDOVER_DELIVERIES: usize = 8;

/// An embedded broker. Made inside a Tokio runtime.
#[derive(Debug)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    connectivity: watch::Sender<Connectivity>,
    closing: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    limits: MemoryLimits,
    state: Mutex<State>,
    /// A delay was added that may be the next to end.
    delay_added: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves plain collections, still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new(MemoryLimits::default())
    }
}

impl MemoryBroker {
    /// An empty broker; starts the task that ends delays.
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Self {
        let shared = Arc::new(Shared { limits, state: Mutex::default(), delay_added: Notify::new() });
        let closing = CancellationToken::new();
        tokio::spawn(end_delays(Arc::clone(&shared), closing.clone()));
        Self { shared, connectivity: watch::channel(Connectivity::Up).0, closing }
    }

    /// Opens a reply queue: until the receiver is dropped, results with this routing key arrive there.
    #[must_use]
    pub fn reply_queue(&self, routing_key: &str) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(self.shared.limits.replies_max);
        self.shared.state().replies.insert(routing_key.to_owned(), sender);
        receiver
    }

    /// An agent's dead letters, oldest first.
    #[must_use]
    pub fn dead_letters(&self, agent: &AgentName) -> Vec<Message> {
        self.shared
            .state()
            .queues
            .get(agent)
            .map(|queue| queue.dead.iter().map(|item| item.message.clone()).collect())
            .unwrap_or_default()
    }

    fn enqueue(&self, agent: AgentName, delay: Duration, message: Message) -> Result<(), PublishError> {
        let mut state = self.shared.state();
        if !state.queues.contains_key(&agent) {
            return Err(PublishError::Unroutable { route: agent.to_string() });
        }
        let item = Item::new(message);
        let bytes_max = self.shared.limits.bytes_max;
        // A retry is a delayed message, and its original is acknowledged, and its room freed, only after it is taken.
        let headroom = if delay.is_zero() { 0 } else { bytes_max };
        if state.bytes.saturating_add(item.bytes) > bytes_max.saturating_add(headroom) {
            return Err(unavailable(&format!(
                "the embedded broker is full: it holds {bytes_max} bytes; let tasks finish first"
            )));
        }
        if delay.is_zero() {
            state.push(&agent, item);
        } else {
            state.delay(Instant::now() + delay, agent, item);
            drop(state);
            self.shared.delay_added.notify_one();
        }
        Ok(())
    }

    fn bury(&self, agent: &AgentName, message: Message) -> Result<(), PublishError> {
        let bytes_max = self.shared.limits.dead_letters_bytes_max;
        let mut state = self.shared.state();
        let Some(queue) = state.queues.get_mut(agent) else {
            return Err(PublishError::Unroutable { route: format!("agent.{agent}.dead") });
        };
        let dropped = queue.bury(Item::new(message), bytes_max);
        if dropped > 0 {
            tracing::warn!(%agent, dropped, "the embedded broker keeps {bytes_max} bytes of dead letters; dropped the oldest");
        }
        Ok(())
    }

    fn reply(&self, routing_key: String, message: Message) -> Result<(), PublishError> {
        let mut state = self.shared.state();
        let queue = state.replies.get(&routing_key);
        // Of the error only its kind matters: it carries the whole message.
        let sent = queue.map(|queue| match queue.try_reserve() {
            Ok(place) => {
                place.send(message);
                Ok(())
            }
            Err(error) => Err(error),
        });
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(mpsc::error::TrySendError::Full(()))) => {
                // As with the real broker: its owner's business, and for nobody else to wait for.
                Err(PublishError::Refused("the reply queue is full: its owner does not read it".to_owned()))
            }
            Some(Err(mpsc::error::TrySendError::Closed(()))) | None => {
                state.replies.remove(&routing_key);
                Err(PublishError::Unroutable { route: routing_key })
            }
        }
    }
}

fn unavailable(reason: &str) -> PublishError {
    PublishError::Unavailable(BrokerError(reason.to_owned()))
}

#[async_trait::async_trait]
impl Broker for MemoryBroker {
    async fn declare(&self, agent: &AgentName) -> Result<(), BrokerError> {
        self.shared.state().queues.entry(agent.clone()).or_default();
        Ok(())
    }

    async fn publish(&self, route: Route, message: Message) -> Result<(), PublishError> {
        if self.closing.is_cancelled() {
            return Err(unavailable("the embedded broker is closed"));
        }
        if !matches!(route, Route::DeadLetter(_)) {
            envelope::check_size(&message).map_err(|error| PublishError::Refused(error.to_string()))?;
        }
        match route {
            Route::Agent(agent) => self.enqueue(agent, Duration::ZERO, message),
            Route::Delayed(agent, delay) => self.enqueue(agent, delay, message),
            Route::DeadLetter(agent) => self.bury(&agent, message),
            Route::Reply(routing_key) => self.reply(routing_key, message),
        }
    }

    async fn consume(&self, agent: &AgentName, prefetch: u16) -> Result<Consumer, BrokerError> {
        if self.closing.is_cancelled() {
            return Err(BrokerError("the embedded broker is closed".to_owned()));
        }
        self.declare(agent).await?;
        let (sender, deliveries) = mpsc::channel(HANDOVER_DELIVERIES);
        let (live_sender, live) = watch::channel(true);
        let stop = self.closing.child_token();
        let pump = Pump {
            shared: Arc::clone(&self.shared),
            agent: agent.clone(),
            places: Arc::new(Semaphore::new(prefetch.into())),
            deliveries: sender,
            stop: stop.clone(),
        };
        tokio::spawn(async move {
            pump.run().await;
            live_sender.send_replace(false);
        });
        Ok(Consumer { deliveries, live, stop })
    }

    async fn remove_dead_letters(
        &self,
        agent: &AgentName,
        unwanted: &(dyn for<'m> Fn(&'m Message) -> bool + Send + Sync),
    ) -> Result<Vec<Message>, BrokerError> {
        let mut state = self.shared.state();
        Ok(state.queues.get_mut(agent).map(|queue| queue.exhume(unwanted)).unwrap_or_default())
    }

    async fn depth(&self, agent: &AgentName) -> Result<QueueDepth, BrokerError> {
        let state = self.shared.state();
        let count = |items: usize| u64::try_from(items).unwrap_or(u64::MAX);
        Ok(state.queues.get(agent).map_or_else(QueueDepth::default, |queue| QueueDepth {
            ready: count(queue.waiting()),
            dead: count(queue.dead.len()),
        }))
    }

    fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.connectivity.subscribe()
    }

    async fn close(&self) {
        self.closing.cancel();
        self.connectivity.send_replace(Connectivity::Down);
    }
}

impl Drop for MemoryBroker {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// Moves an agent's messages to one consumer.
struct Pump {
    shared: Arc<Shared>,
    agent: AgentName,
    places: Arc<Semaphore>,
    deliveries: mpsc::Sender<Delivery>,
    stop: CancellationToken,
}

impl Pump {
    async fn run(self) {
        let ready = self.shared.state().arrivals(&self.agent);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.deliveries.closed() => return,
                () = self.deliver_one(&ready) => {}
            }
        }
    }

    async fn deliver_one(&self, ready: &Notify) {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return;
        };
        let Ok(slot) = self.deliveries.reserve().await else {
            return;
        };
        // Registered before the look, so that an arrival between the two is not missed.
        let arrival = ready.notified();
        let taken = self.shared.state().take(&self.agent);
        let Some((sequence, item)) = taken else {
            return arrival.await;
        };
        let redelivered = item.redelivered;
        let expiration_ms: Option<u64> = item.message.expiration.as_deref().and_then(|text| text.trim().parse().ok());
        let has_expired = expiration_ms.is_some_and(|ms| item.enqueued_at.elapsed() >= Duration::from_millis(ms));
        let message =
            if has_expired { envelope::expired_again(&item.message, unix_ms_now()) } else { item.message.clone() };
        let receipt = MemoryReceipt {
            shared: Arc::clone(&self.shared),
            agent: self.agent.clone(),
            sequence,
            item,
            _place: place,
        };
        slot.send(Delivery { message, redelivered, receipt: Receipt::new(receipt) });
    }
}

/// The permit for one delivery. It holds the message: what is not acknowledged goes back from here.
struct MemoryReceipt {
    shared: Arc<Shared>,
    agent: AgentName,
    sequence: u64,
    item: Item,
    _place: OwnedSemaphorePermit,
}

impl Settle for MemoryReceipt {
    fn acknowledge(self: Box<Self>) {
        self.shared.state().done(&self.agent, &self.item);
    }

    fn hand_back(self: Box<Self>) {
        let Self { shared, agent, sequence, item, .. } = *self;
        shared.state().put_back(&agent, sequence, item);
    }
}

/// Puts delayed messages into their queues when their time has come.
async fn end_delays(shared: Arc<Shared>, closing: CancellationToken) {
    loop {
        let next = shared.state().end_delays(Instant::now());
        let wait = async {
            match next {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            () = shared.delay_added.notified() => {}
            () = closing.cancelled() => return,
        }
    }
}
