//! One publishing channel: takes requests, keeps them in flight, answers them when their fate is known.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::returns::{Fingerprint, Returns};
use crate::broker::amqp::declare::answered;
use crate::broker::amqp::link::{self, Link};
use crate::broker::topology;
use crate::delivery::{BrokerError, PublishError};

/// A message to publish.
pub(super) struct Request {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Bytes,
    answer: oneshot::Sender<Result<(), PublishError>>,
}

/// Brings what the broker says of a message; nothing where the lane ends before.
pub(super) type Answer = oneshot::Receiver<Result<(), PublishError>>;

impl Request {
    pub(super) fn new(
        exchange: ShortString,
        routing_key: ShortString,
        properties: BasicProperties,
        body: Bytes,
    ) -> (Self, Answer) {
        let (answer, answered) = oneshot::channel();
        (Self { exchange, routing_key, properties, body, answer }, answered)
    }

    /// Whether it goes to a queue by name that is not one of the host's.
    pub(super) fn is_reply(&self) -> bool {
        let key = self.routing_key.as_str();
        self.exchange.as_str().is_empty() && !key.starts_with("agent.") && key != topology::PARTITIONED
    }
}

/// The way to a publishing channel.
pub(super) struct Lane {
    requests: mpsc::UnboundedSender<Request>,
}

/// Requests taken from the queue at a time.
const BATCH: usize = 256;

/// Messages whose senders gave up waiting and that the broker still has not answered for, such as to a quorum queue that
/// lost its majority. Past this the channel is remade, which is the only way to forget them.
const ABANDONED_MAX: usize = 4096;

/// Wait before a channel that could not be opened is tried again: the connection may have died and its keeper not noticed.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

impl Lane {
    /// Starts a lane; `on_loss` runs whenever its channel is lost.
    pub(super) fn start(
        name: &'static str,
        link: Arc<Link>,
        on_loss: impl Fn() + Send + 'static,
        closed: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        let closed = closed.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = run(name, &link, received, on_loss) => {}
            }
        });
        Self { requests }
    }

    /// Queues a request. Bounded by its callers, who each wait for one of the places in flight first. After the end of
    /// the lane the request is dropped, which its sender sees.
    pub(super) fn send(&self, request: Request) {
        drop(self.requests.send(request));
    }
}

async fn run(name: &str, link: &Link, mut requests: mpsc::UnboundedReceiver<Request>, on_loss: impl Fn()) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let connection = tokio::select! {
            biased;
            connection = link.wait() => connection,
            // Without a connection nothing waits: the sender is told at once.
            request = requests.recv() => match request {
                Some(request) => {
                    refuse(request, link::down());
                    continue;
                }
                None => return,
            },
        };
        match open(&connection).await {
            Ok(channel) => {
                let reason = serve(&channel, &mut requests, &mut batch).await;
                tracing::warn!(lane = name, reason, "lost a publishing channel; opening another");
                on_loss();
            }
            Err(error) => {
                tracing::warn!(lane = name, %error, "no publishing channel could be opened; trying again");
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
        }
    }
}

