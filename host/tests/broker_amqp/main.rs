//! The AMQP broker against a real RabbitMQ: the conformance suite, and what only a real broker can do to a host.
//!
//! Needs `AMQP_URL`; `cargo xtask test` starts a broker and sets it.

mod loss;
mod order;
mod raw;
mod relay;
mod server;
mod silent;
mod slow;

use std::time::Duration;

use agent_host::broker::amqp::fixture::AmqpFixture;
use agent_host::broker::amqp::{AmqpBroker, AmqpConfig};
use agent_host::broker::conformance::{Fixture, as_sent, wait_until, within};
use agent_host::broker::topology;
use agent_host::delivery::{Broker as _, Connectivity, Message, PublishError, QueueDepth, Route};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

agent_host::broker_conformance!(AmqpFixture::connect().await);

fn message(id: &str) -> Message {
    Message { message_id: Some(id.to_owned()), ..Message::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn close_tells_the_broker_of_every_finished_task() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    fixture.broker().declare(&agent).await.unwrap();
    for n in 0..20 {
        fixture.broker().publish(Route::Agent(agent.clone()), message(&format!("m{n}"))).await.unwrap();
    }
    let mut consumer = fixture.broker().consume(&agent, 20).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(within("a delivery", consumer.deliveries.recv()).await.unwrap());
    }
    let unfinished = held.remove(7);
    for delivery in held {
        delivery.receipt.acknowledge();
    }
    within("the close", fixture.broker().close()).await;

    let after = AmqpBroker::connect(AmqpConfig::new(AmqpFixture::url())).await.unwrap();
    assert_eq!(after.depth(&agent).await.unwrap(), QueueDepth { ready: 1, dead: 0 });
    let mut consumer = after.consume(&agent, 20).await.unwrap();
    let left = within("the unfinished one", consumer.deliveries.recv()).await.unwrap();
    assert_eq!(as_sent(&left.message), unfinished.message);
    // From before the close: void, and spending it does no harm.
    unfinished.receipt.acknowledge();
    left.receipt.acknowledge();
    after.close().await;
    fixture.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_comes_back_after_its_queue_was_deleted() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    let mut consumer = fixture.broker().consume(&agent, 5).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    consumer.live.mark_unchanged();
    let channel = fixture.channel().await;
    let queue = topology::task_queue(&agent);
    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    // Whether or not the moment without a consumer was seen: it is followed by one with a consumer.
    within("a change", consumer.live.changed()).await.unwrap();
    within("live again", consumer.live.wait_for(|live| *live)).await.unwrap();
    fixture.broker().publish(Route::Agent(agent.clone()), message("m")).await.unwrap();
    within("a delivery", consumer.deliveries.recv()).await.unwrap().receipt.acknowledge();
    fixture.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_goes_on_after_a_delay_queue_was_deleted() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    fixture.broker().declare(&agent).await.unwrap();
    // A delay of its own, so that no other test's messages lie in it.
    let delay = Duration::from_secs(29 * 24 * 60 * 60);
    let route = Route::Delayed(agent.clone(), delay);
    fixture.broker().publish(route.clone(), message("m")).await.unwrap();
    let bucket = topology::Bucket::for_delay(delay).name();
    let channel = fixture.channel().await;
    channel.exchange_delete(bucket.as_str().into(), lapin::options::ExchangeDeleteOptions::default()).await.unwrap();
    let lost = fixture.broker().publish(route.clone(), message("m")).await;
    assert!(matches!(lost, Err(PublishError::Unavailable(_))), "{lost:?}");
    let again = || async {
        match fixture.broker().publish(route.clone(), message("m")).await {
            Err(PublishError::Unavailable(_)) => None,
            published => Some(published),
        }
    };
    wait_until("publishing again", again).await.unwrap();
    channel.queue_delete(bucket.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    fixture.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_beyond_the_longest_goes_round() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    fixture.broker().declare(&agent).await.unwrap();
    // As it comes out of the longest delay queue: with time left to wait.
    let until_ms = agent_host::task::unix_ms_now() + 400;
    let mut early = message("m");
    early.headers.insert("x-not-before".to_owned(), until_ms.into());
    fixture.broker().publish(Route::Agent(agent.clone()), early).await.unwrap();
    let mut consumer = fixture.broker().consume(&agent, 1).await.unwrap();
    let delivery = within("the delivery", consumer.deliveries.recv()).await.unwrap();
    assert!(agent_host::task::unix_ms_now() >= until_ms);
    delivery.receipt.acknowledge();
    fixture.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_amqp_cannot_carry_is_refused_and_harms_nobody() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    fixture.broker().declare(&agent).await.unwrap();
    let route = Route::Agent(agent.clone());
    let too_large = Message { body: vec![0; 17 * 1024 * 1024].into(), ..message("large") };
    let long_name = Message { content_type: Some("x".repeat(256)), ..message("long") };
    let mut many_headers = message("many");
    many_headers.headers.insert("h".to_owned(), "x".repeat(200_000).into());
    for refused in [too_large, long_name, many_headers] {
        let verdict = fixture.broker().publish(route.clone(), refused).await;
        assert!(matches!(verdict, Err(PublishError::Refused(_))), "{verdict:?}");
    }
    fixture.broker().publish(route, message("fine")).await.unwrap();
    fixture.clean_up().await;
}

/// The driver's numbers of channels come round, also those of channels that died: see its CHANGES.md in `vendor/`.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_was_refused_something_leaves_its_number_to_others() {
    const CHANNELS_MAX: usize = 4;
    let separator = if AmqpFixture::url().contains('?') { '&' } else { '?' };
    let url = format!("{}{separator}channel_max={CHANNELS_MAX}", AmqpFixture::url());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let missing = format!("test-{}", uuid::Uuid::new_v4());
    for _ in 0..3 * CHANNELS_MAX {
        let channel = within("a channel", connection.create_channel()).await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let looked_for = channel.queue_declare(missing.as_str().into(), options, FieldTable::default());
        within("a refusal", looked_for).await.unwrap_err();
    }
    connection.close(200, "done".into()).await.unwrap();
}

