//! One publishing channel: takes requests, keeps them in flight, answers them when their fate is known.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
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

/// What the broker says of a message; what came back with it is set apart, for it may be another message's.
enum Verdict {
    Taken,
    Refused,
    /// The channel does not confirm.
    Unasked,
    Lost(lapin::Error),
}

/// A message whose fate is known, or nearly: see [`Returns`].
struct Answered {
    fingerprint: Fingerprint,
    verdict: Verdict,
    returned: Option<Box<BasicReturnMessage>>,
    answer: oneshot::Sender<Result<(), PublishError>>,
    routing_key: ShortString,
    is_reply: bool,
}

/// A message that the broker has not answered for.
struct Unanswered {
    confirm: PublisherConfirm,
    message: Option<Published>,
}

/// What is kept of a message.
struct Published {
    fingerprint: Fingerprint,
    answer: oneshot::Sender<Result<(), PublishError>>,
    routing_key: ShortString,
    is_reply: bool,
}

impl Future for Unanswered {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answered> {
        let confirmation = ready!(self.confirm.poll_unpin(context));
        // Nobody looks at it again.
        self.message.take().map_or(Poll::Pending, |message| Poll::Ready(message.answered(confirmation)))
    }
}

/// The messages of a channel that the broker has not answered for, and those that could not be handed to the driver.
struct Underway<'a> {
    channel: &'a Channel,
    unanswered: FuturesUnordered<Unanswered>,
    refused: VecDeque<Answered>,
}

impl<'a> Underway<'a> {
    fn new(channel: &'a Channel) -> Self {
        Self { channel, unanswered: FuturesUnordered::new(), refused: VecDeque::new() }
    }

    fn len(&self) -> usize {
        self.unanswered.len() + self.refused.len()
    }

    fn begin(&mut self, batch: &mut Vec<Request>) {
        // Nobody is told of those whose senders gave up; they may have sent them again.
        for request in batch.drain(..).filter(|request| !request.answer.is_closed()) {
            let (message, confirm) = send(self.channel, request);
            match confirm {
                Ok(confirm) => self.unanswered.push(Unanswered { confirm, message: Some(message) }),
                Err(error) => self.refused.push_back(message.answered(Err(error))),
            }
        }
    }

    /// The next message whose fate is known; none where none is under way.
    async fn next(&mut self) -> Option<Answered> {
        match self.refused.pop_front() {
            Some(refused) => Some(refused),
            None => self.unanswered.next().await,
        }
    }

    /// All that are answered by now.
    fn take_ready(&mut self, into: &mut Vec<Answered>) {
        while let Some(Some(answered)) = self.next().now_or_never() {
            into.push(answered);
        }
    }
}

/// Publishes until the channel is lost; says why it is.
async fn serve(channel: &Channel, requests: &mut mpsc::UnboundedReceiver<Request>, batch: &mut Vec<Request>) -> String {
    let mut underway = Underway::new(channel);
    let mut returns = Returns::default();
    // A batch that the last channel could no longer take.
    underway.begin(batch);
    loop {
        tokio::select! {
            biased;
            Some(answered) = underway.next(), if underway.len() > 0 => {
                if let Err(error) = settle(answered, &mut underway, &mut returns) {
                    return fail_all(error, underway).await;
                }
            }
            received = requests.recv_many(batch, BATCH) => {
                if received == 0 {
                    // No publisher is left: finish what is in flight.
                    while let Some(answered) = underway.next().await {
                        if let Err(error) = settle(answered, &mut underway, &mut returns) {
                            return fail_all(error, underway).await;
                        }
                    }
                    return "nobody publishes any more".to_owned();
                }
                if !channel.status().connected() {
                    return "it was closed".to_owned();
                }
                if underway.len() > ABANDONED_MAX {
                    return "too many messages were never confirmed".to_owned();
                }
                underway.begin(batch);
            }
        }
    }
}

/// Hands a message to the driver, which writes it in its turn.
fn send(channel: &Channel, request: Request) -> (Published, lapin::Result<PublisherConfirm>) {
    let is_reply = request.is_reply();
    let Request { exchange, routing_key, properties, body, answer } = request;
    let fingerprint = Fingerprint::of(exchange.as_str(), routing_key.as_str(), &properties);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel.basic_publish_queued(exchange, routing_key.clone(), options, &body, properties);
    (Published { fingerprint, answer, routing_key, is_reply }, confirm)
}

impl Published {
    fn answered(self, confirmation: lapin::Result<Confirmation>) -> Answered {
        let Self { fingerprint, answer, routing_key, is_reply } = self;
        let (verdict, returned) = match confirmation {
            Ok(Confirmation::Ack(returned)) => (Verdict::Taken, returned),
            Ok(Confirmation::Nack(returned)) => (Verdict::Refused, returned),
            Ok(Confirmation::NotRequested) => (Verdict::Unasked, None),
            Err(error) => (Verdict::Lost(error), None),
        };
        Answered { fingerprint, verdict, returned: returned.map(Box::new), answer, routing_key, is_reply }
    }
}

/// Answers what the broker has answered; an error means that the channel is lost.
fn settle(first: Answered, underway: &mut Underway<'_>, returns: &mut Returns) -> Result<(), lapin::Error> {
    let mut known = vec![first];
    underway.take_ready(&mut known);
    while !known.is_empty() {
        returns.barrier(underway.channel);
        let mut next = Vec::new();
        underway.take_ready(&mut next);
        // Taken out, so that it is noted once: it may be another message than the one that it came with.
        for returned in known.iter_mut().chain(&mut next).filter_map(|answered| answered.returned.take()) {
            returns.note(&returned);
        }
        for answered in known {
            let fate = match answered.verdict {
                _ if returns.claim(answered.fingerprint) => {
                    Err(PublishError::Unroutable { route: answered.routing_key.as_str().to_owned() })
                }
                Verdict::Taken => Ok(()),
                // Full, mostly, as its owner wants it: sent again and again it would hold its task here, and with many
                // such tasks those of others.
                Verdict::Refused if answered.is_reply => {
                    Err(PublishError::Refused("its reply queue takes no more".to_owned()))
                }
                Verdict::Refused => Err(unavailable("the broker refused the message: its queue is full or in trouble")),
                Verdict::Unasked => Err(unavailable("the channel does not confirm")),
                Verdict::Lost(error) => {
                    for answer in std::iter::once(answered.answer).chain(next.into_iter().map(|next| next.answer)) {
                        drop(answer.send(Err(unavailable(&error.to_string()))));
                    }
                    return Err(error);
                }
            };
            drop(answered.answer.send(fate));
        }
        known = next;
    }
    Ok(())
}

/// Everything in flight fails with the channel: whether the broker has it is unknown.
async fn fail_all(error: lapin::Error, mut underway: Underway<'_>) -> String {
    /// The driver fails all confirms of a dead channel at once; this is for the one that it forgets.
    const FORGOTTEN: Duration = Duration::from_secs(1);
    let reason = error.to_string();
    while let Ok(Some(answered)) = tokio::time::timeout(FORGOTTEN, underway.next()).await {
        drop(answered.answer.send(Err(unavailable(&reason))));
    }
    reason
}

fn unavailable(reason: &str) -> PublishError {
    PublishError::Unavailable(BrokerError(reason.to_owned()))
}