async fn open(connection: &Connection) -> lapin::Result<Channel> {
    let channel = answered(connection.create_channel()).await?;
    answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

fn refuse(request: Request, error: BrokerError) {
    // An answer that nobody waits for any more is no loss.
    drop(request.answer.send(Err(PublishError::Unavailable(error))));
}

/// A message whose fate is known, or nearly: see [`Returns`].
struct Answered {
    fingerprint: Fingerprint,
    confirmation: lapin::Result<Confirmation>,
    answer: oneshot::Sender<Result<(), PublishError>>,
    routing_key: ShortString,
}

/// Publishes until the channel is lost; says why it is.
async fn serve(channel: &Channel, requests: &mut mpsc::UnboundedReceiver<Request>, batch: &mut Vec<Request>) -> String {
    let mut in_flight = FuturesUnordered::new();
    let mut returns = Returns::default();
    // Nobody is told of those whose senders gave up; they may have sent them again.
    let is_wanted = |request: &Request| !request.answer.is_closed();
    // A batch that the last channel could no longer take.
    in_flight.extend(batch.drain(..).filter(is_wanted).map(|request| send(channel, request)));
    loop {
        tokio::select! {
            biased;
            Some(answered) = in_flight.next(), if !in_flight.is_empty() => {
                if let Err(error) = settle(channel, answered, &mut in_flight, &mut returns) {
                    return fail_all(error, in_flight).await;
                }
            }
            received = requests.recv_many(batch, BATCH) => {
                if received == 0 {
                    // No publisher is left: finish what is in flight.
                    while let Some(answered) = in_flight.next().await {
                        if let Err(error) = settle(channel, answered, &mut in_flight, &mut returns) {
                            return fail_all(error, in_flight).await;
                        }
                    }
                    return "nobody publishes any more".to_owned();
                }
                if !channel.status().connected() {
                    return "it was closed".to_owned();
                }
                if in_flight.len() > ABANDONED_MAX {
                    return "too many messages were never confirmed".to_owned();
                }
                in_flight.extend(batch.drain(..).filter(is_wanted).map(|request| send(channel, request)));
            }
        }
    }
}

async fn send(channel: &Channel, request: Request) -> Answered {
    let fingerprint = Fingerprint::of(request.exchange.as_str(), request.routing_key.as_str(), &request.properties);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    // Field by field: what is taken out of the request as a whole has a place of its own in the future besides.
    let key = request.routing_key.clone();
    let published = channel.basic_publish(request.exchange, key, options, &request.body, request.properties).await;
    // The driver has its own copy. A confirm that never comes must not keep this one.
    drop(request.body);
    let confirmation = match published {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Answered { fingerprint, confirmation, answer: request.answer, routing_key: request.routing_key }
}

/// Answers what the broker has answered; an error means that the channel is lost.
fn settle(
    channel: &Channel,
    first: Answered,
    in_flight: &mut FuturesUnordered<impl Future<Output = Answered>>,
    returns: &mut Returns,
) -> Result<(), lapin::Error> {
    let mut known = vec![first];
    take_ready(in_flight, &mut known);
    while !known.is_empty() {
        returns.barrier(channel);
        let mut next = Vec::new();
        take_ready(in_flight, &mut next);
        for answered in known.iter_mut().chain(&mut next) {
            if let Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) =
                &mut answered.confirmation
            {
                returns.note(returned);
                // Noted once: it may be another message than the one that it came with.
                answered.confirmation =
                    match std::mem::replace(&mut answered.confirmation, Ok(Confirmation::NotRequested)) {
                        Ok(Confirmation::Nack(_)) => Ok(Confirmation::Nack(None)),
                        _ => Ok(Confirmation::Ack(None)),
                    };
            }
        }
        for answered in known {
            let verdict = match answered.confirmation {
                _ if returns.claim(answered.fingerprint) => {
                    Err(PublishError::Unroutable { route: answered.routing_key.as_str().to_owned() })
                }
                Ok(Confirmation::Ack(_)) => Ok(()),
                Ok(Confirmation::Nack(_)) => {
                    Err(unavailable("the broker refused the message: its queue is full or in trouble"))
                }
                Ok(Confirmation::NotRequested) => Err(unavailable("the channel does not confirm")),
                Err(error) => {
                    drop(answered.answer.send(Err(unavailable(&error.to_string()))));
                    for answered in next {
                        drop(answered.answer.send(Err(unavailable(&error.to_string()))));
                    }
                    return Err(error);
                }
            };
            drop(answered.answer.send(verdict));
        }
        known = next;
    }
    Ok(())
}

fn take_ready(in_flight: &mut FuturesUnordered<impl Future<Output = Answered>>, into: &mut Vec<Answered>) {
    while let Some(Some(answered)) = in_flight.next().now_or_never() {
        into.push(answered);
    }
}

/// Everything in flight fails with the channel: whether the broker has it is unknown.
async fn fail_all(error: lapin::Error, mut in_flight: FuturesUnordered<impl Future<Output = Answered>>) -> String {
    /// The driver fails all confirms of a dead channel at once; this is for the one that it forgets.
    const FORGOTTEN: Duration = Duration::from_secs(1);
    let reason = error.to_string();
    while let Ok(Some(answered)) = tokio::time::timeout(FORGOTTEN, in_flight.next()).await {
        drop(answered.answer.send(Err(unavailable(&reason))));
    }
    reason
}

fn unavailable(reason: &str) -> PublishError {
    PublishError::Unavailable(BrokerError(reason.to_owned()))
}