/// A queue that takes no more: of a reply that is its owner's business, and the message is not to be sent again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_its_queue_rejects_is_refused_for_good() {
    let fixture = AmqpFixture::connect().await;
    let channel = fixture.channel().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), lapin::types::AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), lapin::types::AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, arguments).await.unwrap();
    let route = Route::Reply(queue.name().as_str().to_owned());
    fixture.broker().publish(route.clone(), message("all that fits")).await.unwrap();
    for _ in 0..3 {
        let refused = fixture.broker().publish(route.clone(), message("one more")).await;
        assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
    }
    // And nothing else is refused because of it.
    let (other, mut replies) = fixture.reply_queue().await;
    fixture.broker().publish(Route::Reply(other), message("another's")).await.unwrap();
    assert_eq!(within("the other reply", replies.recv()).await.unwrap(), message("another's"));
    fixture.clean_up().await;
}

/// Messages of a foreign client with every AMQP field type, through raw frames of another library's making.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_arrive() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    fixture.broker().declare(&agent).await.unwrap();
    let channel = fixture.channel().await;
    let mut headers = FieldTable::default();
    headers.insert("n".into(), lapin::types::AMQPValue::ShortShortUInt(7));
    headers.insert("bad".into(), lapin::types::AMQPValue::LongString(vec![0xff, 0xfe].into()));
    let properties = BasicProperties::default().with_headers(headers).with_content_encoding("gzip".into());
    let (exchange, key) = (topology::TASKS_EXCHANGE.into(), agent.as_str().into());
    channel.basic_publish(exchange, key, BasicPublishOptions::default(), &[0xff, 0x00], properties).await.unwrap();
    let mut consumer = fixture.broker().consume(&agent, 1).await.unwrap();
    let delivery = within("the delivery", consumer.deliveries.recv()).await.unwrap();
    let task = agent_host::delivery::envelope::parse(&agent, &delivery.message, 5).unwrap();
    let expected = [("content-encoding", "gzip"), ("n", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(task.headers, expected);
    assert_eq!(task.body.as_ref(), [0xff, 0x00]);
    delivery.receipt.acknowledge();
    fixture.clean_up().await;
}

/// Header tables that no decent client sends: each arrives as a message, and the connection stands.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_header_tables_arrive() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    let mut consumer = fixture.broker().consume(&agent, 5).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    let mut client = raw::Client::connect(&AmqpFixture::url()).await;
    for depth in [10, 1_000, 26_000] {
        client.publish(agent.as_str(), &raw::entry(b"deep", &raw::nested_arrays(depth)), b"").await;
    }
    client.publish(agent.as_str(), &raw::entry(b"\xff\xfe", b"I\0\0\0\x07"), b"").await;
    client.publish(agent.as_str(), b"", b"\xff\xff").await;
    for _ in 0..5 {
        let delivery = within("a delivery", consumer.deliveries.recv()).await.unwrap();
        assert!(!delivery.redelivered);
        delivery.receipt.acknowledge();
    }
    fixture.clean_up().await;
}

