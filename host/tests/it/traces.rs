//! Traces and metrics at a collector: one tree from the sender to the result, as OTLP, and a collector that is away.

mod collector;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::HeaderMap;
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};

use self::collector::{Collector, hex, texts};
use super::common::{HostBuilder, wait_until};
use super::fleet::Fleet;
use super::operate::{echo, manifest};
use super::scripts::{CACHE, KEY_VALUE, SQL, deploy, metric, script, sql, unique};

/// The trace and the span of whoever sends a task.
const SENDER: (&str, &str) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");

fn sender() -> String {
    format!("00-{}-{}-01", SENDER.0, SENDER.1)
}

fn traceparent(reply: &Delivery) -> String {
    let headers = reply.properties.headers().as_ref().unwrap();
    headers.inner().get("traceparent").and_then(AMQPValue::as_long_string).unwrap().to_string()
}

fn is_an_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == SpanStatus::Error as i32)
}

/// A server for agents; it answers with the `traceparent` of its only request.
async fn server() -> (u16, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let router = Router::new().fallback(async move |headers: HeaderMap| {
        let traceparent = headers.get("traceparent").unwrap().to_str().unwrap().to_owned();
        tell.lock().unwrap().take().unwrap().send(traceparent).unwrap();
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (port, told)
}

/// A host that sends to a collector. It has no others beside it, which would take its tasks and tell their own collectors.
fn traced(host: HostBuilder, collector: &str) -> HostBuilder {
    host.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_the_client_to_the_follow_up() {
    let (collector, url) = Collector::start().await;
    let fleet = Fleet::start().await;
    let host = traced(fleet.host(), &url)
        .env("OTEL_SERVICE_NAME", "orders")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=se%20cret")
        .start()
        .await;
    let (name, next) = (unique("traced"), unique("next"));
    assert_eq!(host.deploy(&next, &manifest(&next, "echoes"), echo()).await.status(), 201);
    let (port, asked) = server().await;
    let grants = [
        SQL,
        KEY_VALUE,
        CACHE,
        &format!("tasks = [\"{next}\"]"),
        &format!("allowed_outbound_hosts = [\"http://127.0.0.1:{port}\"]"),
    ];
    deploy(&host, &name, 2, &grants, "CREATE TABLE effects (id text);").await;
    let steps = [
        sql("INSERT INTO effects VALUES ($1)"),
        json!({ "cache": "hunter2" }),
        json!({ "key-value": "hunter2" }),
        json!({ "submit": next }),
        json!({ "get": format!("http://127.0.0.1:{port}/hunter2?token=hunter2") }),
        json!({ "say": "hello" }),
    ];
    let answer = host
        .client()
        .post(host.url(&format!("/v1/agents/{name}/tasks")))
        .header("traceparent", sender())
        .header("prefer", "wait=60")
        .body(script(&steps))
        .send()
        .await
        .unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "[1,1,1,1,200]".to_owned()));

    let tree = collector.spans(SENDER.0, 16).await;
    let server = tree.find("POST /v1/agents/{agent}/tasks", SpanKind::Server);
    assert_eq!(hex(&server.parent_span_id), SENDER.1);
    let publish = tree.below(server, &format!("publish agent.{name}"), SpanKind::Producer);
    let process = tree.below(publish, &format!("process agent.{name}"), SpanKind::Consumer);
    tree.below(process, "instantiate", SpanKind::Internal);
    let run = tree.below(process, "run", SpanKind::Internal);
    let execute = tree.below(run, "execute sql", SpanKind::Client);
    tree.below(run, "increment cache", SpanKind::Client);
    tree.below(run, "increment key-value", SpanKind::Client);
    let create = tree.below(run, &format!("create agent.{next}"), SpanKind::Producer);
    let get = tree.below(run, "GET", SpanKind::Client);
    tree.below(process, "commit sql", SpanKind::Client);
    let settle = tree.below(process, "settle", SpanKind::Internal);
    assert!(settle.end_time_unix_nano <= process.end_time_unix_nano);
    // The follow-up left in its creator's trace.
    let followed = tree.below(create, &format!("process agent.{next}"), SpanKind::Consumer);
    tree.below(followed, "run", SpanKind::Internal);
    assert_eq!(tree.0.len(), 16, "{:#?}", tree.0);
    // The server that the agent asked sees the call.
    assert_eq!(asked.await.unwrap(), format!("00-{}-{}-01", SENDER.0, hex(&get.span_id)));

    let process = texts(&process.attributes);
    for (key, value) in [
        ("messaging.system", "rabbitmq"),
        ("messaging.destination.name", &format!("agent.{name}")),
        ("agent_host.agent", &name),
        ("agent_host.revision", "1"),
        ("agent_host.attempt", "1"),
        ("agent_host.outcome", "succeeded"),
    ] {
        assert_eq!(process.get(key).map(String::as_str), Some(value), "{key} of {process:?}");
    }
    assert_eq!(texts(&execute.attributes)["db.system.name"], "postgresql");
    assert_eq!(texts(&get.attributes)["http.response.status_code"], "200");
    assert!(!tree.0.iter().any(is_an_error), "{:#?}", tree.0);
    // Nothing that an agent or a sender said is in it: no statement, no key, no path.
    let whole = format!("{:?}", tree.0);
    assert!(!whole.contains("hunter2") && !whole.contains("INSERT") && !whole.contains("hello"), "{whole}");

    drop(host);
    fleet.end().await;
    let got = collector.got.lock().unwrap();
    assert!(got.resources.iter().all(|resource| resource["service.name"] == "orders"
        && resource["deployment.environment.name"] == "test"
        && resource["service.instance.id"].contains(':')));
    assert!(got.headers.iter().all(|headers| headers["x-key"] == "se cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_on_amqp_finds_its_trace_in_the_reply_and_a_retry_stays_in_it() {
    let (collector, url) = Collector::start().await;
    let fleet = Fleet::start().await;
    let mut host = traced(fleet.host(), &url).start().await;
    let name = unique("retried");
    let twice = manifest(&name, "fails once").replace("max_attempts = 1", "max_attempts = 3\ninitial = \"10ms\"");
    assert_eq!(host.deploy(&name, &twice, super::operate::fixtures()).await.status(), 201);
    let connection = Connection::connect(fleet.broker.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let replies = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
    let replies = replies.name().as_str().to_owned();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consuming = channel.basic_consume(replies.as_str().into(), "".into(), options, FieldTable::default());
    let mut consumer = consuming.await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(sender().into()));
    let properties = BasicProperties::default()
        .with_message_id(unique("traced").into())
        .with_reply_to(replies.as_str().into())
        .with_headers(headers);
    let (exchange, key) = ("agents".into(), name.as_str().into());
    let body = json!({ "do": "succeed-at-attempt", "attempt": 2 }).to_string();
    channel.basic_publish(exchange, key, BasicPublishOptions::default(), body.as_bytes(), properties).await.unwrap();
    let reply = tokio::time::timeout(super::common::HANG, consumer.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(reply.data, b"ok");

    let tree = collector.spans(SENDER.0, 8).await;
    let mut attempts: Vec<_> = tree.0.iter().filter(|span| span.kind == SpanKind::Consumer as i32).collect();
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    let [first, second] = attempts[..] else { panic!("{attempts:#?}") };
    for attempt in [first, second] {
        assert_eq!(
            (attempt.name.as_str(), hex(&attempt.parent_span_id)),
            (&*format!("process agent.{name}"), SENDER.1.to_owned())
        );
    }
    let (of_first, of_second) = (texts(&first.attributes), texts(&second.attributes));
    assert_eq!((of_first["agent_host.attempt"].as_str(), of_first["error.type"].as_str()), ("1", "retry"));
    assert!(is_an_error(first) && !is_an_error(second));
    assert_eq!(
        (of_second["agent_host.attempt"].as_str(), of_second["agent_host.outcome"].as_str()),
        ("2", "succeeded")
    );
    // The reply is of the attempt that made it.
    assert_eq!(traceparent(&reply), format!("00-{}-{}-01", SENDER.0, hex(&second.span_id)));
    // A message that is no task is told of as well, and hurts nobody.
    let mut headers = FieldTable::default();
    headers.insert("x-attempt".into(), AMQPValue::LongString("none".into()));
    headers.insert("traceparent".into(), AMQPValue::LongString(sender().into()));
    let (exchange, key) = ("agents".into(), name.as_str().into());
    let properties = BasicProperties::default().with_reply_to(replies.as_str().into()).with_headers(headers);
    channel.basic_publish(exchange, key, BasicPublishOptions::default(), b"", properties).await.unwrap();
    let settled = format!("agent_settlements{{agent=\"{name}\",reason=\"malformed\",settlement=\"dead-letter\"}}");
    wait_until("the malformed message is settled", async || (metric(&host, &settled).await > 0).then_some(())).await;
    let malformed = wait_until("the malformed message is there", async || {
        let got = collector.got.lock().unwrap();
        let is_it = |span: &&Span| texts(&span.attributes).get("error.type").is_some_and(|kind| kind == "malformed");
        got.spans.iter().find(is_it).cloned()
    })
    .await;
    let reply = tokio::time::timeout(super::common::HANG, consumer.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(traceparent(&reply), format!("00-{}-{}-01", SENDER.0, hex(&malformed.span_id)));
    let log = host.log_to_its_end().await;
    let line = log.lines().find(|line| line.contains("a malformed message is dead-lettered")).unwrap();
    assert!(line.contains(SENDER.0), "{line}");
    assert!(!log.contains("collector takes") && !log.contains("do not reach"), "{log}");
    drop((host, channel, connection));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_calls_has_some_spans_and_the_log_line_its_trace() {
    const CALLS: usize = 150;
    let (collector, url) = Collector::start().await;
    let mut host = traced(HostBuilder::bare(), &url).env("AGENT_HOST_LOG", "json").start().await;
    let name = unique("loops");
    deploy(&host, &name, 2, &[CACHE], "").await;
    let mut steps = vec![json!({ "cache": "n" }); CALLS];
    steps.push(json!({ "say": "counted" }));
    host.run_json(&name, &json!({ "do": "script", "steps": steps })).await;
    // Its client began no trace, so the host did.
    let process = wait_until("the attempt is there", async || {
        let got = collector.got.lock().unwrap();
        got.spans.iter().find(|span| span.name == format!("process agent.{name}")).cloned()
    })
    .await;
    let trace = hex(&process.trace_id);
    let tree = collector.spans(&trace, 134).await;
    let calls = tree.0.iter().filter(|span| span.name == "increment cache").count();
    let run = tree.find("run", SpanKind::Internal);
    assert_eq!((calls, texts(&run.attributes)["agent_host.calls_without_span"].as_str()), (128, "22"));
    let log = host.log_to_its_end().await;
    let line = log.lines().find(|line| line.contains("counted")).unwrap();
    assert!(line.contains(&format!("\"trace_id\":\"{trace}\"")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_pushed_as_they_are_scraped() {
    let (collector, url) = Collector::start().await;
    // A proxy that is away: a collector of this machine is not sent to by way of one.
    let host = traced(HostBuilder::bare(), &url).env("OTEL_TRACES_EXPORTER", "none");
    let host = host.env("HTTP_PROXY", "http://127.0.0.1:1").start().await;
    let name = unique("pushed");
    assert_eq!(host.deploy(&name, &manifest(&name, "echoes"), echo()).await.status(), 201);
    host.run(&name, "text/plain", "x").await;
    let of_agent = |attributes: &[KeyValue]| texts(attributes).get("agent") == Some(&name);
    wait_until("the run is counted at the collector", async || {
        let got = collector.got.lock().unwrap();
        let Some(metric::Data::Sum(invocations)) = got.metrics.get("faas_invocations") else { return None };
        let point = invocations.data_points.iter().find(|point| of_agent(&point.attributes))?;
        (point.value == Some(opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::AsDouble(1.0)))
            .then_some(())
    })
    .await;
    let scraped = host.get("/metrics").await.unwrap().text().await.unwrap();
    let families = scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let is_there = |family: &str| collector.got.lock().unwrap().metrics.contains_key(family);
    for family in families {
        wait_until(family, async || is_there(family).then_some(())).await;
    }
    assert!(collector.got.lock().unwrap().spans.is_empty(), "traces are off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_nobody() {
    // Nobody listens there, nor can anybody else.
    let held = TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let mut host = traced(HostBuilder::bare(), &format!("http://{}", held.local_addr().unwrap()))
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "20")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
        .env("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
        .start()
        .await;
    let name = unique("alone");
    assert_eq!(host.deploy(&name, &manifest(&name, "echoes"), echo()).await.status(), 201);
    let lost = async |error_type: &str| {
        metric(&host, &format!("otel_sdk_exporter_span_exported{{error_type=\"{error_type}\"}}")).await
    };
    wait_until("the queue has been full, and a batch is given up", async || {
        assert_eq!(host.run(&name, "text/plain", "x").await.status(), 200);
        (lost("queue_full").await > 0 && lost("not_taken").await > 0).then_some(())
    })
    .await;
    assert_eq!(lost("").await, 0);
    let log = host.log_to_its_end().await;
    for said in ["spans do not reach the collector", "metrics do not reach the collector"] {
        assert!(log.contains(said), "{log}");
    }
    assert!(log.contains("drained"), "{log}");
}
