//! Consuming a queue: a channel of its own, remade for as long as the consumer is wanted.

mod session;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::AmqpConfig;
use super::link::{Backoff, Link};
use crate::broker::topology::Declaration;
use crate::delivery::Delivery;
use session::End;

/// What to consume, and where deliveries go.
pub(super) struct Source<T, F: Fn(Delivery, &str) -> Option<T>> {
    /// The queue.
    pub(super) queue: String,
    /// Most unsettled deliveries.
    pub(super) prefetch: u16,
    /// What has to exist for it.
    pub(super) declarations: Vec<Declaration>,
    /// Makes what is handed over of a delivery and its routing key, or keeps the delivery to itself.
    pub(super) accept: F,
    /// Takes them, until the consumer is stopped.
    pub(super) deliveries: Option<mpsc::Sender<T>>,
    /// Whether the broker has the consumer registered.
    pub(super) live: watch::Sender<bool>,
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
        let end = session::run(&connection, &mut source, config.predeclared, &closing).await;
        source.live.send_replace(false);
        drop(connection);
        match end {
            Ok(End::Stopped) => return,
            Ok(End::Lost(reason)) => {
                tracing::warn!(queue = source.queue, reason, "lost a consumer; remaking it");
            }
            Err(error) => {
                tracing::warn!(queue = source.queue, %error, "a queue could not be consumed; trying again");
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
