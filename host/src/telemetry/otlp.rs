//! OTLP: traces and metrics to a collector, as protobuf over HTTP.
//!
//! Nobody waits for a collector. Spans that have ended lie in a bounded queue, from which the SDK's own thread takes them in
//! batches; a span for which there is no place is counted and dropped. Metrics are read and sent by a task of the I/O
//! runtime. A collector that is away is noted in the log once a minute.

mod client;
mod metrics;
mod settings;
mod spans;

pub use client::OtlpError;
pub use settings::{Batching, OtlpSettings, Target, collector};
pub use spans::{ExportMetrics, SpanExport};

use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::resource::v1::Resource as WireResource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use prometheus::proto::MetricFamily;
use tokio_util::sync::CancellationToken;

use self::client::{Client, Health};

/// The host of this name, with what the environment says of it.
#[must_use]
pub fn resource(host: &str, attributes: &[(String, String)]) -> Resource {
    let own = [
        KeyValue::new("service.name", "agent-host"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", host.to_owned()),
    ];
    let said = attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    // The later of two of a name holds.
    Resource::builder_empty().with_attributes(own).with_attributes(said).build()
}

fn wire_resource(resource: &Resource) -> WireResource {
    let attributes = ResourceAttributesWithSchema::from(resource).attributes.0;
    WireResource { attributes, ..WireResource::default() }
}

/// Pushes the metrics of the process's registry, as they are at `/metrics`.
pub struct MetricPush {
    client: Client,
    resource: WireResource,
    every: Duration,
    since: SystemTime,
}

impl MetricPush {
    /// To this collector, of what this resource is; counters count from now on.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(target: &Target, every: Duration, resource: &Resource) -> Result<Self, OtlpError> {
        let resource = wire_resource(resource);
        Ok(Self { client: Client::new(target)?, resource, every, since: SystemTime::now() })
    }

    /// Pushes every so often until it is told to end, and then once more.
    pub async fn run(self, gather: impl Fn() -> Vec<MetricFamily>, stop: CancellationToken) {
        let health = Health::new("metrics");
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first is there at once, and nothing to tell of yet.
        ticks.tick().await;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let pushing = self.push(&gather);
            match stop.run_until_cancelled(pushing).await {
                Some(pushed) => health.note(pushed.as_ref().err(), 0),
                None => break,
            }
        }
        if let Err(error) = self.push(&gather).await {
            health.note(Some(&error), 0);
        }
    }

    async fn push(&self, gather: &impl Fn() -> Vec<MetricFamily>) -> Result<(), OtlpError> {
        let metrics = metrics::of_families(&gather(), self.since, SystemTime::now());
        let request = ExportMetricsServiceRequest { resource_metrics: vec![metrics::of_host(&self.resource, metrics)] };
        self.client.post::<ExportMetricsServiceResponse>(&request).await
    }
}
