//! What leaves for a collector: traces, and the metrics that are also at `/metrics`.

use std::time::Duration;

use prometheus::Registry;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::internal;
use super::observe::Observer;
use crate::cli::StartError;
use crate::config::{Backend, Config};
use crate::telemetry::{ExportMetrics, MetricPush, SpanExport, resource};
use crate::trace::{Systems, Traces};

/// How long the last spans and metrics may take at the end.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// The ways to a collector that the configuration names; none of them where it names none.
#[derive(Default)]
pub(super) struct Export {
    spans: Option<SpanExport>,
    metrics: Option<MetricPush>,
    pushing: Option<JoinHandle<()>>,
    stop: CancellationToken,
    /// Where spans begin.
    pub(super) traces: Traces,
}

impl Export {
    /// Starts what is configured, for the host of this name.
    pub(super) fn start(config: &Config, registry: &Registry, host: &str) -> Result<Self, StartError> {
        let mut export = Self::default();
        let Some(otlp) = &config.otlp else { return Ok(export) };
        let client = |error| internal("making a client of the collector", error);
        let resource = resource(host, &otlp.attributes);
        if let Some(target) = &otlp.traces {
            let metrics = ExportMetrics::new(registry).map_err(|error| internal("registering metrics", error))?;
            let (resource, threads) = (resource.clone(), Handle::current());
            let spans = SpanExport::start(target, otlp.batching, resource, metrics, threads).map_err(client)?;
            export.traces = Traces::new(spans.tracer(), systems(config));
            export.spans = Some(spans);
            tracing::info!(url = %target.url, "traces go to a collector");
        }
        if let Some(target) = &otlp.metrics {
            export.metrics = Some(MetricPush::new(target, otlp.metric_interval, &resource).map_err(client)?);
            tracing::info!(url = %target.url, "metrics go to a collector");
        }
        Ok(export)
    }

    /// Pushes metrics from now on.
    pub(super) fn push(&mut self, observer: Observer) {
        let stop = self.stop.clone();
        let metrics = self.metrics.take();
        self.pushing = metrics.map(|metrics| tokio::spawn(metrics.run(move || observer.gather(), stop)));
    }

    /// Sends what is left, and ends; what a collector does not take within a few seconds is lost.
    pub(super) async fn close(self) {
        self.stop.cancel();
        let flushing = self.spans.map(|spans| tokio::task::spawn_blocking(move || spans.flush(FLUSH_MAX)));
        let ended = async {
            if let Some(pushing) = self.pushing {
                drop(pushing.await);
            }
            if let Some(flushing) = flushing {
                drop(flushing.await);
            }
        };
        if tokio::time::timeout(FLUSH_MAX, ended).await.is_err() {
            tracing::warn!("the collector does not take what was left; it is lost");
        }
    }
}

/// What the host stands on, by its configuration.
fn systems(config: &Config) -> Systems {
    let is_embedded = |backend: &Backend| *backend == Backend::Embedded;
    Systems {
        broker: if is_embedded(&config.broker) { "agent_host.embedded" } else { "rabbitmq" },
        store: if is_embedded(&config.cache) { "memory" } else { "redis" },
    }
}