#[tokio::test]
async fn a_connect_that_fails_says_what_to_check() {
    let url = AmqpFixture::url();
    let uri: lapin::uri::AMQPUri = url.parse().unwrap();
    let (host, port) = (uri.authority.host, uri.authority.port);
    for (url, expected) in [
        ("amqp://user:hunter2@127.0.0.1:1/%2f".to_owned(), "127.0.0.1:1 refused the connection: is RabbitMQ running"),
        (format!("amqp://nobody:hunter2@{host}:{port}/%2f"), "check user and password"),
        (format!("amqp://guest:guest@{host}:{port}/hunter2-vhost"), "check that it exists"),
        ("hunter2 is no url".to_owned(), "expected amqp://user:password@host:port/vhost"),
        ("amqp://user:hunter2@no-such-host.invalid:5672".to_owned(), "check host and port"),
    ] {
        let failed = AmqpBroker::connect(AmqpConfig::new(url)).await.err().expect("no connection").to_string();
        assert!(failed.contains(expected), "{failed}");
        assert!(!failed.contains("hunter2@") && !failed.contains(":hunter2"), "{failed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn predeclared_declares_nothing_and_says_what_is_missing() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    let config = AmqpConfig { predeclared: true, ..AmqpConfig::new(AmqpFixture::url()) };
    let broker = AmqpBroker::connect(config).await.unwrap();
    let missing = broker.declare(&agent).await.unwrap_err().to_string();
    assert!(missing.contains(&format!("queue agent.{agent} does not exist")), "{missing}");
    assert!(missing.contains("x-queue-type=quorum"), "{missing}");
    assert!(broker.depth(&agent).await.is_err());
    fixture.broker().declare(&agent).await.unwrap();
    broker.declare(&agent).await.unwrap();
    broker.close().await;
    fixture.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_an_error_that_names_it() {
    let fixture = AmqpFixture::connect().await;
    let agent = fixture.agent();
    let channel = fixture.channel().await;
    let queue = topology::task_queue(&agent);
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
    let refused = fixture.broker().declare(&agent).await.unwrap_err().to_string();
    assert!(refused.contains(&queue) && refused.contains("x-queue-type=quorum"), "{refused}");
    fixture.clean_up().await;
}

/// The broker closes a connection under load: everything in flight is told, and all comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_remade() {
    let relay = relay::Relay::start(&AmqpFixture::url()).await;
    let fixture = AmqpFixture::with(AmqpConfig::new(relay.url())).await;
    let agent = fixture.agent();
    let direct = Connection::connect(&AmqpFixture::url(), ConnectionProperties::default()).await.unwrap();
    let mut consumer = fixture.broker().consume(&agent, 5).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    fixture.broker().publish(Route::Agent(agent.clone()), message("before")).await.unwrap();
    let before = within("a delivery", consumer.deliveries.recv()).await.unwrap();
    let mut connectivity = fixture.broker().connectivity();

    relay.refuse();
    within("down", connectivity.wait_for(|state| *state == Connectivity::Down)).await.unwrap();
    within("not live", consumer.live.wait_for(|live| !live)).await.unwrap();
    let verdict = fixture.broker().publish(Route::Agent(agent.clone()), message("while down")).await;
    assert!(matches!(verdict, Err(PublishError::Unavailable(_))), "{verdict:?}");

    relay.allow();
    within("up", connectivity.wait_for(|state| *state == Connectivity::Up)).await.unwrap();
    within("live", consumer.live.wait_for(|live| *live)).await.unwrap();
    // From before the loss: void. The broker delivers the message again.
    before.receipt.acknowledge();
    let again = within("the redelivery", consumer.deliveries.recv()).await.unwrap();
    assert!(again.redelivered);
    assert_eq!(as_sent(&again.message), before.message);
    again.receipt.acknowledge();
    fixture.broker().publish(Route::Agent(agent.clone()), message("after")).await.unwrap();
    let mut after = within("a delivery", consumer.deliveries.recv()).await.unwrap();
    if after.message == message("while down") {
        // Unavailable means unknown: it may have left before its connection was cut, and only its confirm was lost.
        after.receipt.acknowledge();
        after = within("a delivery", consumer.deliveries.recv()).await.unwrap();
    }
    assert_eq!(after.message, message("after"));
    after.receipt.acknowledge();

    fixture.broker().close().await;
    let channel = direct.create_channel().await.unwrap();
    for queue in [topology::task_queue(&agent), topology::dead_letter_queue(&agent)] {
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }
}
