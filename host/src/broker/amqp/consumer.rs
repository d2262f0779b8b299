//! Consuming queues: a channel of their own, remade for as long as the consumer is wanted.

mod live;
mod prefetch;
mod receipt;
mod registered;
mod session;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::AmqpConfig;
use super::link::{Backoff, Link};
use super::order::Order;
use crate::broker::topology::Declaration;
use crate::delivery::Delivery;
pub(super) use live::{Live, Part};
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
    /// Whether the broker has the consumer registered.
    pub(super) live: Part,
    /// Ends it.
    pub(super) stop: CancellationToken,
}

/// Keeps a consumer registered at the broker until it is stopped.
pub(super) async fn supervise<T, F: Fn(Delivery, &str) -> Option<T>>(
    mut source: Source<T, F>,
    link: Arc<Link>,
    config: Arc<AmqpConfig>,
    closing: CancellationToken,
) {
    let mut backoff = Backoff::new(&config);
    loop {
        let connection = tokio::select! {
            () = source.stop.cancelled() => return,
            connection = link.wait() => connection,
        };
        let began = Instant::now();
        let end = session::run(&connection, &mut source, &config, &closing).await;
        source.live.set(false);
        if let Some(order) = &source.order {
            order.lost();
        }
        drop(connection);
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
