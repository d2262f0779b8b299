//! A broker with a clock: times how long others take to confirm what the host publishes.

use std::sync::Arc;

use prometheus::{Histogram, HistogramVec, Registry, exponential_buckets, histogram_opts};
use tokio::sync::watch;

use crate::delivery::{Broker, BrokerError, Connectivity, Consumer, Message, PublishError, QueueDepth, Route};
use crate::task::AgentName;

/// A broker whose publishing is timed, from the call to the confirm. Everything else passes through.
pub struct MeasuredBroker {
    inner: Arc<dyn Broker>,
    publish: Histogram,
}

impl MeasuredBroker {
    /// Registers the histogram.
    ///
    /// # Errors
    /// A name that is registered already: a mistake in the host.
    pub fn new(inner: Arc<dyn Broker>, registry: &Registry) -> prometheus::Result<Self> {
        let duration_seconds = HistogramVec::new(
            histogram_opts!(
                "messaging_client_operation_duration_seconds",
                "Operations of the broker: publish, to the confirm.",
                // 100 µs to 100 s, in steps of √10: a broker that syncs to a disk confirms in milliseconds, a blocked one
                // in the time that its alarm takes.
                exponential_buckets(1e-4, 10_f64.sqrt(), 13)?
            ),
            &["operation"],
        )?;
        registry.register(Box::new(duration_seconds.clone()))?;
        Ok(Self { inner, publish: duration_seconds.with_label_values(&["publish"]) })
    }
}

#[async_trait::async_trait]
impl Broker for MeasuredBroker {
    async fn declare(&self, agent: &AgentName) -> Result<(), BrokerError> {
        self.inner.declare(agent).await
    }

    async fn publish(&self, route: Route, message: Message) -> Result<(), PublishError> {
        // Observed when it is dropped: a publish that fails counts as well.
        let _timer = self.publish.start_timer();
        self.inner.publish(route, message).await
    }

    async fn consume(&self, agent: &AgentName, prefetch: u16) -> Result<Consumer, BrokerError> {
        self.inner.consume(agent, prefetch).await
    }

    async fn remove_dead_letters(
        &self,
        agent: &AgentName,
        unwanted: &(dyn for<'m> Fn(&'m Message) -> bool + Send + Sync),
    ) -> Result<Vec<Message>, BrokerError> {
        self.inner.remove_dead_letters(agent, unwanted).await
    }

    async fn depth(&self, agent: &AgentName) -> Result<QueueDepth, BrokerError> {
        self.inner.depth(agent).await
    }

    fn connectivity(&self) -> watch::Receiver<Connectivity> {
        self.inner.connectivity()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
