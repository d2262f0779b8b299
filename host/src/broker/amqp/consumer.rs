//! Consuming queues: a channel of their own, remade for as long as the consumer is wanted.

mod hand;
mod live;
mod prefetch;
mod receipt;
mod registered;
mod session;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::link::{Backoff, Link};
use super::order::Order;
use super::{AmqpConfig, declare};
use crate::broker::topology::Declaration;
use crate::delivery::{BrokerError, Delivery};
pub(super) use hand::Hand;
pub(super) use live::{Live, Part};
use registered::Asking;
use session::End;

/// What to consume, and where deliveries go.
pub(super) struct Source<T, F: Fn(Delivery, &str) -> Option<T>> {
    /// What logs call it.
    pub(super) name: String,
    /// The queues.
    pub(super) queues: Vec<String>,
    /// Most unsettled deliveries of each. Where there is no order to keep, fewer while they are large.
    pub(super) prefetch: u16,
    /// What has to exist for them.
    pub(super) declarations: Vec<Declaration>,
    /// Makes what is handed over of a delivery and its routing key, or keeps the delivery to itself.
    pub(super) accept: F,
    /// Takes them, until the consumer is stopped.
    pub(super) deliveries: Option<mpsc::Sender<T>>,
    /// Where `accept` keeps deliveries whose turn has not come. Such a consumer stays registered, and so the only one of
    /// its queues, until every delivery that is out is settled.
    pub(super) order: Option<Arc<Order>>,
    /// What its agent has in hand, with this and with other consumers.
    pub(super) hand: Hand,
    /// Whether the broker has the consumer registered.
    pub(super) live: Part,
    /// Ends it.
    pub(super) stop: CancellationToken,
}

/// The connections that a consumer needs.
#[derive(Clone)]
pub(super) struct Links {
    pub(super) consuming: Arc<Link>,
    /// Apart, so that what is asked there is not behind bodies that are on their way.
    pub(super) declaring: Arc<Link>,
}

impl Links {
    async fn stand(&self) {
        drop((self.consuming.wait().await, self.declaring.wait().await));
    }
}

/// Keeps a consumer registered at the broker until it is stopped.
pub(super) async fn supervise<T, F: Fn(Delivery, &str) -> Option<T>>(
    mut source: Source<T, F>,
    links: Links,
    config: Arc<AmqpConfig>,
    closing: CancellationToken,
) {
    let mut backoff = Backoff::new(&config);
    loop {
        tokio::select! {
            () = source.stop.cancelled() => return,
            () = links.stand() => {}
        }
        let began = Instant::now();
        let end = consume(&mut source, &links, &config, &closing).await;
        source.live.set(false);
        if let Some(order) = &source.order {
            order.lost();
        }
        match end {
            Ok(End::Stopped) => return,
            Ok(End::Lost(reason)) => {
                tracing::warn!(consumer = source.name, reason, "lost a consumer; remaking it");
            }
            Err(error) => {
                tracing::warn!(consumer = source.name, %error, "queues could not be consumed; trying again");
            }
        }
        if began.elapsed() > config.reconnect_max {
            backoff.reset();
        }
        tokio::select! {
            () = source.stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

/// Consumes until the end of the channel or of the consumer.
async fn consume<T, F: Fn(Delivery, &str) -> Option<T>>(
    source: &mut Source<T, F>,
    Links { consuming, declaring }: &Links,
    config: &AmqpConfig,
    closing: &CancellationToken,
) -> Result<End, BrokerError> {
    declare::apply(&*declaring.wait().await, &source.declarations, config.predeclared).await?;
    let connection = consuming.wait().await;
    let began = async {
        let asking = Asking::open(&connection, Arc::clone(consuming.traffic())).await?;
        session::run(asking, source, &config.memory, closing).await
    };
    began.await.map_err(|error: lapin::Error| BrokerError(error.to_string()))
}
