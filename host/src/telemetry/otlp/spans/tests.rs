use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use prost::Message as _;

use super::*;

/// Sends three spans to the collector at that address, by threads that may have ended, and says what is counted as
/// left and as lost.
fn sent(url: &str, threads: Handle) -> (u64, u64) {
    let metrics = ExportMetrics::new(&Registry::new()).unwrap();
    let target =
        Target { url: url.parse().unwrap(), headers: http::HeaderMap::new(), timeout: Duration::from_secs(60) };
    let batching = Batching { spans_max: 8, batch_spans_max: 8, delay: Duration::from_secs(300) };
    let resource = Resource::builder_empty().build();
    let export = SpanExport::start(&target, batching, resource, metrics.clone(), threads).unwrap();
    let tracer = export.tracer();
    for _ in 0..3 {
        drop(tracer.start(None, Kind::Internal, "x".into()).unwrap());
    }
    export.flush(Duration::from_secs(120));
    (metrics.0.with_label_values(&[""]).get(), metrics.0.with_label_values(&[REFUSED]).get())
}

#[test]
fn spans_whose_sending_is_broken_off_are_lost_and_counted() {
    let ended = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let threads = ended.handle().clone();
    drop(ended);
    assert_eq!(sent("http://127.0.0.1:1", threads), (0, 3));
}

#[test]
fn spans_that_a_collector_leaves_are_lost_and_the_others_are_not() {
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = threads.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: String::new() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let answer = move || std::future::ready(([("content-type", "application/x-protobuf")], answer.clone()));
    let router = axum::Router::new().fallback(axum::routing::post(answer));
    threads.spawn(async move { axum::serve(listener, router).await.unwrap() });
    assert_eq!(sent(&url, threads.handle().clone()), (1, 2));
}
