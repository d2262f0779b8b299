//! A collector in the tests' own process, and what it was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as AnyValue};
use opentelemetry_proto::tonic::metrics::v1::metric;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use prost::Message;
use tokio::net::TcpListener;

use crate::common::wait_until;

/// A collector of this process: what it was sent, over a socket.
#[derive(Clone, Default)]
pub(super) struct Collector {
    pub(super) got: Arc<Mutex<Got>>,
}

#[derive(Default)]
pub(super) struct Got {
    pub(super) spans: Vec<Span>,
    pub(super) resources: Vec<BTreeMap<String, String>>,
    pub(super) metrics: BTreeMap<String, metric::Data>,
    pub(super) headers: Vec<HeaderMap>,
}

impl Collector {
    pub(super) async fn start() -> (Self, String) {
        let collector = Self::default();
        let router = Router::new()
            .route("/v1/traces", post(traces))
            .route("/v1/metrics", post(metrics))
            .with_state(collector.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (collector, url)
    }

    /// The spans of a trace, once there are enough of them.
    pub(super) async fn spans(&self, trace: &str, enough: usize) -> Tree {
        let trace = bytes(trace);
        let spans = wait_until("the trace is there", async || {
            let got = self.got.lock().unwrap();
            let spans: Vec<_> = got.spans.iter().filter(|span| span.trace_id == trace).cloned().collect();
            (spans.len() >= enough).then_some(spans)
        });
        Tree(spans.await)
    }
}

async fn traces(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut got = collector.got.lock().unwrap();
    got.headers.push(headers);
    for of_resource in request.resource_spans {
        got.resources.push(texts(&of_resource.resource.unwrap().attributes));
        got.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    StatusCode::OK
}

async fn metrics(State(collector): State<Collector>, body: Bytes) -> StatusCode {
    let request = ExportMetricsServiceRequest::decode(body).unwrap();
    let mut got = collector.got.lock().unwrap();
    let scopes = request.resource_metrics.into_iter().flat_map(|of_resource| of_resource.scope_metrics);
    for metric in scopes.flat_map(|scope| scope.metrics) {
        got.metrics.insert(metric.name, metric.data.unwrap());
    }
    StatusCode::OK
}

pub(super) fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        AnyValue::StringValue(text) => Some(text.clone()),
        AnyValue::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute).unwrap())).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One trace.
pub(super) struct Tree(pub(super) Vec<Span>);

impl Tree {
    pub(super) fn find(&self, name: &str, kind: SpanKind) -> &Span {
        let named: Vec<_> = self.0.iter().filter(|span| span.name == name).collect();
        let [span] = named[..] else { panic!("{} {name} among {:#?}", named.len(), self.0) };
        assert_eq!(span.kind, kind as i32, "{span:?}");
        span
    }

    /// The span of this name right below another.
    pub(super) fn below(&self, parent: &Span, name: &str, kind: SpanKind) -> &Span {
        let children = self.0.iter().filter(|span| span.parent_span_id == parent.span_id);
        let named: Vec<_> = children.filter(|span| span.name == name).collect();
        let [span] = named[..] else { panic!("{} {name} below {} among {:#?}", named.len(), parent.name, self.0) };
        assert_eq!(span.kind, kind as i32, "{span:?}");
        assert!(span.start_time_unix_nano >= parent.start_time_unix_nano, "{name} begins before {}", parent.name);
        span
    }
}
