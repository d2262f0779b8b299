//! Publishing: persistent, mandatory, confirmed, hundreds in flight.

mod lane;
mod returns;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::types::ShortString;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connectivity::Health;
use super::link::{self, Link};
use super::{AmqpConfig, convert, declare};
use crate::broker::topology::{self, Bucket};
use crate::delivery::envelope::headers;
use crate::delivery::{BrokerError, Connectivity, Delivery, HeaderValue, Message, PublishError, Route};
use crate::task::{AgentName, UnixMs, unix_ms_now};
use lane::{Lane, Request};

/// Messages in flight: published and not confirmed. One confirm at a time gives 3 thousand messages a second, 256 in
/// flight give 40 thousand, and more gives no more (measured).
const IN_FLIGHT_MAX: u32 = 512;

/// Largest body that is published, dead letters apart: RabbitMQ 4 takes no larger message by default, and a refusal by
/// the broker would close the channel under every other message in flight.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Wait before a delivery that could not be sent round again goes back to its queue, so that it does not spin.
const DELAY_AGAIN_PAUSE: Duration = Duration::from_secs(1);

/// The publishing side of the broker.
pub(super) struct Publisher {
    config: Arc<AmqpConfig>,
    health: Arc<Health>,
    declaring: Arc<Link>,
    in_flight: Semaphore,
    tasks: Lane,
    /// Apart from the tasks' lane: what goes wrong with a stranger's reply queue must not fail anybody's task.
    replies: Lane,
    /// The delay buckets that are known to exist.
    buckets: Arc<Mutex<HashSet<Bucket>>>,
}

impl Publisher {
    pub(super) fn start(
        config: &Arc<AmqpConfig>,
        health: &Arc<Health>,
        publishing: Arc<Link>,
        declaring: Arc<Link>,
        closed: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let buckets: Arc<Mutex<HashSet<Bucket>>> = Arc::default();
        let known = Arc::clone(&buckets);
        // A channel dies when an exchange is missing, among other reasons: then what is known to exist is asked again.
        let forget = move || known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Self {
            config: Arc::clone(config),
            health: Arc::clone(health),
            declaring,
            in_flight: Semaphore::new(usize::try_from(IN_FLIGHT_MAX).unwrap_or(usize::MAX)),
            tasks: Lane::start("tasks", Arc::clone(&publishing), forget, closed, tasks),
            replies: Lane::start("replies", publishing, || (), closed, tasks),
            buckets,
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
        let confirmed = tokio::time::timeout(self.config.confirm_timeout, self.send(route, message)).await;
        confirmed
            .unwrap_or_else(|_| Err(unavailable(&format!("no confirm came within {:?}", self.config.confirm_timeout))))
    }

    async fn send(&self, route: Route, message: Message) -> Result<(), PublishError> {
        let (message, exchange, routing_key) = self.resolve(route, message).await?;
        let properties = convert::properties(&message).map_err(PublishError::Refused)?;
        let routing_key = ShortString::try_new(routing_key)
            .map_err(|_| PublishError::Refused("its routing key is longer than AMQP's 255 bytes".to_owned()))?;
        let _in_flight = self.in_flight.acquire().await.map_err(|_| PublishError::Unavailable(link::down()))?;
        let (request, answer) = Request::new(exchange, routing_key, properties, message.body);
        let lane = if request.is_reply() { &self.replies } else { &self.tasks };
        lane.send(request);
        answer.await.unwrap_or_else(|_| Err(PublishError::Unavailable(link::down())))
    }

    /// Exchange and routing key of a route, with the delay queue made where it is one's first use.
    async fn resolve(
        &self,
        route: Route,
        mut message: Message,
    ) -> Result<(Message, ShortString, String), PublishError> {
        if !matches!(route, Route::DeadLetter(_)) {
            refuse_what_is_too_large(&message)?;
        }
        Ok(match route {
            Route::Agent(agent) => (message, topology::TASKS_EXCHANGE.into(), agent.to_string()),
            Route::Delayed(agent, Duration::ZERO) => (message, topology::TASKS_EXCHANGE.into(), agent.to_string()),
            Route::Delayed(agent, delay) => {
                let bucket = Bucket::for_delay(delay);
                if delay > Duration::from_millis(bucket.delay_ms()) {
                    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                    let not_before_ms = unix_ms_now().saturating_add(delay_ms);
                    message.headers.insert(headers::NOT_BEFORE.to_owned(), HeaderValue::from(not_before_ms));
                }
                self.declare_bucket(bucket).await?;
                (message, bucket.name().as_str().into(), agent.to_string())
            }
            Route::DeadLetter(agent) => (message, ShortString::default(), topology::dead_letter_queue(&agent)),
            Route::Reply(routing_key) => (message, ShortString::default(), routing_key),
        })
    }

    async fn declare_bucket(&self, bucket: Bucket) -> Result<(), PublishError> {
        let known = || self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&bucket) {
            return Ok(());
        }
        let connection = self.declaring.get().ok_or_else(|| PublishError::Unavailable(link::down()))?;
        let declarations = topology::for_bucket(bucket);
        declare::apply(&connection, &declarations, self.config.predeclared).await.map_err(PublishError::Unavailable)?;
        known().insert(bucket);
        Ok(())
    }

    /// Makes an agent's queues.
    pub(super) async fn declare(&self, agent: &AgentName) -> Result<(), BrokerError> {
        let connection = self.declaring.get().ok_or_else(link::down)?;
        declare::apply(&connection, &topology::for_agent(agent), self.config.predeclared).await
    }

    /// Sends a delivery that came out of the longest delay queue round again.
    pub(super) async fn delay_again(self: Arc<Self>, agent: AgentName, delivery: Delivery, not_before_ms: UnixMs) {
        let rest = Duration::from_millis(not_before_ms.saturating_sub(unix_ms_now()));
        match self.publish(Route::Delayed(agent, rest), delivery.message).await {
            Ok(()) => delivery.receipt.acknowledge(),
            Err(error) => {
                tracing::warn!(%error, "a task with a long delay could not be sent round again; trying later");
                tokio::time::sleep(DELAY_AGAIN_PAUSE).await;
                delivery.receipt.hand_back();
            }
        }
    }

    /// Waits until nothing is in flight.
    pub(super) async fn drain(&self) {
        let all = self.in_flight.acquire_many(IN_FLIGHT_MAX).await;
        drop(all);
    }
}

fn refuse_what_is_too_large(message: &Message) -> Result<(), PublishError> {
    let (body, headers) = (message.body.len(), headers::counted_size(&message.headers));
    if body > BODY_BYTES_MAX {
        return Err(PublishError::Refused(format!("its body has {body} bytes, expected at most {BODY_BYTES_MAX}")));
    }
    if headers > headers::HEADERS_BYTES_MAX {
        let max = headers::HEADERS_BYTES_MAX;
        return Err(PublishError::Refused(format!("its headers take {headers} bytes, expected at most {max}")));
    }
    Ok(())
}

fn unavailable(reason: &str) -> PublishError {
    PublishError::Unavailable(BrokerError(reason.to_owned()))
}
