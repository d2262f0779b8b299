//! Spans on their way to a collector: OpenTelemetry's SDK behind the host's own tracer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use prometheus::{IntCounterVec, Registry, opts};
use tokio::runtime::Handle;

use super::client::{Client, Health};
use super::{Batching, OtlpError, Target};
use crate::trace::{Kind, Parent, Recording, RecordingSpan, Started, TraceContext, Tracer, Value};

/// What becomes of spans.
#[derive(Clone, Debug)]
pub struct ExportMetrics(IntCounterVec);

impl ExportMetrics {
    /// Registers the counter.
    ///
    /// # Errors
    /// A name that is registered already: a mistake in the host.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let spans = IntCounterVec::new(
            opts!("otel_sdk_exporter_span_exported", "Spans that left for the collector, or were lost."),
            &["error_type"],
        )?;
        registry.register(Box::new(spans.clone()))?;
        for error_type in ["", QUEUE_FULL, REFUSED] {
            spans.with_label_values(&[error_type]);
        }
        Ok(Self(spans))
    }

    fn count(&self, error_type: &str, spans: u64) {
        self.0.with_label_values(&[error_type]).inc_by(spans);
    }
}

/// There was no place left for a span.
const QUEUE_FULL: &str = "queue_full";
/// The collector did not take it.
const REFUSED: &str = "not_taken";

/// The way of spans to a collector. While it is there, so is the thread that sends them.
pub struct SpanExport {
    provider: SdkTracerProvider,
}

impl SpanExport {
    /// To this collector, of what this resource is. Requests run on `threads`. What the SDK reads of the environment about
    /// sampling holds.
    ///
    /// # Errors
    /// No client can be made.
    pub fn start(
        target: &Target,
        batching: Batching,
        resource: Resource,
        metrics: ExportMetrics,
        threads: Handle,
    ) -> Result<Self, OtlpError> {
        let Batching { spans_max, batch_spans_max, delay } = batching;
        let way = Arc::new(Way { waiting: AtomicUsize::new(0), spans_max, health: Health::new("spans"), metrics });
        let exporter = Exporter {
            client: Client::new(target)?,
            resource: ResourceAttributesWithSchema::from(&resource),
            way: Arc::clone(&way),
            threads,
        };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(spans_max)
            .with_max_export_batch_size(batch_spans_max)
            .with_scheduled_delay(delay)
            .build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_span_processor(Bounded { inner: batches, way })
            .build();
        Ok(Self { provider })
    }

    /// What makes spans that go this way.
    #[must_use]
    pub fn tracer(&self) -> Box<dyn Tracer> {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_version(env!("CARGO_PKG_VERSION"));
        Box::new(SdkSpans { tracer: self.provider.tracer_with_scope(scope.build()) })
    }

    /// Sends what waits, and ends. Blocks its thread, for `within` at most.
    pub fn flush(self, within: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(within) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}

/// The spans between their end and the collector.
#[derive(Debug)]
struct Way {
    waiting: AtomicUsize,
    spans_max: usize,
    health: Health,
    metrics: ExportMetrics,
}

/// Lets as many spans in as may wait, and counts the others: the SDK's own queue drops without a word.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    way: Arc<Way>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        let waiting = self.way.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting < self.way.spans_max {
            self.inner.on_end(span);
        } else {
            self.way.waiting.fetch_sub(1, Ordering::Relaxed);
            self.way.metrics.count(QUEUE_FULL, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }
}

/// Sends batches, one after the other. Called on the SDK's thread, which drives no sockets.
struct Exporter {
    client: Client,
    resource: ResourceAttributesWithSchema,
    way: Arc<Way>,
    threads: Handle,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("client", &self.client).finish_non_exhaustive()
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let client = self.client.clone();
        let request = ExportTraceServiceRequest { resource_spans };
        let posting = async move { client.post::<ExportTraceServiceResponse>(&request).await };
        let sent = self.threads.spawn(posting).await.unwrap_or_else(|error| Err(OtlpError::BrokenOff(error)));
        self.way.waiting.fetch_sub(spans, Ordering::Relaxed);
        let spans = spans as u64;
        let lost = sent.as_ref().err().map_or(0, |error| error.lost(spans));
        self.way.metrics.count("", spans - lost);
        self.way.metrics.count(REFUSED, lost);
        self.way.health.note(sent.as_ref().err(), lost);
        sent.map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = ResourceAttributesWithSchema::from(resource);
    }
}

/// Makes spans of the SDK, with the parents that the host says: its own idea of a current span stays unused.
#[derive(Debug)]
struct SdkSpans {
    tracer: SdkTracer,
}

impl Tracer for SdkSpans {
    fn start(&self, parent: Option<Parent>, kind: Kind, name: Cow<'static, str>) -> Option<Started> {
        let context = parent.map_or_else(Context::new, |Parent { context, is_remote }| {
            Context::new().with_remote_span_context(SpanContext::new(
                TraceId::from(context.trace_id().0),
                SpanId::from(context.span_id()),
                TraceFlags::new(context.flags()),
                is_remote,
                TraceState::NONE,
            ))
        });
        let builder = SpanBuilder::from_name(name).with_kind(span_kind(kind));
        let span = self.tracer.build_with_context(builder, &context);
        let own = span.span_context();
        let trace_id = u128::from_be_bytes(own.trace_id().to_bytes());
        let span_id = u64::from_be_bytes(own.span_id().to_bytes());
        // Without ids once the SDK is shut down.
        let own = TraceContext::new(trace_id, span_id, own.trace_flags().to_u8())?;
        Some((own, span.is_recording().then(|| Box::new(SdkSpan(span)) as Recording)))
    }
}

fn span_kind(kind: Kind) -> SpanKind {
    match kind {
        Kind::Server => SpanKind::Server,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
        Kind::Client => SpanKind::Client,
        Kind::Internal => SpanKind::Internal,
    }
}

/// One span of the SDK, which ends it when it is dropped.
struct SdkSpan(Span);

impl RecordingSpan for SdkSpan {
    fn set(&mut self, key: &'static str, value: Value) {
        let value = match value {
            Value::Text(text) => opentelemetry::Value::from(text),
            Value::Number(number) => opentelemetry::Value::from(number),
        };
        self.0.set_attribute(KeyValue::new(key, value));
    }

    fn fail(&mut self) {
        self.0.set_status(Status::error(""));
    }
}

#[cfg(test)]
mod tests;
